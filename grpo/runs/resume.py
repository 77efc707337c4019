"""Resuming a run: which checkpoint it resumes from, and moving what was written after that checkpoint away.

Called by the launch of a run. It does not load the checkpoint; the trainer does.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import say
from grpo.core.errors import UserError
from grpo.core.paths import display_path
from grpo.runs.checkpoints import RECORDS, newest_whole, put_back, ranks_of, sharding_of, step_of
from grpo.runs.results import results_of
from grpo.runs.run_dir import ERROR, quoted
from grpo.runs.settings import settings_of

# Holds what a resumed run wrote after its checkpoint, until its new results are written.
PREVIOUS = "previous"


def is_done(folder: Path, config: Config) -> bool:
    """Whether the run has its results, and all the steps that `config` asks for.

    Raises:
        UserError: it has more than that.
    """
    try:
        results = results_of(folder)
    except UserError:
        return False  # it was damaged since, and is written again
    if results is None:
        return False
    saved = settings_of(folder)
    if (config.max_steps, config.num_train_epochs) == (saved.max_steps, saved.num_train_epochs):
        return True
    if config.max_steps is not None and config.max_steps < results["steps"]:
        raise UserError(f"max_steps={config.max_steps}: the run has {results['steps']} steps already.")
    if not newest_whole(folder / "checkpoints")[0]:
        raise UserError(
            f"{folder} is finished and has no complete checkpoint to resume from; start a new run with more steps, and "
            "save_steps=N for one that can go on."
        )
    return config.max_steps == results["steps"]


@dataclass(frozen=True)
class Resumption:
    """Where a run resumes."""

    folder: Path
    checkpoint: Path | None  # None: at its first step
    damaged: dict[Path, str]  # newer checkpoints, and what is wrong with each

    @property
    def step(self) -> int:
        return -1 if self.checkpoint is None else step_of(self.checkpoint)


def find_checkpoint(folder: Path, config: Config) -> Resumption:
    """The newest complete checkpoint of the run in `folder`; changes nothing.

    Raises:
        UserError: the checkpoint is past the last step that `config` asks for, or of another number of processes.
    """
    checkpoint, damaged = newest_whole(folder / "checkpoints")
    found = Resumption(folder, checkpoint, damaged)
    if checkpoint:
        before, now = (
            (ranks_of(checkpoint), sharding_of(checkpoint)),
            (distributed.world_size(), distributed.strategy()),
        )
        if before != now:
            again = f"{distributed.launch_command(*before)} resume={quoted(Path(display_path(folder)))}"
            raise UserError(
                f"{display_path(folder)} was trained by {_processes(*before)}, each with random numbers of its own, "
                f"and "
                f"cannot go on with {_processes(*now)}: {again}"
            )
    if config.max_steps is not None and config.max_steps < found.step:
        raise UserError(f"max_steps={config.max_steps}: the run is at step {found.step} already.")
    return found


def missing_from(folder: Path) -> list[str]:
    """The files of a finished run's policy and evaluations that are gone."""
    names = ["policy/config.json"]
    names += [f"evaluations/{when}.{kind}" for when in ("before", "after") for kind in ("json", "parquet")]
    gone = [name for name in names if not (folder / name).is_file()]
    weights = any((folder / "policy").glob("*.safetensors"))
    return gone if weights else ["policy/*.safetensors", *gone]


def to_complete(folder: Path, config: Config) -> Resumption | None:
    """Where a finished run resumes to write missing files again; None if none is missing.

    Raises:
        UserError: no checkpoint of its last step is left.
    """
    if not (gone := missing_from(folder)):
        return None
    results, found = results_of(folder), find_checkpoint(folder, config)
    assert results is not None
    if found.step != results["steps"]:
        raise UserError(
            f"{display_path(folder)} is finished, but {', '.join(gone)} is missing, and there is no checkpoint of step "
            f"{results['steps']} to write it from. To run it again: python -m grpo.reproduce {display_path(folder)}"
        )
    say(f"Missing, and written again: {', '.join(gone)}.")
    return found


def cut_back(found: Resumption) -> None:
    """Move what the run wrote after its checkpoint to `previous/`.

    Results are moved first: a process that is killed in between leaves an unfinished run, which can be resumed.
    """
    folder, checkpoint = found.folder, found.checkpoint
    try:
        if results_of(folder) is not None:
            discard_previous(folder)  # it is older than these results
    except UserError as error:
        say(f"{error} It is written again.")
    for name in ("results.json", "report.html", "evaluations/after.json", "evaluations/after.parquet"):
        set_aside(folder, name)
    (folder / ERROR).unlink(missing_ok=True)
    for each, wrong in found.damaged.items():
        aside = each.rename(each.with_name(f"damaged-{each.name}"))
        say(f"{each.name} is damaged ({wrong}); it is left out, as {display_path(aside)}.")
    for path in (*folder.glob("completions/step_*.parquet"), *folder.glob("evaluations/step_*")):
        step = re.fullmatch(r"step_(\d+)", path.stem)
        if step and int(step[1]) > found.step:
            set_aside(folder, str(path.relative_to(folder)))
    for name in RECORDS:
        if name != "provenance.json":  # it also records later sessions
            set_aside(folder, name)
    if gone := put_back(checkpoint, folder):
        say(f"{len(gone)} files of completions/ are gone, {gone[0]} the first; they are not made again.")
    if checkpoint:
        say(f"Resuming from step {found.step}.")
    else:
        none = "No complete checkpoint is left" if found.damaged else "It has no checkpoint yet"
        say(f"{none}: it starts at its first step.")


def set_aside(folder: Path, name: str) -> None:
    """Move a file or a folder of a run to `previous/`; if one of its name is there already, delete it instead."""
    path, aside = folder / name, folder / PREVIOUS / name
    if aside.exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    elif path.exists():
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.rename(aside)


def discard_previous(folder: Path) -> None:
    """Delete what was moved to `previous/`, once new results are written."""
    if (folder / PREVIOUS).is_dir():
        shutil.rmtree(folder / PREVIOUS)


def _processes(count: int, sharding: str) -> str:
    return f"{count} process{'es' * (count > 1)}" + (f" with {sharding}" if sharding != "ddp" else "")
