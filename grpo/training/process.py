"""The process that trains or asks a policy from Python, and continues afterwards: its state is restored.

`grpo.train.run` and `grpo.load_run` enter the context. It knows no run.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from grpo.core.device import free_memory
from grpo.core.errors import UserError
from grpo.core.progress import importing
from grpo.core.run_log import LOG_FORMAT, RunLog
from grpo.rewards.process_state import restored_process_state

# They describe the state of libraries, which lasts: the hub was found not to answer, and the service of W&B runs.
LASTING_VARIABLES = ("HF_HUB_OFFLINE", "WANDB_SERVICE")
IN_USE = Lock()  # the registry of rewards, random numbers and settings of torch belong to the process
TRANSFORMERS_LOGGING = "transformers.utils.logging"


@contextmanager
def undisturbed_process(seed: int, train_log: Path | None = None) -> Iterator[None]:
    """A context in which a run is trained or its policy asked; afterwards the process is as before.

    Restored are what `restored_process_state` names, the environment, `sys.argv`, and logging. Libraries that are
    imported inside stay imported, and no object is frozen (`gc.freeze`).

    Args:
        seed: of the random numbers inside.
        train_log: the log of the run.

    Raises:
        UserError: another thread is in such a context.
    """
    if not IN_USE.acquire(blocking=False):
        raise UserError("a run is training in this process, or its policy is asked; wait until it has ended.")
    try:
        with _restored(seed, train_log):
            yield
    finally:
        IN_USE.release()


@contextmanager
def _restored(seed: int, train_log: Path | None) -> Iterator[None]:
    with importing("PyTorch"):
        import torch  # noqa: F401  # the settings of a library that is not imported cannot be restored
    environment, arguments = dict(os.environ), list(sys.argv)
    with ExitStack() as stack:
        stack.callback(free_memory)
        stack.callback(_restore_environment, environment)
        stack.callback(sys.argv.__setitem__, slice(None), arguments)
        stack.enter_context(_restored_logging())
        if train_log is not None:
            stack.enter_context(_run_log(train_log))
        stack.enter_context(restored_process_state(seed))
        yield


def _restore_environment(before: dict[str, str]) -> None:
    for name in [name for name in os.environ if name not in before and name not in LASTING_VARIABLES]:
        del os.environ[name]
    os.environ.update(before)


@contextmanager
def _run_log(path: Path) -> Iterator[None]:
    """Write `train.log`: the messages of this package, and the warnings of libraries."""
    handler = RunLog(str(path.absolute()))
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    ours = logging.getLogger("grpo")
    ours.setLevel(logging.INFO)
    ours.propagate = False  # the caller's handlers would print again what the console shows
    for logger in (logging.getLogger(), ours):
        logger.addHandler(handler)
    try:
        yield
    finally:
        handler.close()


@contextmanager
def _restored_logging() -> Iterator[None]:
    """Restore the loggers, the filters of warnings, and the log of transformers, which `quiet_libraries` changes."""
    before = _loggers()
    states = {name: (logger.level, logger.propagate, logger.disabled, logger.handlers[:]) for name, logger in before}
    captures_warnings = getattr(warnings.showwarning, "__module__", "") == "logging"
    transformers_before: Any = sys.modules.get(TRANSFORMERS_LOGGING)
    has_progress_bar = transformers_before is None or transformers_before.is_progress_bar_enabled()
    with warnings.catch_warnings():
        try:
            yield
        finally:
            transformers_logging: Any = sys.modules.get(TRANSFORMERS_LOGGING)
            if transformers_logging and not transformers_before:  # as it is when it is first imported
                transformers_logging.enable_default_handler()
                transformers_logging.disable_propagation()
            if transformers_logging and has_progress_bar:
                transformers_logging.enable_progress_bar()
            logging.captureWarnings(captures_warnings)
            for name, logger in before:
                level, logger.propagate, logger.disabled, logger.handlers[:] = states[name]
                logger.setLevel(level)


def _loggers() -> list[tuple[str, logging.Logger]]:
    root = logging.getLogger()
    named = [(name, log) for name, log in root.manager.loggerDict.items() if isinstance(log, logging.Logger)]
    return [("", root), *named]
