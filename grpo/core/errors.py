"""The one exception that means "the user can mend this": its message is all that a person sees."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """A mistake in what the user gave: what it is, the value, the rule, and what would work."""


def first_line(error: Exception) -> str:
    """What a library's error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")


def json_type_name(content: Any) -> str:
    """What JSON calls the type of `content`, as a message names it."""
    if content is None:
        return "null"
    if isinstance(content, bool):
        return "a boolean"
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return names.get(type(content), type(content).__name__)


def shorten(value: Any, longest: int = 200) -> str:
    """A value as a message shows it, truncated if it is longer than `longest` characters."""
    try:
        text = str(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number of thousands of digits"
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}... ({len(text):,} characters)"


def suggest_name(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` where a known name is close, then the known names."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return (f" Did you mean '{close[0]}'?" if close else "") + f" Known: {', '.join(known)}."
