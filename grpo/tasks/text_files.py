"""The text of data files, plain or compressed by gzip, and JSON in which no object has a key twice.

Called by the readers of JSON Lines, JSON and CSV. It knows neither rows nor columns.
"""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError

GZIP_SUFFIX = ".gz"


def read_text(path: Path, setting: str) -> str:
    """The text of a file in UTF-8; a file whose name ends in .gz is decompressed.

    Raises:
        UserError: there is no such file, or it cannot be read as text.
    """
    try:
        content = path.read_bytes()
        if path.name.lower().endswith(GZIP_SUFFIX):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{setting}: there is no file {path}.") from error
    except IsADirectoryError as error:
        raise UserError(f"{setting}: {path} is a folder; type the name of a file.") from error
    except gzip.BadGzipFile as error:
        raise UserError(f"{setting}: {path} is not compressed by gzip, as its name says: {error}.") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{setting}: {path} cannot be read as UTF-8 text: {error}.") from error


def parse_json(text: str) -> Any:
    """The value that `text` holds.

    Raises:
        json.JSONDecodeError: it is not JSON.
        UserError: an object in it has a key twice, of which one value would be lost, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise UserError("not JSON: nested too deeply.") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"an object has the key '{twice}' twice; which of its values counts is not clear.")
    return content
