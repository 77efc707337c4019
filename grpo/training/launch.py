"""From composed settings to a run in its directory: take its lock, start or resume it, write its report.

`grpo.train` calls `run_in_directory` for a run, for each job of a sweep and for a run from Python, and `run_worker` in
every process but the main one. Nothing here knows how a run trains: grpo/training/session.py does.
"""

import errno
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from grpo.config.composition import config_from_saved
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import log, quiet, say
from grpo.core.errors import UserError, first_line
from grpo.core.files import atomic_write
from grpo.core.paths import display_path
from grpo.core.progress import importing, spinner
from grpo.core.redact import mask_message
from grpo.core.run_log import open_run_log
from grpo.core.signals import SignalHandler, StoppedBySignal, call_previous_handler
from grpo.core.text import printable, replace_surrogates
from grpo.runs.labels import resume_command, run_label, sweep_command
from grpo.runs.results import read_results
from grpo.runs.resume import (
    ResumePoint,
    find_checkpoint,
    find_checkpoint_to_repair,
    has_all_steps,
    truncate_to_checkpoint,
)
from grpo.runs.resume_settings import require_same_job, resumed_config, resumed_overrides
from grpo.runs.run_dir import RunDir, link_latest, refuse_used
from grpo.runs.settings import save_settings
from grpo.runs.trust import refuse_links
from grpo.training.run_output import say_next_commands
from grpo.training.session import ShouldPrune, train_run

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Launch:
    """How a run is started: by a command, as a job of a sweep, or from Python.

    Args:
        overrides: the settings that were typed, each as NAME=VALUE.
        command: the command that starts this run, for its provenance.
        folder_setting: what gives the run another directory, for messages.
        hydra_config: Hydra's own settings; None if Hydra has not started the run.
        is_job: the run is a job of a sweep.
        in_python: the process goes on after the run, so a second signal does not end it.
        should_prune: decides after an evaluation whether a trial of a search ends early.
        shared_completions: the folder in which the jobs of a sweep share completions; None if they do not.
    """

    overrides: Sequence[str]
    command: str
    folder_setting: str
    hydra_config: DictConfig | None = None
    is_job: bool = False
    in_python: bool = False
    should_prune: ShouldPrune | None = None
    shared_completions: Path | None = None


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


def run_in_directory(config: Config, out: Path, launch: Launch) -> dict[str, Any]:
    """Start or resume a run in the directory `out`, while this process holds its lock; returns its results.

    Args:
        config: the settings of a new run; with `resume`, those of them that were typed replace the saved ones.

    Raises:
        UserError: a mistake that the user can fix, or a directory that cannot be written.
        StoppedBySignal: a signal came; the message names the command that resumes the run.
    """
    refuse_links(out, trusted=config.trust_run)  # the lock is a file in it
    try:
        # The signal handler is for signals before and after training.
        with RunDir(out).locked(), SignalHandler(exits=not launch.in_python):
            return _start_or_resume(config, out, launch)
    except OSError as error:
        ours = error.filename is not None and Path(error.filename).is_relative_to(out)
        if not ours and error.errno not in DISK_FULL:
            raise
        advice = (
            f"To resume once it can be written: {resume_command(out)}"
            if RunDir(out).is_used()
            else f"Give another directory, {launch.folder_setting}."
        )
        raise UserError(
            f"{error.filename if ours else display_path(out)} cannot be written: {error.strerror}. {advice}"
        ) from error
    except StoppedBySignal as stopped:
        call_previous_handler(stopped.number)
        advice = f"To resume: {resume_command(out)}" if RunDir(out).is_used() else "Nothing was written."
        raise StoppedBySignal(stopped.number, f"Stopped by {stopped.name}{stopped}. {advice}") from stopped


def _start_or_resume(config: Config, out: Path, launch: Launch) -> dict[str, Any]:
    overrides = list(launch.overrides)
    resume_point = None
    if config.resume is not None:
        config = resumed_config(out, config, overrides)
        overrides = resumed_overrides(out, overrides)
    elif launch.is_job and RunDir(out).is_used():
        config = require_same_job(out, config)
    else:
        _refuse_used(out, launch.folder_setting)
    if RunDir(out).is_used():
        resume_point = _find_resume_point(out, config)
        if resume_point is None:
            _report_finished_run(out, launch)
            return read_results(out) or {}

    def prepare_directory() -> None:
        open_run_log()
        if resume_point:
            truncate_to_checkpoint(resume_point)
        save_settings(out, config, overrides, None if resume_point else launch.hydra_config)
        if not launch.is_job:
            link_latest(out)

    checkpoint = resume_point.checkpoint if resume_point else None
    distributed.broadcast_run_dir(out, checkpoint, asdict(config))
    results = train_run(
        config,
        out,
        run_label(out, overrides),
        sweep_command(out) or launch.command,
        checkpoint,
        launch.should_prune,
        prepare_directory,
        launch.shared_completions,
        exits=not launch.in_python,
    )
    if not launch.is_job:
        write_report(out)
        say_next_commands(out, config, overrides)
    RunDir(out).delete_previous()
    return results


def _refuse_used(out: Path, folder_setting: str) -> None:
    """
    Raises:
        UserError: the directory of a new run holds a run or a sweep.
    """
    if RunDir(out).is_used():
        raise UserError(
            f"{display_path(out)} holds a run already. To resume it: {resume_command(out)}. For another: "
            f"{folder_setting}."
        )
    refuse_used(out, folder_setting)


def _find_resume_point(out: Path, config: Config) -> ResumePoint | None:
    """Where the run in `out` resumes; None if it is finished and complete."""
    return find_checkpoint_to_repair(out, config) if has_all_steps(out, config) else find_checkpoint(out, config)


def _report_finished_run(out: Path, launch: Launch) -> None:
    if not (launch.is_job or RunDir(out).report_html.is_file()):
        write_report(out)
    RunDir(out).delete_previous()
    say(f"{display_path(out)} has all its steps already. For more: {resume_command(out)} max_steps=N")


def write_report(out: Path) -> None:
    """Write the report of a run and print its path."""
    with importing("Matplotlib"):
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
