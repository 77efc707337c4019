"""From the start of a Hydra command to its exit code: a user error ends in one message, without a traceback.

Called by the commands `grpo/*.py`. It must not know what they do.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from grpo.config.command_line import check_arguments
from grpo.config.hydra_errors import translate_errors
from grpo.config.hydra_output import hydra_output
from grpo.config.hydra_settings import checked_hydra_config
from grpo.config.schema import AnyConfig
from grpo.core.console import error_message, log
from grpo.core.errors import UserError
from grpo.core.process import guard_streams, prepare_process
from grpo.core.redact import mask_message
from grpo.core.signals import StoppedBySignal
from grpo.core.text import printable


def job_overrides() -> list[str]:
    """The overrides of the current job as they were typed; interpolations are not resolved."""
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return [str(override) for override in overrides]


@dataclass
class Command:
    """The state of a command, from its start to its exit code. `Command.current` is the command of this process.

    It is a class attribute because Hydra passes only the composed settings to the function of a job. Each start of a
    command replaces it. In a process that a launcher starts for a job, it has the default values.

    Args:
        arguments: as they were typed.
        started: Hydra has started a job.
        error: the last user error of a job; its message is printed when it occurs.
    """

    current: ClassVar["Command"]

    arguments: Sequence[str] = ()
    started: bool = False
    error: UserError | None = None


Command.current = Command()


def is_multirun() -> bool:
    """Whether the current job was started with -m, as one of several."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def hydra_job() -> Iterator[None]:
    """Context of one job: a user error is logged, and the other jobs of a multirun still run."""
    guard_streams()  # a launcher may have started this process for the job
    Command.current.started = True
    try:
        yield
    except UserError as error:
        log.error("%s", printable(mask_message(str(error))))
        Command.current.error = error


def run_command(app: Callable[[], Any], schema: type[AnyConfig], interrupted: str) -> None:
    """Run a Hydra app and exit.

    Args:
        app: the function decorated with `hydra.main`.
        schema: the dataclass of the command's settings.
        interrupted: the message after Ctrl-C.
    """
    with exit_with_message(schema, interrupted):
        run_hydra_app(app, schema)


@contextmanager
def exit_with_message(schema: type[AnyConfig], interrupted: str) -> Iterator[None]:
    """Context of a command: on an error, print one message and exit with its code."""
    Command.current = Command()
    # Makes Hydra raise its errors instead of printing a traceback; this function prints the message.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    guard_streams()
    try:
        prepare_process()
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
    """Check the arguments of this process and run a Hydra app with them."""
    sys.argv[1:] = check_arguments(sys.argv[1:], schema)
    with checked_hydra_config(), hydra_output():
        app()
