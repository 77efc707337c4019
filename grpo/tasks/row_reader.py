"""From a row of a dataset to a problem: its question, its reference answer, and all columns of the row.

Called by the loaders of datasets, one reader for each split. It knows neither files nor the hub.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError
from grpo.policy.chat_template import Message
from grpo.tasks.answer_format import last_boxed
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.chat_prompt import chat_question, is_chat, is_chat_text, parse_chat, read_chat
from grpo.tasks.columns import recognize_answer, recognize_question, require_value, text_column
from grpo.tasks.example import Example
from grpo.tasks.options import OptionReferences, read_options

BOXED = "\\boxed{}"  # the marker that stands for the content of the last \boxed{...}
HASHES = "####"


class RowReader:
    """Makes a problem of each row of a split: `read` for each row, then `finish` for all of their problems.

    Columns that no setting names are recognized in the first row.

    Attributes:
        split: the name of the split, for notes.
        notes: receives notes on the columns that are used.
    """

    def __init__(self, config: DataConfig, split: str, notes: list[str]) -> None:
        self.config, self.split, self.notes = config, split, notes
        self.question, self.answer = config.question_column, config.answer_column
        self.answer_type = ANSWER_TYPES[config.answer]
        self.chats_are_text: bool | None = None
        self.markers: Counter[str] = Counter()
        self.references = OptionReferences()

    def read(self, row: Mapping[str, Any]) -> Example:
        """The problem of a row; `finish` may change its reference answer.

        Raises:
            UserError: a column is missing or not recognized, or the reference answer is unreadable under data.answer.
        """
        self.question = self.question or recognize_question(row)
        self.answer = self.answer or recognize_answer(row)
        if self.chats_are_text is None:
            self.chats_are_text = is_chat_text(require_value(row, self.question))
        question, messages = read_question(row, self.question, self.chats_are_text)
        value = require_value(row, self.answer)
        if value is None or value == "":
            raise UserError(
                f"'{self.answer}' is {'null' if value is None else 'blank'}, so the row has no reference answer; "
                "delete it, or leave it out by the values of another column, data.filter={COLUMN:VALUE}."
            )
        text = text_column(row, self.answer).strip()
        marker = find_marker(text, self.config.answer_marker)
        self.markers[marker] += 1
        gold = read_reference(text, marker, self.answer)
        if self._names_option(row):
            gold = self.references.add(value if isinstance(value, int) else gold, row)
        example = Example(question, gold, messages, row)
        self.answer_type.check_reference(example)
        return example

    def finish(self, examples: list[Example] | None) -> list[Example] | None:
        """The problems of the split; adds notes on where question and reference answer come from."""
        if not examples:
            return examples
        question, answer = f"question from '{self.question}'", f"answer from '{self.answer}'"
        if self.chats_are_text:
            question += ", chat messages as JSON text"
        if markers := " or ".join(sorted(filter(None, self.markers))):
            answer += f" after {markers}"
        if self.references.letters:
            answer += f", the {self.references.readings[0]} of an option"
        self._add_note(f"data={self.config.name}: {question}, {answer}.")
        if markers and self.markers[""]:
            self._add_note(
                f"data={self.config.name}: {self.markers['']:,} of the {len(examples):,} {self.split} rows have no "
                f"{markers} in '{self.answer}': their complete text is the reference answer."
            )
        if any(example.has_system_prompt for example in examples):
            self._add_note(
                f"Prompts in '{self.question}' have their own system message: system_prompt is not added to them."
            )
        letters = iter(self.references.final_letters())
        return [
            replace(example, gold=next(letters)) if self._names_option(example.columns) else example
            for example in examples
        ]

    def _names_option(self, row: Mapping[str, Any]) -> bool:
        """Whether the reference answer of a row is one of its options."""
        is_choice = self.config.answer == "choice" or self.config.name == "multiple_choice"
        return is_choice and read_options(row) is not None

    def _add_note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def read_question(
    row: Mapping[str, Any], column: str, chat_is_text: bool = False
) -> tuple[str, tuple[Message, ...] | None]:
    """The question as text, and the messages if the column holds a chat, or its JSON text.

    Raises:
        UserError: the column is missing, or has neither text nor messages.
    """
    value = require_value(row, column)
    if chat_is_text:
        value = parse_chat(value, column)
    if is_chat(value):
        messages = read_chat(value, column)
        return chat_question(messages), messages
    return text_column(row, column).strip(), None


def find_marker(text: str, setting: str | None) -> str:
    r"""The marker before the reference answer: data.answer_marker; if that is null, `####` or `\boxed{}` or none."""
    if setting is not None:
        return setting
    return HASHES if HASHES in text else BOXED if last_boxed(text) is not None else ""


def read_reference(text: str, marker: str, column: str) -> str:
    r"""The reference answer in `text`: what follows the last marker, the content of the last `\boxed{}`, or all.

    Raises:
        UserError: the marker is missing, or nothing follows it.
    """
    if not marker:
        return text
    _, found, after = text.rpartition(marker)
    answer = last_boxed(text) if marker == BOXED else after if found else None
    if answer is None:
        raise UserError(f"there is no {marker} in '{column}'; data.answer_marker='' takes the complete text.")
    if not answer.strip():
        raise UserError(f"nothing follows {marker} in '{column}'.")
    return answer.strip()
