"""The columns of a row: a value by its name or dotted path, as text, and which columns hold question and answer.

Called by the readers of datasets and of completions. It knows neither files nor settings of a run.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from grpo.core.errors import UserError, no_column, shorten
from grpo.tasks.chat_prompt import is_chat, is_chat_text, read_answer

Row = Mapping[str, Any]

# Names of the question, in lower case: GSM8K; OpenBookQA; MATH, open-r1; TRL; and common ones.
QUESTION_NAMES = ("question", "question_stem", "problem", "prompt", "query", "instruction", "input")
# Names of the reference answer. A column of an earlier line is preferred: MATH-500 and open-r1 have the worked solution
# as well as the answer itself.
ANSWER_NAMES = (
    ("reward_model.ground_truth",),  # verl
    (
        "answer",
        "answerkey",
        "ground_truth",
        "final_answer",
        "expected_answer",
        "reference_answer",
        "gold_answer",
        "gold",
    ),
    ("solution",),
    ("output", "response", "target", "completion"),
)


def find_value(row: Row, path: str) -> Any:
    """The value of a column, or of the dotted path of a nested value, `reward_model.ground_truth`.

    A part of the path is a key of a mapping, or the index of a list; text with a JSON object counts as a mapping.

    Raises:
        KeyError: there is no such value.
    """
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise KeyError(path) from error
        if isinstance(value, list | tuple) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, Mapping) and name in value:
            value = value[name]
        else:
            raise KeyError(path)
    return value


def text_column(row: Row, path: str, blank: bool = False) -> str:
    """The text or number in the column `path`, as text, which may be empty only if `blank`.

    Raises:
        UserError: the column is missing, or contains another type.
    """
    value = require_value(row, path)
    is_text = (
        isinstance(value, str | int | float | Decimal) and not isinstance(value, bool) and value == value
    )  # no nan
    if not is_text or not (blank or str(value).strip()):
        raise UserError(f"'{path}' is {shorten(repr(value))}; it must hold text or a number.")
    if isinstance(value, float | Decimal):
        value = format(Decimal(str(value)), "f")
    try:
        str(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"'{path}' is {value!r}, which is not valid text: {error.reason}.") from error
    return str(value)


def completion_column(row: Row, path: str) -> str:
    """The completion in the column `path`: text, which may be empty, or one chat message, of the assistant.

    Raises:
        UserError: the column is missing, or contains another type.
    """
    value = require_value(row, path)
    return read_answer(value, path) if is_chat(value) else text_column(row, path, blank=True)


def reference_column(row: Mapping[str, Any], path: str) -> str:
    """The reference answer in the column `path`: text or a number as text, a list or an object as its JSON text.

    Raises:
        UserError: the column is missing, or contains another type.
    """
    value = require_value(row, path)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return text_column(row, path)


def require_value(row: Row, path: str) -> Any:
    """The value that `find_value` finds.

    Raises:
        UserError: there is no such value; the message lists the columns.
    """
    try:
        return find_value(row, path)
    except KeyError as error:
        raise UserError(f"there is {no_column(row, path)}.") from error


def recognize_question(row: Row) -> str:
    """The name of the column with the question; a column `prompt` with chat messages is preferred.

    Raises:
        UserError: no column, or more than one, has a known name.
    """
    by_name = {name.lower(): name for name in row}
    if _has_chat(row, by_name.get("prompt", "")):
        return by_name["prompt"]
    if present := [by_name[name] for name in QUESTION_NAMES if name in by_name]:
        return _only(present, "question", row)
    if _has_chat(row, by_name.get("messages", "")):
        return by_name["messages"]
    knows_answer = any(name in by_name or _has(row, name) for names in ANSWER_NAMES for name in names)
    columns = "data.question_column=NAME" + " data.answer_column=NAME" * (not knows_answer)
    raise UserError(f"none of the columns {_listed(row)} has a known name of a question; type {columns}.")


def recognize_answer(row: Row) -> str:
    """The name or dotted path of the column with the reference answer.

    Raises:
        UserError: no column has a known name, or several that are equally likely.
    """
    by_name = {name.lower(): name for name in row}
    for names in ANSWER_NAMES:
        if present := [by_name.get(name, name) for name in names if name in by_name or _has(row, name)]:
            return _only(present, "answer", row)
    raise UserError(
        f"none of the columns {_listed(row)} has a known name of a reference answer; type data.answer_column=NAME, or "
        "a dotted path, data.answer_column=NAME.KEY."
    )


def _has_chat(row: Row, name: str) -> bool:
    return is_chat(row.get(name)) or is_chat_text(row.get(name))


def _has(row: Row, path: str) -> bool:
    try:
        return find_value(row, path) is not None
    except KeyError:
        return False


def _only(present: Sequence[str], role: str, row: Row) -> str:
    if len(present) > 1:
        raise UserError(
            f"{' and '.join(map(repr, present))} may each be the {role} (columns: {_listed(row)}); type "
            f"data.{role}_column={present[0]}, or another of them."
        )
    return present[0]


def _listed(row: Row) -> str:
    return ", ".join(map(repr, row))
