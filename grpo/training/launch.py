"""From composed settings to a run in its directory: take its lock, start or resume it, write its report.

`grpo.train` calls `run_in_directory` for a run and for each job of a sweep, and `run_worker` in every process but the
main one. Nothing here knows how a run trains: grpo/training/session.py does.
"""

import errno
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from grpo.config.application import Command, is_multirun, job_overrides
from grpo.config.composition import config_from_saved, load_config, to_dataclass, with_absolute_paths
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import log, quiet, say
from grpo.core.errors import UserError, first_line
from grpo.core.files import atomic_write
from grpo.core.paths import display_path
from grpo.core.progress import spinner
from grpo.core.redact import mask_message, mask_overrides
from grpo.core.run_log import open_run_log
from grpo.core.signals import SignalHandler, StoppedBySignal, call_previous_handler
from grpo.core.text import printable, replace_surrogates
from grpo.runs.labels import resume_command, run_label, sweep_command
from grpo.runs.resume import (
    ResumePoint,
    find_checkpoint,
    find_checkpoint_to_repair,
    has_all_steps,
    truncate_to_checkpoint,
)
from grpo.runs.resume_settings import require_same_job, resumed_config, resumed_overrides
from grpo.runs.run_dir import RunDir, SweepDir, link_latest, refuse_used
from grpo.runs.settings import save_settings
from grpo.runs.trust import refuse_links
from grpo.training.run_output import say_next_commands
from grpo.training.session import ShouldPrune, train_run

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Maps Hydra's own settings to the pruning decision of a trial; None if the run is no trial, or is never pruned.
FindShouldPrune = Callable[[DictConfig], ShouldPrune | None]


@contextmanager
def save_error_of_job(out: Path) -> Iterator[None]:
    """Write the error that ends a job of a sweep to its directory, so that the other jobs run."""
    try:
        yield
        return
    except UserError as error:
        why = mask_message(str(error))
        log.error("%s", printable(why))
    except Exception as error:
        log.exception("unexpected error")
        why = f"{type(error).__name__}: {first_line(error)} (traceback: {display_path(RunDir(out).train_log)})"
    if not RunDir(out).is_locked():
        open_run_log()
        with atomic_write(RunDir(out).error_txt) as partial:
            partial.write_text(replace_surrogates(why), encoding="utf-8")


def run_in_directory(composed: DictConfig, out: Path, hydra_config: Any, find_should_prune: FindShouldPrune) -> None:
    """Start or resume a run in the directory `out`, while this process holds its lock.

    Raises:
        UserError: a mistake that the user can fix, or a directory that cannot be written.
        StoppedBySignal: a signal came; the message names the command that resumes the run.
    """
    refuse_links(out, trusted=bool(composed.get("trust_run")))  # the lock is a file in it
    try:
        with RunDir(out).locked(), SignalHandler():  # for signals before and after training
            _start_or_resume(composed, out, hydra_config, find_should_prune)
    except OSError as error:
        ours = error.filename is not None and Path(error.filename).is_relative_to(out)
        if not ours and error.errno not in DISK_FULL:
            raise
        setting = "hydra.sweep.dir" if is_multirun() else "hydra.run.dir"
        advice = (
            f"To resume once it can be written: {resume_command(out)}"
            if RunDir(out).is_used()
            else f"Give another directory, {setting}=FOLDER."
        )
        raise UserError(
            f"{error.filename if ours else display_path(out)} cannot be written: {error.strerror}. {advice}"
        ) from error
    except StoppedBySignal as stopped:
        call_previous_handler(stopped.number)
        advice = f"To resume: {resume_command(out)}" if RunDir(out).is_used() else "Nothing was written."
        raise StoppedBySignal(stopped.number, f"Stopped by {stopped.name}{stopped}. {advice}") from stopped


def _start_or_resume(composed: DictConfig, out: Path, hydra_config: Any, find_should_prune: FindShouldPrune) -> None:
    overrides = job_overrides()
    resume_point = None
    if composed.get("resume") is not None:
        config = resumed_config(out, with_absolute_paths(to_dataclass(composed, Config)), overrides)
        overrides = resumed_overrides(out, overrides)
    elif is_multirun() and RunDir(out).is_used():
        config = require_same_job(out, load_config(composed, Config))
    else:
        config = _settings_of_new_run(composed, out)
    if RunDir(out).is_used():
        resume_point = _find_resume_point(out, config)
        if resume_point is None:
            _report_finished_run(out)
            return

    def prepare_directory() -> None:
        open_run_log()
        if resume_point:
            truncate_to_checkpoint(resume_point)
        save_settings(out, config, overrides, None if resume_point else hydra_config)
        if not is_multirun():
            link_latest(out)

    arguments = shlex.join(mask_overrides(Command.current.arguments))
    command = sweep_command(out) or f"{distributed.launch_command()} {arguments}".rstrip()
    checkpoint = resume_point.checkpoint if resume_point else None
    distributed.broadcast_run_dir(out, checkpoint, asdict(config))
    train_run(
        config,
        out,
        run_label(out, overrides),
        command,
        checkpoint,
        find_should_prune(hydra_config),
        prepare_directory,
        _shared_completions(hydra_config),
    )
    if not is_multirun():
        write_report(out)
        say_next_commands(out)
    RunDir(out).delete_previous()


def _shared_completions(hydra_config: Any) -> Path | None:
    """The folder in which the jobs of this sweep share completions; None if they do not, or if this is no job."""
    if not (is_multirun() and hydra_config.sweeper.get("share_evaluation")):
        return None
    return SweepDir(Path(hydra_config.sweep.dir)).shared_completions


def _settings_of_new_run(composed: DictConfig, out: Path) -> Config:
    """
    Raises:
        UserError: the directory holds a run or a sweep, or a setting is wrong.
    """
    if RunDir(out).is_used():
        raise UserError(
            f"{display_path(out)} holds a run already. To resume it: {resume_command(out)}. For another: "
            "hydra.run.dir=FOLDER."
        )
    refuse_used(out, "hydra.run.dir=FOLDER")
    return load_config(composed, Config)


def _find_resume_point(out: Path, config: Config) -> ResumePoint | None:
    """Where the run in `out` resumes; None if it is finished and complete."""
    return find_checkpoint_to_repair(out, config) if has_all_steps(out, config) else find_checkpoint(out, config)


def _report_finished_run(out: Path) -> None:
    if not (is_multirun() or RunDir(out).report_html.is_file()):
        write_report(out)
    RunDir(out).delete_previous()
    say(f"{display_path(out)} has all its steps already. For more: {resume_command(out)} max_steps=N")


def write_report(out: Path) -> None:
    """Write the report of a run and print its path."""
    with spinner("importing Matplotlib"):
        from grpo.reports.run_report import write_run_report  # it imports Matplotlib
    with spinner("drawing the report"):
        page = write_run_report(out)
    say(f"Report: {display_path(page)}")


def run_worker() -> None:
    """Run this process's part of the run that the main process starts; prints nothing."""
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        with quiet():
            out, checkpoint, settings = distributed.receive_run_dir()
            if out:
                with SignalHandler():
                    train_run(config_from_saved(settings, Config), out, checkpoint=checkpoint)
    except StoppedBySignal as stopped:
        sys.exit(stopped.exit_code)  # the main process prints the message
    except UserError as error:
        # If the main process meets the same error, it has printed it by then and the launcher ends this process.
        time.sleep(2)
        raise UserError(f"rank {distributed.rank()}: {error}") from error
