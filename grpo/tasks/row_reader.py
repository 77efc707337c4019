"""From a row of a dataset to a problem: its question, its reference answer, and all columns of the row.

Called by the loaders of datasets, one reader for each split. It knows neither files nor the hub.
"""

from collections.abc import Mapping
from typing import Any

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError
from grpo.policy.chat_template import Message
from grpo.tasks.answer_format import last_boxed
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.chat_prompt import chat_question, is_chat, read_chat
from grpo.tasks.columns import recognize_answer, recognize_question, require_value, text_column
from grpo.tasks.example import Example

BOXED = "\\boxed{}"  # the marker that stands for the content of the last \boxed{...}
HASHES = "####"


class RowReader:
    """Makes a problem of each row. The columns without a setting are recognized in the first row.

    Attributes:
        notes: receives a note on the recognized columns, and one on prompts with a system message of their own.
    """

    def __init__(self, config: DataConfig, notes: list[str]) -> None:
        self.config, self.notes = config, notes
        self.question, self.answer = config.question_column, config.answer_column
        self.answer_type = ANSWER_TYPES[config.answer]
        self.is_first = True

    def read(self, row: Mapping[str, Any]) -> Example:
        """The problem of a row.

        Raises:
            UserError: a column is missing or not recognized, or the reference answer is unreadable under data.answer.
        """
        if self.is_first:
            self._recognize_columns(row)
        assert self.question is not None and self.answer is not None
        question, messages = read_question(row, self.question)
        text = text_column(row, self.answer).strip()
        gold = read_reference(text, find_marker(text, self.config.answer_marker), self.answer)
        example = Example(question, gold, messages, row)
        self.answer_type.check_reference(example)
        if example.has_system_prompt:
            self._add_note(
                f"Prompts in '{self.question}' have their own system message: system_prompt is not added to them."
            )
        return example

    def _recognize_columns(self, row: Mapping[str, Any]) -> None:
        self.is_first, all_are_set = False, self.question is not None and self.answer is not None
        self.question = self.question or recognize_question(row)
        self.answer = self.answer or recognize_answer(row)
        marker = find_marker(text_column(row, self.answer, blank=True), self.config.answer_marker)
        has_standard_form = (self.question, self.answer) == ("question", "answer") and marker in ("", HASHES)
        if not all_are_set and not has_standard_form:
            after = f" after {marker}" if marker else ""
            self._add_note(
                f"data={self.config.name}: question from '{self.question}', answer from '{self.answer}'{after}."
            )

    def _add_note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def read_question(row: Mapping[str, Any], column: str) -> tuple[str, tuple[Message, ...] | None]:
    """The question as text, and the messages if the column holds a chat.

    Raises:
        UserError: the column is missing, or has neither text nor messages.
    """
    value = require_value(row, column)
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
