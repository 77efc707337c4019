"""The one exception that means "the user can mend this": its message is all that a person sees."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in what the user gave: what it is, the value, the rule, and what would work."""


def first_line(error: Exception) -> str:
    """What a library's error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` where a known name is close, then the known names."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return (f" Did you mean '{close[0]}'?" if close else "") + f" Known: {', '.join(known)}."
