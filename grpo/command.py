"""What every Hydra command does around its work: a user's mistake ends in one message and a non-zero exit."""

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from grpo.config import AnyConfig, readable
from grpo.console import console, error_message, log, printable, show
from grpo.errors import UserError
from grpo.process import check_process, guard_streams
from grpo.redact import masked_text
from grpo.signals import Stopped


def task_overrides() -> list[str]:
    """The overrides of a job as they were typed, with their interpolations."""
    typed = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(typed, list)
    return [str(each) for each in typed]


class Jobs:
    """What `command` must know of the jobs that Hydra ran for it."""

    typed: Sequence[str] = ()
    started = False
    multirun = False
    mistake: UserError | None = None


@contextmanager
def job() -> Iterator[None]:
    """Around the work of one job."""
    guard_streams()  # a launcher may have started a process for it
    settings = HydraConfig.get()
    Jobs.started, Jobs.multirun = True, settings.mode == RunMode.MULTIRUN
    try:
        yield
    except UserError as error:
        log.error("%s", printable(masked_text(str(error))))
        Jobs.mistake = error


@contextmanager
def wrapped_help() -> Iterator[None]:
    """Hydra prints its help as it is; in a terminal it wraps like everything else."""
    if not {"--help", "-h"} & {*sys.argv} or not console.is_terminal:
        yield
        return
    try:
        with redirect_stdout(io.StringIO()) as text:
            yield
    finally:  # Hydra ends the process after its help
        show(text.getvalue().rstrip("\n"), console)


def command(app: Callable[[], Any], schema: type[AnyConfig], interrupted: str) -> None:
    """Run a Hydra app to its exit code; `interrupted` is what is said after Ctrl-C."""
    # Hydra would print a traceback of its own; every mistake of the user's ends in one message instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    guard_streams()
    try:
        check_process()
        with readable(schema), wrapped_help():
            app()
        if Jobs.mistake:
            raise Jobs.mistake
    except UserError as error:
        sys.exit(error_message(masked_text(f"error: {error}")))
    except Stopped as stopped:
        print(error_message(stopped), file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print(error_message(interrupted), file=sys.stderr)
        sys.exit(130)
