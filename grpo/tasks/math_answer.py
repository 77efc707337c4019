r"""Mathematics as an answer: an expression, a set, an interval or a matrix in LaTeX, compared by math-verify.

One of the types of grpo/tasks/answer_types.py, data.answer=math, for datasets such as MATH. math-verify computes with
sympy, which may run without end on text that a policy wrote. So it runs in a process that limits its own CPU time and
memory (grpo/tasks/verifier_program.py), and an answer that exceeds the limits is wrong. This module knows no reward and
no prompt.
"""

import re
import unicodedata
from collections.abc import Hashable
from functools import lru_cache
from itertools import accumulate
from typing import ClassVar

from grpo.core.errors import UserError, shorten
from grpo.tasks.answer_format import last_boxed
from grpo.tasks.answer_type import AnswerType
from grpo.tasks.example import Example
from grpo.tasks.normalized_text import same_text
from grpo.tasks.numbers import last_number, strict_number
from grpo.tasks.verifier_process import VerifierProcess
from grpo.tasks.wrappings import unwrapped

MAX_LENGTH = 500  # characters of an answer; a longer one is wrong
MAX_DEPTH = 8  # nested brackets of an answer, on which the parser takes exponential time; a deeper one is wrong
_UNIT = re.compile(r"(?:\s+[A-Za-z]{3,})+\s*\.?$")  # words after a number, as in `18 square feet`
_ENVIRONMENT = re.compile(r"\\begin\{.*?\\end\{[^{}]*\}", re.DOTALL)
_DELIMITER = re.compile(r"\$|\\[\[\]()]")
_VERIFIER = VerifierProcess("math_verify")
# References that are compared as text: those inside \text{}, or words; a bare `ab` may be a product.
_IN_TEXT = r"\\(?:text[a-z]*|mbox|mathrm)\s*\{%s\}"
_LETTERS = r"[^\W\d_](?:[^\W\d_]|[\s',-])*"
_WORDS = re.compile(rf"{_IN_TEXT % _LETTERS}|(?=.*[^\W\d_]{{3}}){_LETTERS}", re.DOTALL)
_TEXT = re.compile(rf"{_WORDS.pattern}|{_IN_TEXT % '[^{}]*'}", re.DOTALL)
# What models write instead of LaTeX.
_CURRENCY = re.compile(r"\\\$|[\u20ac\u00a3\u00a5\u20b9]|^([^$]*)\$([^$]*)$")
_BOLD = re.compile(r"(?<![\w)}\]])\*\*([^*]+)\*\*(?![\w({\\])")  # `a**2` is a power
_FRACTION = re.compile(r"[\u00bc-\u00be\u2150-\u215e]")  # such as one half
_ROOT = re.compile(r"\u221a\s*(?:\(([^()]*)\)|\{([^{}]*)\}|([0-9]+(?:\.[0-9]+)?|[A-Za-z\u03c0]))")
_POWER = re.compile(r"[\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_SYMBOLS = str.maketrans({"\u2212": "-", "\u221e": "\\infty "})


class MathAnswer(AnswerType):
    r"""Equal by math-verify: `1/2`, `0.5` and `\frac{1}{2}` are; an approximation with fewer than 6 digits is not.

    The answer is in the answer block, in a `\boxed{}` there, or in the last `\boxed{}` if the block is missing or
    empty. A reference that is words, such as `\text{Evelyn}`, is compared as text.
    """

    name: ClassVar[str] = "math"
    rule: ClassVar[str] = "is equal to the reference answer by math-verify, in the block or in \\boxed{}"
    anywhere: ClassVar[str] = "the last \\boxed{} anywhere, else the answer block, else the last number"
    anywhere_label: ClassVar[str] = "last \\boxed{} or number"
    package: ClassVar[tuple[str, str] | None] = ("math-verify", "math")

    @property
    def label(self) -> str:
        places = dict.fromkeys((self.answer_format.place, r"\boxed{}"))
        return f"inside {' or '.join(places)}"

    def extract(self, completion: str) -> str | None:
        block = super().extract(completion)
        return last_boxed(block or completion) or block

    def extract_anywhere(self, completion: str) -> str | None:
        return last_boxed(completion) or super().extract(completion) or last_number(completion)

    def matches(self, answer: str, example: Example) -> bool:
        if len(answer) > MAX_LENGTH or _depth(answer) > MAX_DEPTH:
            return False
        answer, gold = plain_mathematics(answer), plain_mathematics(example.gold)
        if _count_lines(answer) > 1 >= _count_lines(gold):  # math-verify would read the last of several answers
            return False
        if _without_space(answer) == _without_space(gold):
            return True
        if _TEXT.fullmatch(gold) and same_text(answer, gold):
            return True
        if _WORDS.fullmatch(gold):  # math-verify would read products of letters
            return False
        expected, number = strict_number(gold), strict_number(_UNIT.sub("", answer))
        if expected is not None and number is not None:
            return number == expected
        return _same_mathematics(gold, answer)

    def voting_key(self, answer: str) -> Hashable:
        if len(answer) > MAX_LENGTH:
            return answer
        answer = plain_mathematics(answer)
        return _without_space(answer) if (number := strict_number(answer)) is None else number

    def check_reference(self, example: Example) -> None:
        super().check_reference(example)
        if len(example.gold) > MAX_LENGTH:
            raise UserError(
                f"the reference answer {shorten(example.gold)} has {len(example.gold):,} characters; data.answer=math "
                f"compares at most {MAX_LENGTH:,}."
            )
        braces = re.findall(r"(?<!\\)[{}]", example.gold)
        opening, closing = map(braces.count, "{}")
        if opening != closing:
            raise UserError(
                f"the reference answer {example.gold!r} has {opening} opening and {closing} closing braces, so it is "
                "not LaTeX; set data.answer=text for other texts."
            )


def plain_mathematics(text: str) -> str:
    r"""`text` without bold type, markup around it and currency signs, and with LaTeX instead of other characters.

    `**½**` is \frac{1}{2}, `2√3` is 2\sqrt{3}, `x²` is x^{2}, and `50\%` is 50%.
    """
    text = _CURRENCY.sub(r"\1\2", _BOLD.sub(r"\1", unwrapped(text))).replace("\\%", "%")
    text = _FRACTION.sub(lambda match: "\\frac{{{}}}{{{}}}".format(*_compatible(match[0]).split("\u2044")), text)
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2] or match[3]}}}", text)
    text = _POWER.sub(lambda match: f"^{{{_compatible(match[0])}}}", text)
    return text.translate(_SYMBOLS)


def _compatible(text: str) -> str:
    """Digits and signs instead of their raised or combined forms."""
    return unicodedata.normalize("NFKC", text)


def _depth(text: str) -> int:
    """The greatest number of brackets that are open at once in `text`."""
    steps = [1 if character in "({[" else -1 for character in text if character in "({[)}]"]
    return max(accumulate(steps), default=0)


def _count_lines(text: str) -> int:
    """The lines of `text` that are not blank; a LaTeX environment, such as a matrix, is part of one line."""
    return sum(bool(line.strip()) for line in _DELIMITER.sub("", _ENVIRONMENT.sub("m", text)).splitlines())


def _without_space(text: str) -> str:
    return "".join(text.replace("\\!", "").replace("\\,", "").strip().strip("$").split())


@lru_cache(maxsize=65_536)
def _same_mathematics(reference: str, answer: str) -> bool:
    same = _VERIFIER.ask([reference, answer])
    return same_text(answer, reference) if same is None else bool(same)
