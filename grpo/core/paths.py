"""Paths in command lines, settings and messages: their form, their length limits, their shortest spelling.

Commands and the validation of settings call it. It does not know what a file or folder contains.
"""

import os
from argparse import ArgumentTypeError
from pathlib import Path

from grpo.core.errors import shorten

# Linux allows paths of 4,096 bytes; the files in a run directory need a part of them.
MAX_PATH_BYTES, MAX_NAME_BYTES = 2_000, 255


def display_path(path: Path) -> str:
    """A path for a message: relative if it is below the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def path_argument(text: str) -> Path:
    """argparse type: a path.

    Raises:
        ArgumentTypeError: no file can have this path.
    """
    if fault := path_fault(text):
        raise ArgumentTypeError(f"{shorten(text)}: {fault}")
    return Path(text)


def run_argument(text: str) -> Path:
    """argparse type: a run directory; also accepts `run=FOLDER`, the form of `grpo.evaluate`."""
    return path_argument(text if os.path.exists(text) else text.removeprefix("run="))


def path_fault(path: str) -> str | None:
    """The reason why no file can have this path; None if a file can."""
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
