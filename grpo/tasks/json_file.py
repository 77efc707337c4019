"""Reads the rows of a JSON file: a list of objects, an object of columns, or JSON Lines under the name .json.

Called by grpo/tasks/rows.py. It knows no column.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from grpo.core.errors import UserError, json_type_name, listed
from grpo.tasks.chat_prompt import is_chat
from grpo.tasks.jsonl import read_jsonl
from grpo.tasks.text_files import parse_json, read_text

Item = TypeVar("Item")

RULE = 'a JSON file holds a list of objects, as in [{"question": "2 + 3?", "answer": "5"}], or one object per line'


def read_json(path: Path, parse_row: Callable[[dict[str, Any]], Item]) -> Iterator[Item]:
    """Yield `parse_row(row)` for each row of a JSON file.

    Raises:
        UserError: the file cannot be read or holds something else, or `parse_row` raised. It names file and row.
    """
    text = read_text(path, "data.path")
    if not text.strip():
        raise UserError(f"data.path: {path} is empty; {RULE}.")
    try:
        rows = _rows(parse_json(text))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # after the object of the first line
            yield from read_jsonl(path, parse_row)
            return
        raise UserError(f"data.path: {path} cannot be read as JSON: {error}.") from error
    except UserError as error:
        raise UserError(f"data.path: {path}: {error}") from error
    for number, row in enumerate(rows, start=1):
        try:
            if not isinstance(row, dict):
                raise UserError(f"not a JSON object but {json_type_name(row)}; {RULE}.")
            yield parse_row(row)
        except UserError as error:
            raise UserError(f"{path}, row {number}: {error}") from error


def _rows(content: Any) -> list[Any]:
    """The rows in the content of a file.

    Raises:
        UserError: it has no rows, or they are below a key.
    """
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise UserError(f"it holds {json_type_name(content)}; {RULE}.")
    values = list(content.values())
    tables = [key for key, value in content.items() if _is_list_of_objects(value)]
    if values and all(isinstance(value, list) for value in values) and len(tables) < len(values):
        lengths = [f"'{name}' has {len(value):,}" for name, value in content.items()]
        if len({len(value) for value in values}) > 1:
            raise UserError(f"its columns have different numbers of values: {listed(lengths)}.")
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    if tables:
        raise UserError(
            f"it holds an object with lists of objects below {listed(list(map(repr, tables)))}; save each list as a "
            f"file of its own, such as {tables[0]}.json."
        )
    if values and all(isinstance(value, dict) for value in values):
        raise UserError(f"it holds an object of objects, {listed(list(map(repr, content)))}; {RULE}.")
    return [content]


def _is_list_of_objects(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value) and not is_chat(value)
    )
