"""Checkpoints that are whole or absent: written aside with a manifest, then renamed; verified when they are read."""

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

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"
# Without any of these it is none.
NEEDED = {"optimizer.pt", "rng_state.pth", "run_state.pt", "scheduler.pt", "trainer_state.json", "records.json"}
NEEDED_OF_SEVERAL = {"run_state_0.pt", "rng_state_0.pth", "trainer_state.json", "records.json"}
# FSDP and DeepSpeed keep the optimizer's state in files of their own.
OF_ENGINES = ("optimizer.bin", "optimizer_", "pytorch_model_fsdp", "global_step")
# Suffixes of files that a loader reads, whether or not the manifest lists them.
LOADABLE = {".bin", ".distcp", ".json", ".pt", ".pth", ".safetensors"}
# What a run has written so far: its checkpoints hold copies, from which it resumes.
RECORDS = (
    "metrics.jsonl",
    "transcripts.jsonl",
    "provenance.json",
    "evaluations/before.json",
    "evaluations/before.parquet",
)

# What `provenance.json` holds.
PROVENANCE: dict[str, Any] = {
    "command": str,
    "code": dict | None,
    "versions": dict,
    "hardware": dict,
    "data": dict,
    "model": dict,
    "reward_files": dict,
    "settings": dict,
    "tracking": str | None,
    "resumed": list,
}


def aside(checkpoint: Path) -> Path:
    """Where a checkpoint is written before it takes its place."""
    return checkpoint.parent / "partial"


@contextmanager
def sealed(checkpoint: Path) -> Iterator[Path]:
    """A folder to write `checkpoint` into, by that name; when all is written and on the disk, it takes its place.

    Raises:
        OSError: it could not be written; nothing is left of it, and what stood in its place stands there still.
    """
    partial = aside(checkpoint)
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
            _flush(path)
        shutil.rmtree(checkpoint, ignore_errors=True)
        os.replace(written, checkpoint)
        _flush(checkpoint.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
        needed = NEEDED_OF_SEVERAL if "run_state_0.pt" in manifest else NEEDED
        if any(name.startswith(OF_ENGINES) for name in manifest):
            needed = needed - {"optimizer.pt"}
        if not manifest.keys() >= needed:
            return f"{MANIFEST} does not list {', '.join(sorted(needed - manifest.keys()))}"
        for name, expected in manifest.items():
            file = checkpoint / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size:,} bytes instead of {expected['bytes']:,}"
            if file_sha256(file) != expected["sha256"]:
                return f"the content of {name} has changed"
        for file in sorted(each for each in checkpoint.rglob("*") if each.suffix in LOADABLE):
            name = str(file.relative_to(checkpoint))
            if name not in (*manifest, MANIFEST):
                return f"{MANIFEST} does not list {name}, which would be loaded"
        for name, key, kind in (("trainer_state.json", "global_step", int), ("records.json", "completions", list)):
            if not _holds(checkpoint / name, key, kind):
                return f"{name} is damaged"
        kept = checkpoint / "records" / "provenance.json"
        if kept.is_file() and not _readable(kept):
            return f"records/{kept.name} is damaged"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return None


def _holds(path: Path, key: str, kind: type) -> bool:
    """Whether a file is a JSON object with a value of that `kind` under `key`."""
    try:
        return isinstance(parse_file(path, parse_json_object).get(key), kind)
    except UserError:
        return False


def keep_records(run: Path, written: Path) -> None:
    """Copy what a run has written so far into the checkpoint that is being written."""
    for name in RECORDS:
        if (run / name).is_file():
            (written / "records" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / name, written / "records" / name)
    completions = sorted(path.name for path in run.glob("completions/step_*.parquet"))
    write_json(written / "records.json", {"completions": completions, "sharding": distributed.strategy()})


def put_back(checkpoint: Path | None, run: Path) -> list[str]:
    """Make the records of a run those of its checkpoint, or none; gives the files of completions that are gone."""
    for name in RECORDS:
        if name == "provenance.json" and _readable(run / name):
            continue  # it also tells of sessions since
        (run / name).unlink(missing_ok=True)
        if checkpoint and (kept := checkpoint / "records" / name).is_file():
            (run / name).parent.mkdir(exist_ok=True)
            with atomic_write(run / name) as partial:
                shutil.copyfile(kept, partial)
    if checkpoint is None:
        return []
    completions = json.loads((checkpoint / "records.json").read_text(encoding="utf-8"))["completions"]
    return [name for name in completions if not (run / "completions" / name).is_file()]


def _readable(provenance: Path) -> bool:
    try:
        read_provenance(provenance)
    except (OSError, UserError):
        return False
    return True


def read_provenance(path: Path) -> dict[str, Any]:
    """The content of `provenance.json`.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged.
    """
    content = parse_file(path, parse_json_object)
    if fault := provenance_fault({"resumed": None, "settings": None} | content):
        raise UserError(f"{path} is damaged: {fault}.")
    return content


def provenance_fault(content: Any) -> str | None:
    """What is wrong with a provenance, of which parts may be missing; None if nothing is."""
    if not isinstance(content, dict):
        return f"it is {str(content)[:50]!r}"
    for name, kind in PROVENANCE.items():
        if name in content and not isinstance(content[name], kind):
            return f"{name} is {str(content[name])[:50]!r}"
    for each in content.get("resumed", []):
        if not isinstance(each, dict) or not isinstance(each.get("settings"), dict):
            return f"resumed holds {str(each)[:50]!r}"
    code = content.get("code") or {"revision": "", "clean": True}
    if not isinstance(code.get("revision"), str) or not isinstance(code.get("clean"), bool):
        return f"code is {str(code)[:50]!r}"
    return None


def run_state(checkpoint: Path) -> Path:
    """What a process is in the middle of, besides transformers' files: one for each of several."""
    return checkpoint / (f"run_state_{distributed.rank()}.pt" if distributed.world_size() > 1 else "run_state.pt")


def ranks_of(checkpoint: Path) -> int:
    """How many processes wrote it."""
    return len([*checkpoint.glob("run_state*.pt")])


def sharding_of(checkpoint: Path) -> str:
    """How they shared the policy."""
    kept = json.loads((checkpoint / "records.json").read_text(encoding="utf-8"))
    return str(kept.get("sharding", "ddp"))


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
