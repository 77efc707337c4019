"""The log of a run, `train.log`, and what libraries write to it.

Hydra builds `RunLog` from conf/config.yaml, and `grpo.train` opens it. It does not know what a run does.
"""

import logging
import os
import warnings
from io import TextIOWrapper


class RunLog(logging.FileHandler):
    """`train.log`: holds its records until the run directory belongs to the run, then writes them and what follows."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", delay=True)
        self.pending: list[logging.LogRecord] | None = []

    def _open(self) -> TextIOWrapper:
        # A link in its place must not have another file written to.
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW, 0o666)

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)

    def emit(self, record: logging.LogRecord) -> None:
        if self.pending is None:
            super().emit(record)
        else:
            self.pending.append(record)

    def open_file(self) -> None:
        """Open the file and write the records that were pending.

        Raises:
            OSError: it cannot be opened.
        """
        if self.pending is None:
            return
        self.stream = self._open()
        pending, self.pending = self.pending, None
        for record in pending:
            super().emit(record)


def open_run_log() -> None:
    """Open `train.log`; later records are written to it at once."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog):
            handler.open_file()


def quiet_libraries() -> None:
    """Send what libraries warn of to train.log, and keep their own progress bars off the terminal."""
    import transformers.utils.logging as transformers_logging
    from transformers.generation.continuous_batching.utils import logger as batching

    logging.captureWarnings(True)
    # On some CPUs it warns of a kernel that it does without; where there is no log, that would go to the terminal.
    logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())
    # TRL 1.16 asks for it by its old name, at every step.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    batching.handlers.clear()  # its own, which tells the terminal a dozen things a rollout
    batching.propagate = True
    batching.setLevel(logging.WARNING)
