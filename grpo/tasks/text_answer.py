"""A text as an answer, never compared as a number.

One of the types of grpo/tasks/answer_types.py, data.answer=text. This module knows no reward and no prompt.
"""

import re
from collections.abc import Hashable
from typing import ClassVar

from grpo.tasks.answer_type import FormatFirstAnswer, last_line
from grpo.tasks.example import Example
from grpo.tasks.normalized_text import normalized_text, same_text

_ANSWER_IS = re.compile(r"\banswer\s{0,9}(?:is\b|:)\s{0,9}:?", re.IGNORECASE)  # before the answer in a line of prose


class TextAnswer(FormatFirstAnswer):
    """The same text, ignoring case, runs of white space, and surrounding punctuation and brackets; never numbers."""

    name: ClassVar[str] = "text"
    rule: ClassVar[str] = "is the text of the reference answer, apart from case and surrounding punctuation"
    anywhere: ClassVar[str] = "the answer block, else the last line, without the words up to `answer is` or `answer:`"
    anywhere_label: ClassVar[str] = "last line"

    def find_answer(self, completion: str) -> str | None:
        line = last_line(re.sub("|".join(map(re.escape, self.answer_format.tags)), "\n", completion))
        return None if line is None else _ANSWER_IS.split(line)[-1].strip()

    def matches(self, answer: str, example: Example) -> bool:
        return same_text(answer, example.gold)

    def voting_key(self, answer: str) -> Hashable:
        return normalized_text(answer)
