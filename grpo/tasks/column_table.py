"""The columns of the dataset in the tables of completions: added to a table, and read back from it.

Called by what writes and reads Parquet files of completions. A column of texts, numbers or booleans is stored as it is,
any other as JSON text; the metadata of its field says which, and tells it from the scores. It knows no other column.
"""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from grpo.core.text import replace_surrogates
from grpo.tasks.example import Example

if TYPE_CHECKING:
    import pyarrow as pa

# Keys in the metadata of a field: its kind, VALUE or JSON, and the name of the column in the dataset.
KIND, NAME = b"dataset_column", b"dataset_name"
VALUE, JSON = b"value", b"json"
MAX_INTEGER = 2**63


def add_dataset_columns(table: "pa.Table", examples: Sequence[Example]) -> "pa.Table":
    """`table` of N completions with the columns of the N problems that they answer.

    A column whose name the table has already, such as `problem`, is stored as `data.problem`. The table has question
    and reference answer as `question` and `gold`, so columns with these names are left out.
    """
    import pyarrow as pa

    for name in {name: None for example in examples for name in example.columns}:
        if name in ("question", "gold"):
            continue
        values = [example.columns.get(name) for example in examples]
        kind = VALUE if _are_of_one_type(values) else JSON
        stored = [_stored(value, kind) for value in values]
        free_name = f"data.{name}" if name in table.column_names else name
        metadata = {KIND: kind, NAME: name.encode()}
        table = table.append_column(pa.field(free_name, pa.infer_type(stored), metadata=metadata), [stored])
    return table


def read_dataset_columns(table: "pa.Table") -> Iterator[dict[str, Any]]:
    """For each row of a table that `add_dataset_columns` made, the columns that it added; for another, all columns."""
    kinds = {field.name: field.metadata[KIND] for field in table.schema if KIND in (field.metadata or {})}
    if not kinds:
        yield from table.to_pylist()
        return
    names = {name: table.schema.field(name).metadata[NAME].decode() for name in kinds}
    for row in table.select(list(kinds)).to_pylist():
        yield {
            names[name]: json.loads(value) if kinds[name] == JSON and value is not None else value
            for name, value in row.items()
        }


def _are_of_one_type(values: Sequence[Any]) -> bool:
    types = {type(value) for value in values if value is not None}
    if types == {int}:
        return all(value is None or -MAX_INTEGER <= value < MAX_INTEGER for value in values)
    return not types or types in ({str}, {bool}, {float})


def _stored(value: Any, kind: bytes) -> Any:
    if kind == JSON and value is not None:
        value = json.dumps(value, ensure_ascii=False, default=str)
    return replace_surrogates(value) if isinstance(value, str) else value
