"""From composed settings to a run in its directory: lock, start or resume, report; and what other processes do."""

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
from grpo.core.files import written_aside
from grpo.core.paths import shortest
from grpo.core.progress import doing
from grpo.core.redact import masked_overrides, masked_text
from grpo.core.run_log import begin_log
from grpo.core.signals import Signals, Stopped, hand_on
from grpo.core.text import printable, valid
from grpo.runs.labels import command_of, command_to_resume, label_of
from grpo.runs.lock import in_use, owned
from grpo.runs.resume import cut_back, discard_previous, find_checkpoint, is_done, to_complete
from grpo.runs.resume_settings import overrides_with, resume, same_job
from grpo.runs.run_dir import ERROR, holds_run, point_latest, refuse_used
from grpo.runs.settings import save_settings
from grpo.runs.trust import refuse_links
from grpo.training.session import Pruning, train_run

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def by_itself(out: Path) -> Iterator[None]:
    """A job of a sweep that fails leaves its reason in its folder; the others go on."""
    try:
        yield
        return
    except UserError as error:
        why = masked_text(str(error))
        log.error("%s", printable(why))
    except Exception as error:
        log.exception("unforeseen")
        why = f"{type(error).__name__}: {first_line(error)} ({shortest(out / 'train.log')} has all of it)"
    if not in_use(out):
        begin_log()
        with written_aside(out / ERROR) as partial:
            partial.write_text(valid(why), encoding="utf-8")


def in_its_folder(
    composed: DictConfig, out: Path, settings: Any, pruning: Callable[[DictConfig], Pruning | None]
) -> None:
    refuse_links(out, trusted=bool(composed.get("trust_run")))  # the lock is a file in it
    try:
        with owned(out), Signals():  # those that come before training and after it
            start_or_resume(composed, out, settings, pruning)
    except OSError as error:
        ours = error.filename is not None and Path(error.filename).is_relative_to(out)
        if not ours and error.errno not in NO_SPACE:
            raise
        other = "hydra.sweep.dir" if is_multirun() else "hydra.run.dir"
        again = f"When it can: {command_to_resume(out)}" if holds_run(out) else f"Give another, {other}=FOLDER."
        raise UserError(
            f"{error.filename if ours else shortest(out)} cannot be written: {error.strerror}. {again}"
        ) from error
    except Stopped as stopped:
        hand_on(stopped.number)
        again = f"To resume: {command_to_resume(out)}" if holds_run(out) else "Nothing was written."
        raise Stopped(stopped.number, f"Stopped by {stopped.name}{stopped}. {again}") from stopped


def start_or_resume(
    composed: DictConfig, out: Path, settings: Any, pruning: Callable[[DictConfig], Pruning | None]
) -> None:
    """Start a new run in `out`, or resume the one that is there; this process holds its lock."""
    overrides = job_overrides()
    found = None
    resumed = composed.get("resume") is not None
    if resumed or (is_multirun() and holds_run(out)):
        if resumed:
            config = resume(out, with_absolute_paths(to_dataclass(composed, Config)), overrides)
            overrides = overrides_with(out, overrides)
        else:
            config = same_job(out, load_config(composed, Config))
        if not is_done(out, config):
            found = find_checkpoint(out, config)
        elif (found := to_complete(out, config)) is None:
            if not (is_multirun() or (out / "report.html").is_file()):
                report(out)
            discard_previous(out)
            say(f"{shortest(out)} has all its steps already. For more: {command_to_resume(out)} max_steps=N")
            return
    elif holds_run(out):
        raise UserError(
            f"{shortest(out)} holds a run already. To resume it: {command_to_resume(out)}. For another: "
            "hydra.run.dir=FOLDER."
        )
    else:
        refuse_used(out, "hydra.run.dir=FOLDER")
        config = load_config(composed, Config)

    def begin() -> None:
        begin_log()
        if found:
            cut_back(found)
        save_settings(out, config, overrides, None if found else settings)
        if not is_multirun():
            point_latest(out)

    arguments = shlex.join(masked_overrides(Command.current.typed))
    command = command_of(out) or f"{distributed.launch_command()} {arguments}".rstrip()
    checkpoint = found.checkpoint if found else None
    distributed.broadcast_run_dir(out, checkpoint, asdict(config))
    train_run(config, out, label_of(out, overrides), command, checkpoint, pruning(settings), begin)
    if not is_multirun():
        report(out)
    discard_previous(out)


def report(out: Path) -> None:
    with doing("importing Matplotlib"):
        from grpo.reports.run_report import write_report
    with doing("drawing the report"):
        page = write_report(out)
    say(f"Report: {shortest(page)}")


def follow() -> None:
    """What every process but the first does: the same run, without a word."""
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        with quiet():
            out, checkpoint, settings = distributed.receive_run_dir()
            if out:
                with Signals():
                    train_run(config_from_saved(settings, Config), out, checkpoint=checkpoint)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)  # rank 0 says it
    except UserError as error:
        # Where rank 0 makes the same mistake it has said so by then, and the launcher ends this process.
        time.sleep(2)
        raise UserError(f"rank {distributed.rank()}: {error}") from error
