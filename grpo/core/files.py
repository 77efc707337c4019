"""Atomic writing of files and folders, and reading of JSON, JSON Lines and YAML with messages that name a damaged file.

Every package that stores results calls it. It does not know which files a run directory has.
"""

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

from grpo.core.environment_values import to_interpolations
from grpo.core.errors import UserError, first_line, json_type_name

Parsed = TypeVar("Parsed")


def parse_file(path: Path, parse: Callable[[str], Parsed]) -> Parsed:
    """The result of `parse` on the text of a file.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file cannot be read, or `parse` raises an error for its text.
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
        return "it contains a ${ without the name of a setting"
    return first_line(error)


def parse_yaml(text: str) -> Any:
    """The OmegaConf config in YAML text.

    Raises:
        ValueError: the text contains neither a mapping nor a list.
    """
    try:
        return OmegaConf.create(text)
    except AssertionError as error:
        raise ValueError("it contains neither a mapping nor a list") from error


def parse_json_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        ValueError: the text is not JSON, or its value is not an object.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"it contains {json_type_name(content)}, not an object")
    return content


def read_json_lines(path: Path, needed: set[str]) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; an empty list if the file does not exist.

    A last line without a line break is left out, because a process may be writing it.

    Raises:
        UserError: a line is not a JSON object, or lacks one of the `needed` keys.
    """
    if not path.is_file():
        return []
    objects = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            objects.append(parse_json_object(line))
            if not objects[-1].keys() >= needed:
                raise ValueError(f"it lacks {', '.join(sorted(needed))}")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged in line {number}: {first_line(error)}.") from error
    return objects


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: the context gives a temporary path, which replaces `path` at the end.

    After an exception the temporary file is deleted and `path` is unchanged.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # it could be a link, and writing would change the file it points to
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path, make_room: Callable[[], None]) -> Iterator[Path]:
    """Write a folder atomically: the context gives a temporary path, which is renamed to `path` at the end.

    `make_room` is called before the renaming, and must move away a folder that exists at `path`.
    """
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        make_room()
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically; texts that came from environment variables are written as interpolations (`redact`)."""
    with atomic_write(path) as partial:
        partial.write_text(to_json(content), encoding="utf-8")


def to_json(content: dict[str, Any]) -> str:
    return json.dumps(to_interpolations(content), indent=2, ensure_ascii=False) + "\n"
