"""Numbers, durations and values as text, and text from outside made safe to print.

Every package that prints or writes pages calls it. It knows neither the terminal nor any file.
"""

import re
from typing import Any
from unicodedata import category

# Characters that may have to be escaped, and the Unicode categories that are.
ESCAPE_CANDIDATES = re.compile(r"[^\n\t -~]+")
INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def format_duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} {plural(round(seconds), 'second')}"


def with_sign(number: str) -> str:
    return number if number.startswith("-") else f"+{number}"


def plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def format_setting(value: Any) -> str:
    """The value of a setting, as a person reads it."""
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def format_p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<.001"


def printable(text: str) -> str:
    """`text` with invisible characters, which a terminal or a browser may obey, escaped as `\\x1b` or `\\u202e`.

    These are control characters except line break and tab, format characters (bidirectional or of zero width), line and
    paragraph separators, and lone surrogates.
    """
    return ESCAPE_CANDIDATES.sub(lambda found: "".join(map(_escaped, found[0])), text)


def _escaped(character: str) -> str:
    if category(character) not in INVISIBLE_CATEGORIES:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def replace_surrogates(text: str) -> str:
    """`text` as UTF-8 can carry it: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
