"""Reads files with one JSON object per line, with messages that name file and line.

Called by the loaders of datasets and by the reader of completions. It knows nothing of columns.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from grpo.core.errors import UserError, json_type_name
from grpo.tasks.text_files import parse_json, read_text

Item = TypeVar("Item")


def read_jsonl(path: Path, parse_row: Callable[[dict[str, Any]], Item], setting: str = "data.path") -> Iterator[Item]:
    """Yield `parse_row(row)` for each line of a file with one JSON object per line; blank lines are skipped.

    Raises:
        UserError: the file cannot be read, a line is not a JSON object, or `parse_row` raised. It names file and line.
    """
    for number, line in enumerate(read_text(path, setting).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield parse_row(_parse_object(line))
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from error


def _parse_object(line: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise UserError(f"not a JSON object but {json_type_name(row)}.")
    return row
