"""data.filter: which rows of a dataset are retained, by the values of their columns.

Called by grpo/tasks/rows.py before rows become problems: the reference answer of a row that is left out may be
unreadable. It does not know which columns hold question and answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from grpo.core.errors import UserError, listed, no_column, shorten
from grpo.tasks.columns import Row, find_value

Item = TypeVar("Item")


class RowFilter:
    """Retains the rows in which each column has one of the wanted values: null, or compared as text, 5 is '5'."""

    def __init__(self, wanted: Mapping[str, Any] | None) -> None:
        self.wanted = {
            column: value if isinstance(value, list) else [value] for column, value in (wanted or {}).items()
        }
        self.columns: dict[str, None] = {}
        self.seen: dict[str, dict[str, None]] = {column: {} for column in self.wanted}  # sets in the order of the rows

    def before(self, parse: Callable[[Row], Item]) -> Callable[[Row], Item | None]:
        """`parse` for the retained rows; the function gives None for the others."""
        return lambda row: parse(row) if self.retains(row) else None

    def require(self, items: Sequence[Item | None]) -> list[Item]:
        """The items of the retained rows.

        Raises:
            UserError: there are rows, and none is retained or has one of the columns.
        """
        for column in self.wanted:
            if items and not self.seen[column]:
                raise UserError(f"data.filter={shorten(self.wanted)}: there is {no_column(self.columns, column)}.")
        retained = [item for item in items if item is not None]
        if items and not retained:
            found = "; ".join(f"'{column}' has {listed(sorted(values))}" for column, values in self.seen.items())
            raise UserError(f"data.filter={shorten(self.wanted)}: none of the {len(items):,} rows is left; {found}.")
        return retained

    def retains(self, row: Row) -> bool:
        """Whether the row has a wanted value in each column; in lines of JSON, a column that is missing is null."""
        values = dict.fromkeys(self.wanted)
        for column in self.wanted:
            try:
                values[column] = find_value(row, column)
            except KeyError:
                self.columns |= dict.fromkeys(row)
                continue
            if len(self.seen[column]) < 1_000:
                self.seen[column]["null" if values[column] is None else shorten(values[column], 40)] = None
        return all(
            any(value == item or (item is not None and str(value) == str(item)) for item in self.wanted[column])
            for column, value in values.items()
        )
