"""From the start of a Hydra command to its exit code: a mistake of the user's ends in one message, without a traceback.

Called by the commands `grpo/*.py`; knows nothing of what they do.
"""

import atexit
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from grpo.config.command_line import check_arguments
from grpo.config.hydra_settings import checked_hydra_config
from grpo.config.messages import translate_errors
from grpo.config.schema import AnyConfig
from grpo.core.console import console, error_message, log, print_message
from grpo.core.errors import UserError
from grpo.core.process import check_process, guard_streams
from grpo.core.redact import mask_message
from grpo.core.signals import StoppedBySignal
from grpo.core.text import printable


def job_overrides() -> list[str]:
    """The overrides of a job as they were typed, with their interpolations."""
    typed = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(typed, list)
    return [str(each) for each in typed]


@dataclass
class Command:
    """One start of a command, until its exit code. `Command.current` is that of this process.

    Hydra calls the function of a job with the composed settings alone, so it cannot be passed. A job that a launcher
    runs in a process of its own finds an empty one.
    """

    current: ClassVar["Command"]

    typed: Sequence[str] = ()
    started: bool = False  # Hydra has started a job
    error: UserError | None = None  # the last one of a job; it is printed when it occurs


Command.current = Command()


def is_multirun() -> bool:
    """Whether the current job is one of several, as -m starts them."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def hydra_job() -> Iterator[None]:
    """Around the work of one job."""
    guard_streams()  # a launcher may have started a process for it
    Command.current.started = True
    try:
        yield
    except UserError as error:
        log.error("%s", printable(mask_message(str(error))))
        Command.current.error = error


def run_command(app: Callable[[], Any], schema: type[AnyConfig], interrupted: str) -> None:
    """Run a Hydra app to its exit code; `interrupted` is what is said after Ctrl-C."""
    with exit_with_message(schema, interrupted):
        run_hydra_app(app, schema)


@contextmanager
def exit_with_message(schema: type[AnyConfig], interrupted: str) -> Iterator[None]:
    """Around the work of a command: print why it ended, and exit with the right code."""
    Command.current = Command()
    # Hydra would print a traceback of its own; every mistake of the user's ends in one message instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    guard_streams()
    # Otherwise Python collects garbage among PyTorch's objects at exit, which takes seconds.
    atexit.register(gc.freeze)
    try:
        check_process()
        with translate_errors(schema):
            yield
        if Command.current.error:
            raise Command.current.error
    except UserError as error:
        sys.exit(error_message(mask_message(f"error: {error}")))
    except StoppedBySignal as stopped:
        print(error_message(stopped), file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print(error_message(interrupted), file=sys.stderr)
        sys.exit(130)


def run_hydra_app(app: Callable[[], Any], schema: type[AnyConfig]) -> None:
    """Run a Hydra app on the arguments of this process, once they are checked."""
    sys.argv[1:] = check_arguments(sys.argv[1:], schema)
    with checked_hydra_config(), wrap_help():
        app()


@contextmanager
def wrap_help() -> Iterator[None]:
    """Wrap the help that Hydra prints in a terminal, like all other output."""
    if not {"--help", "-h"} & {*sys.argv} or not console.is_terminal:
        yield
        return
    try:
        with redirect_stdout(io.StringIO()) as text:
            yield
    finally:  # Hydra ends the process after its help
        print_message(text.getvalue().rstrip("\n"), console)
