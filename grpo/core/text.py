"""Formatting of numbers, durations and settings, and escaping of invisible characters.

Every package that prints text or writes pages calls it. It knows neither the terminal nor files.
"""

import re
from collections.abc import Sequence
from typing import Any
from unicodedata import category

# `printable` looks up the Unicode category of these characters only, and escapes those of the categories below.
ESCAPE_CANDIDATES = re.compile(r"[^\n\t -~]+")
INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def format_duration(seconds: float) -> str:
    """A duration in the largest unit of which it has at least two: `90 seconds`, `45 minutes`."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} {plural(round(seconds), 'second')}"


def with_sign(number: str) -> str:
    """A formatted number with a plus sign if it is not negative."""
    return number if number.startswith("-") else f"+{number}"


def plural(count: int, noun: str) -> str:
    """The noun, with an s unless `count` is 1."""
    return noun if count == 1 else f"{noun}s"


def join_words(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def format_setting(value: Any) -> str:
    """The value of a setting for a message: `true`, `0.5`, or `not set` for None."""
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def format_p_value(p: float) -> str:
    """A p value with three decimals, or `<.001`."""
    return f"{p:.3f}" if p >= 0.001 else "<.001"


def format_bytes(size: float) -> str:
    """A number of bytes in GiB, or in MiB below 1 GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def printable(text: str) -> str:
    """`text` with its invisible characters escaped, as `\\x1b` or `\\u202e`: a terminal or browser may act on them.

    Escaped are control characters except line break and tab, format characters (bidirectional or of zero width), line
    and paragraph separators, and lone surrogates.
    """
    return ESCAPE_CANDIDATES.sub(lambda found: "".join(map(_escaped, found[0])), text)


def _escaped(character: str) -> str:
    if category(character) not in INVISIBLE_CATEGORIES:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def replace_surrogates(text: str) -> str:
    """`text` with question marks in place of lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
