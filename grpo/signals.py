"""Signals that end a run without losing it: SIGTERM, Ctrl-C, a closed terminal, and Slurm's SIGUSR1 and SIGUSR2."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from grpo import ranks

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
# Seconds in which a process of several may get a signal twice, from whoever sent it and from the launcher.
ECHO = 5.0


class Stopped(BaseException):
    """A signal ended the run; like KeyboardInterrupt, no `except Exception` may take it for a failure."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number

    def __reduce__(self) -> tuple[type["Stopped"], tuple[int, str]]:
        return Stopped, (self.number, str(self))  # it comes from the process of a job, too

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


class Signals:
    """While it is entered, the first signal raises `Stopped`, and a second one ends the process at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at = 0.0
        self._waiting = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            for number in CAUGHT:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Inside, the first signal is only noted in `received`; `what` says what is finished first."""
        self._waiting = what
        try:
            yield
        finally:
            self._waiting = ""

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if ranks.world_size() > 1 and number == self.received and time.monotonic() < self._at + ECHO:
                return
            os._exit(128 + number)
        self.received, self._at = signal.Signals(number), time.monotonic()
        if not self._waiting:
            raise Stopped(number)
        # Whatever stream is being written to just now cannot be written to from here.
        if ranks.leads():
            os.write(2, f"\n{self.received.name}: {self._waiting}; a second one stops at once.\n".encode())


def hand_on(number: int) -> None:
    """Give a signal that was caught to whoever waited for it before: submitit queues the job again."""
    handler = signal.getsignal(number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
