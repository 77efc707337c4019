"""Checkpoints: written to a temporary folder with a manifest, then renamed, and verified before they are read.

Called by the trainer, which writes and loads them, and by `resume`, which finds the newest complete one. It must not
import torch, and knows of the trainer's state only the names of its files.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo.core import distributed
from grpo.core.errors import UserError
from grpo.core.files import atomic_write, file_sha256, parse_file, parse_json_object, write_json
from grpo.runs.run_dir import RunDir
from grpo.runs.saved_provenance import is_readable

MANIFEST = "manifest.json"
SNAPSHOT = "records"  # the copies of the files that the run had written
SNAPSHOT_INDEX = "records.json"
CHECKPOINT_PREFIX = "checkpoint-"
# A checkpoint without any one of these is incomplete.
REQUIRED = {"optimizer.pt", "rng_state.pth", "run_state.pt", "scheduler.pt", "trainer_state.json", SNAPSHOT_INDEX}
REQUIRED_OF_SEVERAL = {"run_state_0.pt", "rng_state_0.pth", "trainer_state.json", SNAPSHOT_INDEX}
# FSDP and DeepSpeed write the optimizer's state to files of their own.
SHARDED_STATE = ("optimizer.bin", "optimizer_", "pytorch_model_fsdp", "global_step")
# Suffixes of files that a loader reads, whether or not the manifest lists them.
LOADABLE = {".bin", ".distcp", ".json", ".pt", ".pth", ".safetensors"}


def temporary_folder(checkpoint: Path) -> Path:
    """The folder in which a checkpoint is written before it is renamed to its place."""
    return checkpoint.parent / "partial"


@contextmanager
def atomic_checkpoint(checkpoint: Path) -> Iterator[Path]:
    """Yields a temporary folder; at the end its subfolder named as `checkpoint` is complete on disk and replaces it.

    Raises:
        OSError: it could not be written; an older checkpoint of the same name is unchanged, and no file is left over.
    """
    partial = temporary_folder(checkpoint)
    shutil.rmtree(partial, ignore_errors=True)
    written = partial / checkpoint.name
    try:
        written.mkdir(parents=True)
        yield partial
        files = sorted(path for path in written.rglob("*") if path.is_file())
        manifest = {
            str(path.relative_to(written)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        }
        write_json(written / MANIFEST, manifest)
        for path in (*files, written / MANIFEST, written):
            _fsync(path)
        shutil.rmtree(checkpoint, ignore_errors=True)
        os.replace(written, checkpoint)
        _fsync(checkpoint.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is complete and unchanged."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return _fault_of_files(checkpoint, manifest) or _fault_of_content(checkpoint)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"


def _fault_of_files(checkpoint: Path, manifest: dict[str, Any]) -> str | None:
    required = REQUIRED_OF_SEVERAL if "run_state_0.pt" in manifest else REQUIRED
    if any(name.startswith(SHARDED_STATE) for name in manifest):
        required = required - {"optimizer.pt"}
    if not manifest.keys() >= required:
        return f"{MANIFEST} does not list {', '.join(sorted(required - manifest.keys()))}"
    for name, expected in manifest.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size:,} bytes instead of {expected['bytes']:,}"
        if file_sha256(file) != expected["sha256"]:
            return f"the content of {name} has changed"
    for file in sorted(path for path in checkpoint.rglob("*") if path.suffix in LOADABLE):
        name = str(file.relative_to(checkpoint))
        if name not in (*manifest, MANIFEST):
            return f"{MANIFEST} does not list {name}, which would be loaded"
    return None


def _fault_of_content(checkpoint: Path) -> str | None:
    for name, key, kind in (("trainer_state.json", "global_step", int), (SNAPSHOT_INDEX, "completions", list)):
        if not _has_value(checkpoint / name, key, kind):
            return f"{name} is damaged"
    provenance = _snapshot(checkpoint).provenance_json
    if provenance.is_file() and not is_readable(provenance):
        return f"{provenance.relative_to(checkpoint)} is damaged"
    return None


def _has_value(path: Path, key: str, kind: type) -> bool:
    """Whether a file is a JSON object with a value of type `kind` under `key`."""
    try:
        return isinstance(parse_file(path, parse_json_object).get(key), kind)
    except UserError:
        return False


def _snapshot(checkpoint: Path) -> RunDir:
    return RunDir(checkpoint / SNAPSHOT)


def save_snapshot(run: RunDir, written: Path) -> None:
    """Copy the files that a run has written so far into the checkpoint that is being written."""
    for source, copy in zip(run.snapshot_files(), _snapshot(written).snapshot_files(), strict=True):
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    completions = [path.name for path in run.completion_files()]
    write_json(written / SNAPSHOT_INDEX, {"completions": completions, "sharding": distributed.strategy()})


def restore_snapshot(checkpoint: Path | None, run: RunDir) -> list[str]:
    """Replace the files of a run by the copies in its checkpoint; without a checkpoint, delete them.

    Returns:
        the files of completions that the checkpoint lists and that are missing.
    """
    copies = _snapshot(checkpoint or run.path).snapshot_files()
    for path, copy in zip(run.snapshot_files(), copies, strict=True):
        if path == run.provenance_json and is_readable(path):
            continue  # it also records later sessions
        path.unlink(missing_ok=True)
        if checkpoint and copy.is_file():
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path) as partial:
                shutil.copyfile(copy, partial)
    if checkpoint is None:
        return []
    completions = json.loads((checkpoint / SNAPSHOT_INDEX).read_text(encoding="utf-8"))["completions"]
    return [name for name in completions if not (run.completions / name).is_file()]


def run_state_file(checkpoint: Path) -> Path:
    """The file of this process with the state of the run that transformers' own files do not hold."""
    several = distributed.world_size() > 1
    return checkpoint / (f"run_state_{distributed.rank()}.pt" if several else "run_state.pt")


def processes_of(checkpoint: Path) -> int:
    """How many processes wrote it."""
    return len([*checkpoint.glob("run_state*.pt")])


def strategy_of(checkpoint: Path) -> str:
    """How these processes shared the policy, as `distributed.strategy` names it."""
    index = json.loads((checkpoint / SNAPSHOT_INDEX).read_text(encoding="utf-8"))
    return str(index.get("sharding", "ddp"))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX))


def newest_complete_checkpoint(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest complete checkpoint in `folder`, and what is wrong with each newer one."""
    checkpoints = [
        path for path in folder.glob(f"{CHECKPOINT_PREFIX}*") if path.name.removeprefix(CHECKPOINT_PREFIX).isdecimal()
    ]
    damaged: dict[Path, str] = {}
    for checkpoint in sorted(checkpoints, key=step_of, reverse=True):
        if (fault := checkpoint_fault(checkpoint)) is None:
            return checkpoint, damaged
        damaged[checkpoint] = fault
    return None, damaged
