"""Atomic writing of files, and reading with messages that name a damaged file."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from grpo.core.errors import UserError, first_line, json_type_name
from grpo.core.redact import to_interpolations

T = TypeVar("T")


def parse_file(path: Path, parse: Callable[[str], T]) -> T:
    """The text of a file, parsed.

    Raises:
        FileNotFoundError: there is no file.
        UserError: it cannot be read, or `parse` refuses its text.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is damaged: {_why_unreadable(error)}.") from error


def _why_unreadable(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "its lists or mappings are nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        mark = error.problem_mark or error.context_mark
        return f"it is not YAML{f', line {mark.line + 1}' if mark else ''}: {error.problem}"
    if isinstance(error, GrammarParseError):
        return "it holds a ${ that starts no name of a setting"
    return first_line(error)


def parse_yaml(text: str) -> Any:
    """YAML as OmegaConf reads it.

    Raises:
        ValueError: it holds neither a mapping nor a list.
    """
    try:
        return OmegaConf.create(text)
    except AssertionError as error:
        raise ValueError("it holds neither a mapping nor a list") from error


def parse_json_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        ValueError: it is not JSON, or JSON of another type.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"it holds {json_type_name(content)}, not an object")
    return content


def read_json_lines(path: Path, needed: set[str]) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file, each with the `needed` keys; the last one may still be being written.

    Raises:
        UserError: one of the others is damaged.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            found.append(parse_json_object(line))
            if not found[-1].keys() >= needed:
                raise ValueError(f"it does not hold {', '.join(sorted(needed))}")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged in line {number}: {first_line(error)}.") from error
    return found


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; at the end it replaces `path`, after an exception it is deleted."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # it may be a link to another file
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path, make_room: Callable[[], None]) -> Iterator[Path]:
    """As `atomic_write`, for a folder; `make_room` moves an old folder at `path` away."""
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        make_room()
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def file_sha256(path: Path) -> str:
    with path.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically; texts from the environment are stored as their interpolations."""
    with atomic_write(path) as partial:
        partial.write_text(to_json(content), encoding="utf-8")


def to_json(content: dict[str, Any]) -> str:
    return json.dumps(to_interpolations(content), indent=2, ensure_ascii=False) + "\n"
