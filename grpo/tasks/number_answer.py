"""A number as an answer: with any words around it, or alone.

Two of the types of grpo/tasks/answer_types.py, data.answer=number and data.answer=strict. This module knows no reward
and no prompt.
"""

from decimal import Decimal
from typing import ClassVar

from grpo.core.errors import UserError
from grpo.tasks.answer_type import AnswerType
from grpo.tasks.example import Example
from grpo.tasks.normalized_text import normalized_text, same_text
from grpo.tasks.numbers import last_number, same_number, single_number, strict_number


class _LastNumber(AnswerType):
    """A number as an answer; in any format, it is the last number of the completion."""

    anywhere: ClassVar[str] = "the last number anywhere"
    anywhere_label: ClassVar[str] = "last number"

    def extract_anywhere(self, completion: str) -> str | None:
        return last_number(completion)


class NumberAnswer(_LastNumber):
    """The answer has exactly one number (`single_number`), and it equals that of the reference.

    They are equal exactly if both are whole, else within a relative 1e-6. A reference without exactly one number, which
    datasets refuse and files of completions may have, is compared as text.
    """

    name: ClassVar[str] = "number"
    rule: ClassVar[str] = "holds exactly one number, that of the reference answer"

    def matches(self, answer: str, example: Example) -> bool:
        if (expected := single_number(example.gold)) is None:
            return same_text(answer, example.gold)
        number = single_number(answer)
        return number is not None and same_number(number, expected)

    def voting_key(self, answer: str) -> Decimal | float | str:
        return normalized_text(answer) if (number := single_number(answer)) is None else number

    def check_reference(self, example: Example) -> None:
        if single_number(example.gold) is None:
            raise _not_a_number(example)


class StrictAnswer(_LastNumber):
    """If answer and reference consist of a number (`strict_number`), the same number; else the same stripped text."""

    name: ClassVar[str] = "strict"
    rule: ClassVar[str] = "is the number of the reference answer and nothing else"

    def matches(self, answer: str, example: Example) -> bool:
        number, expected = strict_number(answer), strict_number(example.gold)
        if number is None or expected is None:
            return answer.strip() == example.gold.strip()
        return number == expected

    def voting_key(self, answer: str) -> Decimal | str:
        return answer.strip() if (number := strict_number(answer)) is None else number

    def check_reference(self, example: Example) -> None:
        if strict_number(example.gold) is None:
            raise _not_a_number(example)


def _not_a_number(example: Example) -> UserError:
    return UserError(
        f"the reference answer {example.gold!r} is not a number; set data.answer=text for answers in words, "
        "data.answer=choice for letters of options."
    )
