r"""Mathematics as an answer: an expression, a set, an interval or a matrix in LaTeX, compared by math-verify.

A value of data.answer, for datasets such as MATH. math-verify computes with sympy, which may run without end on text
that a policy wrote. It therefore runs in a process that limits its own CPU time and memory
(grpo/tasks/verifier_program.py), and an answer that exceeds the limits is wrong.
"""

import re
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

MAX_LENGTH = 500  # characters of an answer; a longer one is wrong
MAX_DEPTH = 8  # nested brackets of an answer, on which the parser takes exponential time; a deeper one is wrong
_UNIT = re.compile(r"(?:\s+[A-Za-z]{3,})+\s*\.?$")  # words after a number, as in `18 square feet`
_ENVIRONMENT = re.compile(r"\\begin\{.*?\\end\{[^{}]*\}", re.DOTALL)
_DELIMITER = re.compile(r"\$|\\[\[\]()]")
_VERIFIER = VerifierProcess("math_verify")


class MathAnswer(AnswerType):
    r"""Equal by math-verify: `1/2`, `0.5` and `\frac{1}{2}` are; an approximation with fewer than 6 digits is not.

    The answer is in the answer block, in a `\boxed{}` there, or in the last `\boxed{}` if there is no block. A
    reference that is not mathematics, such as `\text{Evelyn}`, is compared as text.
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
        return last_boxed(completion) if block is None else last_boxed(block) or block

    def extract_anywhere(self, completion: str) -> str | None:
        return last_boxed(completion) or super().extract(completion) or last_number(completion)

    def matches(self, answer: str, example: Example) -> bool:
        if len(answer) > MAX_LENGTH or _depth(answer) > MAX_DEPTH:
            return False
        if _count_lines(answer) > 1 >= _count_lines(example.gold):  # math-verify would read the last of several answers
            return False
        if _without_space(answer) == _without_space(example.gold):
            return True
        expected, number = strict_number(example.gold), strict_number(_UNIT.sub("", answer))
        if expected is not None and number is not None:
            return number == expected
        return _same_mathematics(example.gold, answer)

    def voting_key(self, answer: str) -> Hashable:
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
