"""Paths as a person types and reads them: arguments of commands, the longest names, relative paths in messages.

Commands and the checks of settings call it. It does not know what lies at a path.
"""

import os
from argparse import ArgumentTypeError
from pathlib import Path

from grpo.core.errors import shorten


def display_path(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


MAX_PATH_BYTES, MAX_NAME_BYTES = 2_000, 255  # bytes; Linux allows 4,096, some of which the files of a run need


def path_argument(text: str) -> Path:
    """A path of a command line, for argparse."""
    if fault := path_fault(text):
        raise ArgumentTypeError(f"{shorten(text)}: {fault}")
    return Path(text)


def run_argument(text: str) -> Path:
    """A run directory of a command line, for argparse; `run=FOLDER`, as `grpo.evaluate` takes it, is accepted."""
    return path_argument(text if os.path.exists(text) else text.removeprefix("run="))


def path_fault(path: str) -> str | None:
    """Why no file can have this path on any machine; None where one can."""
    encoded = path.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_PATH_BYTES:
        return f"a path has at most {MAX_PATH_BYTES:,} bytes"
    if any(len(name) > MAX_NAME_BYTES for name in encoded.split(b"/")):
        return f"a file name has at most {MAX_NAME_BYTES} bytes"
    if "\0" in path:
        return "a path has no NUL character"
    try:
        Path(path).expanduser()
    except RuntimeError:
        return f"this machine has no user {path.partition('/')[0].removeprefix('~')}; write the path in full"
    return None
