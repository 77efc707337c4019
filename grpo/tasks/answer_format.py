r"""The answer formats, the options of conf/format: how a completion shows its reasoning and its answer.

`TagFormat` has two tags, whose names are settings; `BoxedFormat` has text, then `\boxed{}`. Rewards, answer types, the
audit and reports call the format of the run. The calculator page (grpo/assets/calculator.html) has the same rules;
tests compare both. A format knows nothing of what counts as right, and nothing of weights.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from grpo.config.schema import FormatConfig

_BRACE = re.compile(r"\\f?boxed\s*\{|(?<!\\)[{}]")  # an opened box, or a brace that LaTeX does not escape
_TAG = re.compile(r"<[^<>\s]*>")
_PUNCTUATION = "$*.,:;!?()[]\\"  # closes a sentence or delimits mathematics


class AnswerFormat(ABC):
    """How a completion shows its reasoning and its answer."""

    @property
    @abstractmethod
    def tags(self) -> tuple[str, ...]:
        """The texts that every completion in the format contains, in their order."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the answer is, for tables: `inside ...`."""

    @property
    @abstractmethod
    def setting(self) -> str:
        """The settings that select the format, as they are typed."""

    @abstractmethod
    def reasoning_block(self, reasoning: str) -> str:
        """The part of a completion that shows the reasoning, with the line break at its end."""

    @abstractmethod
    def answer_block(self, answer: str) -> str:
        """The part of a completion that shows the answer, with the line break at its end."""

    @abstractmethod
    def render_inline(self, reasoning: str, answer: str) -> str:
        """Reasoning and answer on one line, with the line break at its end."""

    def render(self, reasoning: str, answer: str) -> str:
        """A completion in the exact format."""
        return self.reasoning_block(reasoning) + self.answer_block(answer)

    @abstractmethod
    def extract_answer(self, text: str) -> str | None:
        """The answer, stripped; None if there is none in the format."""

    @abstractmethod
    def is_exact(self, text: str) -> bool:
        """Whether a completion is exactly in the format, and neither reasoning nor answer is blank."""

    @abstractmethod
    def has_reasoning_and_answer(self, text: str) -> bool:
        """Whether reasoning is followed by an answer, neither of them blank, with any text around them."""

    @abstractmethod
    def share_of_tags(self, text: str) -> float:
        """The share of the tags that occur once and in their place, from 0 to 1."""

    @abstractmethod
    def text_after(self, text: str) -> str:
        """The text after the last answer; empty if there is no answer."""


@dataclass(frozen=True)
class TagFormat(AnswerFormat):
    """Reasoning and answer in one block each, with every tag alone on its line; format=tags.

    Attributes:
        reasoning, answer: the names of the tags.
    """

    reasoning: str = "reasoning"
    answer: str = "answer"

    @property
    def tags(self) -> tuple[str, ...]:
        return f"<{self.reasoning}>", f"</{self.reasoning}>", f"<{self.answer}>", f"</{self.answer}>"

    @property
    def place(self) -> str:
        return f"<{self.answer}>"

    @property
    def setting(self) -> str:
        return f"format.reasoning={self.reasoning} format.answer={self.answer}"

    def reasoning_block(self, reasoning: str) -> str:
        return f"<{self.reasoning}>\n{reasoning}\n</{self.reasoning}>\n"

    def answer_block(self, answer: str) -> str:
        return f"<{self.answer}>\n{answer}\n</{self.answer}>\n"

    def render_inline(self, reasoning: str, answer: str) -> str:
        return f"<{self.reasoning}>{reasoning}</{self.reasoning}> <{self.answer}>{answer}</{self.answer}>\n"

    def extract_answer(self, text: str) -> str | None:
        """The text inside the last closed answer block, stripped; None if no block is closed."""
        *_, opening, closing = self.tags
        start = text.rfind(opening, 0, max(0, text.rfind(closing)))
        if start == -1:
            return None
        start += len(opening)
        return text[start : text.index(closing, start)].strip()

    def is_exact(self, text: str) -> bool:
        """Whether each tag occurs once, on its own line, in order, with nothing around the blocks and neither blank."""
        open_reasoning, close_reasoning, open_answer, close_answer = self.tags
        lines = text.removesuffix("\n").split("\n")
        if lines[0] != open_reasoning or lines[-1] != close_answer or any(text.count(tag) != 1 for tag in self.tags):
            return False
        if close_reasoning not in lines:
            return False
        close = lines.index(close_reasoning)
        if lines[close + 1] != open_answer:
            return False
        reasoning, answer = lines[1:close], lines[close + 2 : -1]
        return bool("".join(reasoning).strip() and "".join(answer).strip())

    def has_reasoning_and_answer(self, text: str) -> bool:
        """Whether a closed reasoning block is followed by a closed answer block anywhere, and neither is blank."""
        open_reasoning, close_reasoning, open_answer, close_answer = self.tags
        nonblank_answer = re.compile(rf"\s*{re.escape(open_answer)}(?!\s*{re.escape(close_answer)})")
        last_answer_close = text.rfind(close_answer)
        last_end, end = last_answer_close + len(close_answer), 0
        while (close := text.find(close_reasoning, end, max(0, last_answer_close))) != -1:
            start = text.rfind(open_reasoning, end, close)
            end = close + len(close_reasoning)
            blank = start == -1 or not text[start + len(open_reasoning) : close].strip()
            if not blank and nonblank_answer.match(text, end, last_end):
                return True
        return False

    def share_of_tags(self, text: str) -> float:
        lines = text.split("\n")
        return sum(text.count(tag) == 1 and tag in lines for tag in self.tags) / len(self.tags)

    def text_after(self, text: str) -> str:
        _, closed, tail = text.rpartition(self.tags[-1])
        return tail if closed else ""


