"""The types of answers: the values of data.answer, each a class that says what counts as right.

Called by the rewards, the evaluation and the datasets. A new type is one class and one row in `ANSWER_TYPES`.
"""

import re
from collections.abc import Hashable
from decimal import Decimal
from typing import ClassVar

from grpo.config.rules import ANSWER_TYPE_NAMES
from grpo.core.errors import UserError
from grpo.tasks.answer_type import AnswerType
from grpo.tasks.example import Example
from grpo.tasks.numbers import same_number, single_number, strict_number

# Characters that are stripped around an answer: white space, punctuation, quotes, brackets, Markdown, LaTeX's `$`.
# Not `+-<>#%=`, which distinguish answers, and not a point before a text, which may be a decimal point.
_AFTER = "".join(filter(str.isspace, map(chr, range(0x3001)))) + (
    ".,;:!?'\"`*_$\\()[]{}"
    "\u2018\u2019\u201c\u201d\u00ab\u00bb\u2026\u3002\uff0c\u3001\uff01\uff1f\uff1a\uff1b\uff08\uff09\u3010\u3011\u300c\u300d"
)
_BEFORE = _AFTER.replace(".", "")
_LATEX_TEXT = re.compile(r"\\(?:boxed|text[a-z]*|math[a-z]*)(?=\s*\{)")


def normalized_text(text: str) -> str:
    """`text` in lower case, without surrounding punctuation, brackets and Markdown, and LaTeX's \\boxed and \\text."""
    return _LATEX_TEXT.sub("", text).replace("\u2212", "-").lstrip(_BEFORE).rstrip(_AFTER).lower()


def same_text(answer: str, reference: str) -> bool:
    """Whether two texts are equal, ignoring case and surrounding punctuation and brackets."""
    text = normalized_text(reference)
    return answer.strip() == reference.strip() or (text != "" and normalized_text(answer) == text)


class NumberAnswer(AnswerType):
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


class StrictAnswer(AnswerType):
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


class TextAnswer(AnswerType):
    """The same text, ignoring case and surrounding punctuation and brackets; never compared as numbers."""

    name: ClassVar[str] = "text"
    rule: ClassVar[str] = "is the text of the reference answer, apart from case and surrounding punctuation"

    def matches(self, answer: str, example: Example) -> bool:
        return same_text(answer, example.gold)

    def voting_key(self, answer: str) -> Hashable:
        return normalized_text(answer)


def _not_a_number(example: Example) -> UserError:
    return UserError(
        f"the reference answer {example.gold!r} is not a number; set data.answer=text for answers in words."
    )


ANSWER_TYPES: dict[str, AnswerType] = {
    answer_type.name: answer_type for answer_type in (NumberAnswer(), StrictAnswer(), TextAnswer())
}
assert set(ANSWER_TYPES) == set(ANSWER_TYPE_NAMES)
