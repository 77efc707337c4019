"""Numbers in texts: reading the only number of an answer, or the last one of a completion, and comparing two numbers.

Called by the answer types and the reward `int`. The calculator page (grpo/assets/calculator.html) has the same
patterns; tests compare both. It knows nothing of answer formats and reference answers.
"""

import math
import re
import unicodedata
from decimal import Decimal

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
INTEGER = re.compile(rf"[+-]?{_DIGITS}")
# White space is allowed only after a `$` or a sign: three adjacent runs of it would take cubic time on a long text.
NUMBER = re.compile(rf"(?:\$\s*)?(?:([+-])\s*)?(?:\$\s*)?(?:({_DIGITS})(\.[0-9]*)?|(\.[0-9]+))\s*\$?")
# A sign belongs to the number unless it is between two operands, as in `10-5`.
LAST_NUMBER = re.compile(
    r"(?:(?<![\w.)])[+-])?\$?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\w)\.[0-9]+)"
)

TOLERANCE = 1e-6  # relative, between two numbers of which at least one is not whole

# The patterns of `single_number`. Each takes linear time, and grpo/assets/calculator.html has the same ones.
_SEPARATORS = ",'\u2019\u00a0\u2009\u202f"  # of thousands: comma, apostrophes, spaces that do not break a line
_UNSIGNED = rf"(?:[0-9]{{1,3}}(?:[{_SEPARATORS}][0-9]{{3}})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![A-Za-z0-9_.])\.[0-9]+"
_TOKEN = re.compile(
    # A LaTeX command; a word with its digits (`x1`, `H2O`) and the exponent of a unit (`cm^2`).
    r"\\[A-Za-z]+|[A-Za-z][A-Za-z0-9_]*(?:[)}]*\^\{?[+-]?[0-9]+\}?)?"
    # A number: sign, whole part of a mixed number, numerator or decimal number, exponent, denominator.
    rf"|(?:([+-])\s*)?(?:([0-9]+)\s+(?=[0-9]+\s*[/\u2044]\s*[0-9]))?({_UNSIGNED})"
    rf"([eE][+-]?[0-9]{{1,3}}(?![A-Za-z0-9]))?(?:\s*[/\u2044]\s*({_UNSIGNED}))?"
)
# Arithmetic is not a number, even if both operands are equal, as in `3 x 3`.
_ARITHMETIC = re.compile(
    r"[0-9]\s*(?:[-+*^xX\u00d7\u00b7\u00f7]|\\(?:times|cdot|div))\s*[({]?\.?[0-9]"
    r"|[0-9][\u00b2\u00b3\u00b9\u2070\u2074-\u2079]|[\u221a\u03c0]|\\(?:sqrt|pi)"
)
# A sign after an operand is a subtraction and not part of the next number, except in `1e-3`.
_SUBTRACTION = re.compile(r"(?<=[A-Za-z0-9_.)\]}%])(?<![0-9.][eE])(?:\s+[+-](?=\s)|[+-])")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))")
_FRACTION_CHARACTER = re.compile(r"[\u00bc-\u00be\u2150-\u215e]")  # such as one half
_NO_SEPARATORS = str.maketrans("", "", _SEPARATORS)
# The minus sign and the en dash count as `-`; a currency sign counts as white space.
_SYMBOLS = str.maketrans({"\u2212": "-", "\u2013": "-", **dict.fromkeys("$\u20ac\u00a3\u00a5\u20b9", " ")})


def strict_number(text: str) -> Decimal | None:
    """The number that `text` consists of, ignoring thousands commas, `$` and white space; None if it is not one."""
    match = NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    sign, digits, fraction, bare_fraction = match.groups(default="")
    return Decimal(sign + (digits.replace(",", "") + fraction.rstrip(".") or bare_fraction))


def single_number(text: str) -> Decimal | float | None:
    """The only number in `text`: exact if it is whole, else the nearest float; None if there is not exactly one.

    Markup, words, units, currency signs and thousands separators are ignored; a percent sign is a unit, so `20%` is 20.
    Fractions (`1/2`, `1 1/2`, LaTeX's) and `1e3` are numbers. The same number twice counts as one number; arithmetic
    (`10-5`, `3 x 3`) as none. The result does not depend on the reference answer, so a text that lists numbers cannot
    match several.
    """
    plain = text.translate(_SYMBOLS).replace("\\!", "").replace("\\,", ",").replace("{,}", ",")
    plain = _FRACTION_CHARACTER.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), plain)
    plain = _LATEX_FRACTION.sub(lambda match: " {}{}/{}{} ".format(*match.groups(default="")), plain)
    if _ARITHMETIC.search(plain):
        return None
    number: Decimal | float | None = None
    for match in _TOKEN.finditer(_SUBTRACTION.sub(";", plain)):
        if match[3] is None:
            continue  # a word
        value = _number_value(*match.groups(default=""))
        if value is None or number not in (None, value):
            return None
        number = value
    return number


def _number_value(sign: str, mixed: str, numerator: str, exponent: str, denominator: str) -> Decimal | float | None:
    """The value of a number token; None if it divides by zero, or is not whole and too large for a float."""
    numerator, denominator = (part.translate(_NO_SEPARATORS) for part in (numerator, denominator))
    integer_part, _, decimals = numerator.partition(".")
    if not (mixed or exponent or denominator or decimals.strip("0")):
        return Decimal(sign + (integer_part or "0"))
    value = float(numerator + exponent)
    if denominator:
        value = value / divisor if (divisor := float(denominator)) else math.inf
    value += float(mixed or "0")
    if not math.isfinite(value):
        return None
    value = -value if sign == "-" else value
    return Decimal(value) if value.is_integer() else value


def same_number(left: Decimal | float, right: Decimal | float) -> bool:
    """Whether two numbers are equal: exactly if both are whole, else within a relative `TOLERANCE`."""
    if isinstance(left, Decimal) and isinstance(right, Decimal):
        return left == right
    return math.isclose(left, right, rel_tol=TOLERANCE)


def last_number(text: str) -> str | None:
    """The last number anywhere in `text`, or None.

    Similar to the `flexible-extract` filter of lm-evaluation-harness: on 1,393 real completions the two differ in 7,
    where the amount has cents (`$18.00` for 18), which counts as correct here and as wrong there.
    """
    matches = LAST_NUMBER.findall(text)
    return matches[-1] if matches else None