@dataclass(frozen=True)
class BoxedFormat(AnswerFormat):
    r"""Any text, then the answer in `\boxed{}`; format=boxed."""

    @property
    def tags(self) -> tuple[str, ...]:
        return (r"\boxed{",)

    @property
    def place(self) -> str:
        return r"\boxed{}"

    @property
    def setting(self) -> str:
        return "format=boxed"

    def reasoning_block(self, reasoning: str) -> str:
        return f"{reasoning}\n"

    def answer_block(self, answer: str) -> str:
        return f"\\boxed{{{answer}}}\n"

    def render_inline(self, reasoning: str, answer: str) -> str:
        return f"{reasoning} \\boxed{{{answer}}}\n"

    def extract_answer(self, text: str) -> str | None:
        return last_boxed(text)

    def is_exact(self, text: str) -> bool:
        """Whether the completion has one box, with text before and nothing but punctuation after it."""
        boxes = find_boxes(text)
        return len(boxes) == 1 and self.has_reasoning_and_answer(text) and not _has_words(text[boxes[0].end :])

    def has_reasoning_and_answer(self, text: str) -> bool:
        """Whether there is text other than tags before the first closed box, and the last one is not blank."""
        boxes = find_boxes(text)
        return bool(boxes and last_boxed(text) and _has_words(_TAG.sub(" ", text[: boxes[0].start])))

    def share_of_tags(self, text: str) -> float:
        return float(len(find_boxes(text)) == 1)

    def text_after(self, text: str) -> str:
        boxes = find_boxes(text)
        return text[max(box.end for box in boxes) :] if boxes else ""  # an earlier box may contain the last one


class Box(NamedTuple):
    r"""The positions of a closed `\boxed{...}` in a text, and of its content."""

    start: int
    content_start: int
    content_end: int
    end: int


def find_boxes(text: str) -> list[Box]:
    """The closed boxes of a text in the order in which they begin, in linear time."""
    opened: list[re.Match[str]] = []
    boxes = []
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened and (box := opened.pop())[0] != "{":
            boxes.append(Box(box.start(), box.end(), brace.start(), brace.end()))
    return sorted(boxes)


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` in `text` that is closed, without white space around it."""
    boxes = find_boxes(text)
    return text[boxes[-1].content_start : boxes[-1].content_end].strip() if boxes else None


def _has_words(text: str) -> bool:
    """Whether a text has more than white space, punctuation and the delimiters of mathematics."""
    return any(part.strip(_PUNCTUATION) for part in text.split())


DEFAULT_FORMAT = TagFormat()


def answer_format_of(config: FormatConfig) -> AnswerFormat:
    """The format that the settings describe."""
    if config.name == "boxed":
        return BoxedFormat()
    assert config.reasoning is not None and config.answer is not None
    return TagFormat(config.reasoning, config.answer)
