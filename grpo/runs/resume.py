"""Resuming a run: which checkpoint it resumes from, and moving what was written after that checkpoint away.

Called by the launch of a run. It does not load the checkpoint; the trainer does.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import say
from grpo.core.errors import UserError
from grpo.core.paths import display_path
from grpo.runs.checkpoints import newest_complete_checkpoint, processes_of, restore_snapshot, step_of, strategy_of
from grpo.runs.results import read_results
from grpo.runs.run_dir import RunDir, quoted_path
from grpo.runs.settings import read_config


def has_all_steps(folder: Path, config: Config) -> bool:
    """Whether the run has results, after all the steps that `config` asks for.

    Raises:
        UserError: it has more steps.
    """
    try:
        results = read_results(folder)
    except UserError:
        return False  # damaged results are written again
    if results is None:
        return False
    saved = read_config(folder)
    if (config.max_steps, config.num_train_epochs) == (saved.max_steps, saved.num_train_epochs):
        return True
    if config.max_steps is not None and config.max_steps < results["steps"]:
        raise UserError(f"max_steps={config.max_steps}: the run has {results['steps']} steps already.")
    if not newest_complete_checkpoint(RunDir(folder).checkpoints)[0]:
        raise UserError(
            f"{folder} is finished and has no complete checkpoint to resume from; start a new run with more steps, and "
            "save_steps=N for one that can be resumed."
        )
    return config.max_steps == results["steps"]


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint from which a run is resumed."""

    folder: Path
    checkpoint: Path | None  # None: the run starts at its first step
    damaged: dict[Path, str]  # each newer checkpoint, and what is wrong with it

    @property
    def step(self) -> int:
        return -1 if self.checkpoint is None else step_of(self.checkpoint)


def find_checkpoint(folder: Path, config: Config) -> ResumePoint:
    """The newest complete checkpoint of the run in `folder`; changes nothing.

    Raises:
        UserError: the checkpoint is past the last step that `config` asks for, or of another number of processes.
    """
    checkpoint, damaged = newest_complete_checkpoint(RunDir(folder).checkpoints)
    resume_point = ResumePoint(folder, checkpoint, damaged)
    if checkpoint:
        before, now = (
            (processes_of(checkpoint), strategy_of(checkpoint)),
            (distributed.world_size(), distributed.strategy()),
        )
        if before != now:
            command = f"{distributed.launch_command(*before)} resume={quoted_path(Path(display_path(folder)))}"
            raise UserError(
                f"{display_path(folder)} was trained by {_processes(*before)}, each with random numbers of its own, "
                f"and cannot be resumed by {_processes(*now)}: {command}"
            )
    if config.max_steps is not None and config.max_steps < resume_point.step:
        raise UserError(f"max_steps={config.max_steps}: the run is at step {resume_point.step} already.")
    return resume_point


def missing_files(run: RunDir) -> list[str]:
    """The files of the policy and the evaluations of a finished run that are missing."""
    files = [run.policy / "config.json"]
    for when in ("before", "after"):
        files += [run.evaluation(when), run.evaluation_table(when)]
    missing = [str(path.relative_to(run.path)) for path in files if not path.is_file()]
    weights = any(run.policy.glob("*.safetensors"))
    return missing if weights else [f"{run.policy.name}/*.safetensors", *missing]


def find_checkpoint_to_repair(folder: Path, config: Config) -> ResumePoint | None:
    """The last checkpoint of a finished run, from which missing files are written again; None if none is missing.

    Raises:
        UserError: there is no checkpoint of its last step.
    """
    if not (missing := missing_files(RunDir(folder))):
        return None
    results, resume_point = read_results(folder), find_checkpoint(folder, config)
    assert results is not None
    if resume_point.step != results["steps"]:
        raise UserError(
            f"{display_path(folder)} is finished, but {', '.join(missing)} is missing, and there is no checkpoint of "
            f"step {results['steps']} to write it from. To run it again: "
            f"python -m grpo.reproduce {display_path(folder)}"
        )
    say(f"Missing, and written again: {', '.join(missing)}.")
    return resume_point


def truncate_to_checkpoint(resume_point: ResumePoint) -> None:
    """Move the files that the run wrote after its checkpoint to `previous/`, and restore those of the checkpoint.

    Results are moved first: a process that is killed in between leaves an unfinished run, which can be resumed.
    """
    folder, run = resume_point.folder, RunDir(resume_point.folder)
    try:
        if read_results(folder) is not None:
            run.delete_previous()  # what it holds is older than these results
    except UserError as error:
        say(f"{error} It is written again.")
    names = ("after", "after_samples")
    evaluations = [path for name in names for path in (run.evaluation(name), run.evaluation_table(name))]
    for path in (run.results_json, run.report_html, *evaluations):
        run.move_to_previous(path)
    run.error_txt.unlink(missing_ok=True)
    for checkpoint, fault in resume_point.damaged.items():
        renamed = checkpoint.rename(checkpoint.with_name(f"damaged-{checkpoint.name}"))
        say(f"{checkpoint.name} is damaged ({fault}); it is renamed to {display_path(renamed)}.")
    for path in (*run.completion_files(), *run.evaluations.glob("step_*")):
        step = re.fullmatch(r"step_(\d+)", path.stem)
        if step and int(step[1]) > resume_point.step:
            run.move_to_previous(path)
    for path in run.snapshot_files():
        if path != run.provenance_json:  # it also records later sessions
            run.move_to_previous(path)
    if missing := restore_snapshot(resume_point.checkpoint, run):
        say(f"{len(missing)} files of completions/ are missing, {missing[0]} is the first; they are not written again.")
    if resume_point.checkpoint:
        say(f"Resuming from step {resume_point.step}.")
    else:
        reason = "No complete checkpoint is left" if resume_point.damaged else "It has no checkpoint yet"
        say(f"{reason}: it starts at its first step.")


def _processes(count: int, sharding: str) -> str:
    return f"{count} process{'es' * (count > 1)}" + (f" with {sharding}" if sharding != "ddp" else "")
