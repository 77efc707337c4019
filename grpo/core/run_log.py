"""The log of a run, `train.log`, and the messages that libraries write to it.

Hydra builds `RunLog` from conf/config.yaml; `grpo.train` and `grpo.reproduce` open it. This module does not know what
a run does.
"""

import logging
import os
import warnings
from io import TextIOWrapper

LOG_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"  # that of Hydra, which starts other runs


class RunLog(logging.FileHandler):
    """The log handler of `train.log`.

    It collects records until `open_file` is called, because the run directory may belong to another run until then.
    After that it writes every record immediately.
    """

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", delay=True)
        self.pending: list[logging.LogRecord] | None = []

    def _open(self) -> TextIOWrapper:
        # If train.log is a symbolic link, writing to it would change another file, so opening fails.
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW, 0o666)

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)

    def emit(self, record: logging.LogRecord) -> None:
        if self.pending is None:
            super().emit(record)
        else:
            self.pending.append(record)

    def open_file(self) -> None:
        """Open the file and write the records collected so far.

        Raises:
            OSError: the file cannot be opened, or is a symbolic link.
        """
        if self.pending is None:
            return
        self.stream = self._open()
        pending, self.pending = self.pending, None
        for record in pending:
            super().emit(record)


def open_run_log() -> None:
    """Open `train.log`, if the root logger writes to one."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog):
            handler.open_file()


def quiet_libraries() -> None:
    """Send the warnings of libraries to train.log, and disable their progress bars."""
    import transformers.utils.logging as transformers_logging
    from transformers.generation.continuous_batching.utils import logger as batching

    logging.captureWarnings(True)
    # On some CPUs bitsandbytes warns of a missing kernel. Without a log file, the warning would reach the terminal.
    logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())
    # TRL 1.16 reads this deprecated attribute at every step.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    batching.handlers.clear()  # its own handler prints a dozen lines per rollout
    batching.propagate = True
    batching.setLevel(logging.WARNING)
