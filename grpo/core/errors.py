"""`UserError`, the exception for mistakes that the user can correct, and the parts of its messages.

Every package raises it; commands print its message without a traceback. This module imports nothing of the package.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """A mistake of the user. The message states what is wrong, the value, the rule, and what to type instead."""

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython prints for this exception: a notebook shows no traceback either."""
        return [f"{type(self).__name__}: {self}"]


def first_line(error: Exception) -> str:
    """The first line of an error message that is not blank, without its final full stop."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")


def one_line(text: str) -> str:
    """`text` with its line breaks, and the white space around them, as single spaces."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def json_type_name(content: Any) -> str:
    """The JSON name of the type of `content`, with an article, for messages."""
    if content is None:
        return "null"
    if isinstance(content, bool):
        return "a boolean"
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return names.get(type(content), type(content).__name__)


def listed(names: Sequence[str]) -> str:
    """Names for a message; the first nine if there are more."""
    more = f" and {len(names) - 9:,} more" if len(names) > 9 else ""
    return ", ".join(names[:9]) + more


def no_column(columns: Iterable[str], *names: str) -> str:
    """The phrase for a column that a row or dataset lacks: `no column 'a' or 'b', only 'c', 'd'`.

    Args:
        columns: those that it has.
        names: the possible names of the column.
    """
    present = ", ".join(map(repr, columns))
    return f"no column {' or '.join(map(repr, names))}, {f'only {present}' if present else 'and no other'}"


def shorten(value: Any, longest: int = 200) -> str:
    """A value for a message, truncated to about `longest` characters."""
    try:
        text = str(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number of thousands of digits"
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}... ({len(text):,} characters)"


def suggest_name(name: str, known_names: Iterable[str]) -> str:
    """` Did you mean 'x'?` if a known name is similar to `name`, then the list of known names."""
    names = sorted(known_names)
    close = get_close_matches(name, names, n=1)
    return (f" Did you mean '{close[0]}'?" if close else "") + f" Known: {', '.join(names)}."
