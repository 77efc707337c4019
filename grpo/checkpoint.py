"""Checkpoints that are whole or absent: written aside with a manifest, then renamed; verified when they are read."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo.files import file_sha256, write_json

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"


@contextmanager
def sealed(checkpoint: Path) -> Iterator[Path]:
    """A folder to write `checkpoint` into, by that name; when all is written and on the disk, it takes its place.

    Raises:
        OSError: it could not be written; nothing is left of it, and what stood in its place stands there still.
    """
    aside = checkpoint.parent / "partial"
    shutil.rmtree(aside, ignore_errors=True)
    written = aside / checkpoint.name
    try:
        written.mkdir(parents=True)
        yield aside
        files = sorted(path for path in written.rglob("*") if path.is_file())
        manifest = {
            str(path.relative_to(written)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        }
        write_json(written / MANIFEST, manifest)
        for path in (*files, written / MANIFEST, written):
            _flush(path)
        shutil.rmtree(checkpoint, ignore_errors=True)
        os.replace(written, checkpoint)
        _flush(checkpoint.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            file = checkpoint / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size:,} bytes instead of {expected['bytes']:,}"
            if file_sha256(file) != expected["sha256"]:
                return f"the content of {name} has changed"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{MANIFEST} is damaged"
    return None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def newest_whole(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest whole checkpoint in `folder`, and the damaged ones that are newer, each with what is wrong with it."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    damaged: dict[Path, str] = {}
    for checkpoint in sorted(found, key=step_of, reverse=True):
        if (wrong := damage(checkpoint)) is None:
            return checkpoint, damaged
        damaged[checkpoint] = wrong
    return None, damaged
