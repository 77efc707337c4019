"""Reads files with one JSON object per line, with messages that name file and line.

Called by the loaders of datasets and by the reader of completions. It knows nothing of columns.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from grpo.core.errors import UserError, json_type_name

Item = TypeVar("Item")


def read_jsonl(path: Path, parse_row: Callable[[dict[str, Any]], Item], setting: str = "data.path") -> Iterator[Item]:
    """Yield `parse_row(row)` for each line of a file with one JSON object per line; blank lines are skipped.

    Raises:
        UserError: the file cannot be read, a line is not a JSON object, or `parse_row` raised. It names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"{setting}: there is no file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{setting}: {path} cannot be read as UTF-8 text: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object but {json_type_name(row)}.")
        try:
            yield parse_row(row)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
