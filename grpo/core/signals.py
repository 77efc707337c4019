"""Signals that end a run without losing it: SIGTERM, Ctrl-C, a closed terminal, and Slurm's SIGUSR1 and SIGUSR2."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from grpo.core import distributed

log = logging.getLogger("grpo")

HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
# Seconds in which a process of several may get a signal twice, from whoever sent it and from the launcher.
REPEAT_SECONDS = 5.0


class StoppedBySignal(BaseException):
    """A signal ended the run; like KeyboardInterrupt, no `except Exception` may take it for a failure."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number

    def __reduce__(self) -> tuple[type["StoppedBySignal"], tuple[int, str]]:
        return StoppedBySignal, (self.number, str(self))  # it comes from the process of a job, too

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


WAKEUP_END = b"\0"  # no signal has this number
# A child process must not report its signals to the thread of its parent.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


class SignalHandler:
    """While it is entered, the first signal raises `StoppedBySignal`, and a second one ends the process at once.

    Python calls a handler only between its own instructions, so a long call into a library delays it for minutes. A
    thread therefore reads each signal at once: it writes the notice, and ends the process at a second signal.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at = 0.0
        self._waiting = ""
        self._before: dict[signal.Signals, Any] = {}
        self._to_thread = self._wakeup_before = -1

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            for number in HANDLED_SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._catch)
            reading, self._to_thread = os.pipe()
            os.set_blocking(self._to_thread, False)
            threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
            self._wakeup_before = signal.set_wakeup_fd(self._to_thread, warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            os.write(self._to_thread, WAKEUP_END)
            os.close(self._to_thread)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self, what: str) -> Iterator[None]:
        """Inside, the first signal is only noted in `received`; `what` says what is finished first."""
        self._waiting = what
        try:
            yield
        finally:
            self._waiting = ""

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if not _is_repeat(number, self.received, self._at):
                os._exit(128 + number)
            return
        self.received, self._at = signal.Signals(number), time.monotonic()
        if not self._waiting:
            raise StoppedBySignal(number)

    def _watch(self, reading: int) -> None:
        """In a thread: write a notice of the first signal, and end the process at a second one."""
        first, at = 0, 0.0
        while (told := os.read(reading, 1)) not in (b"", WAKEUP_END):
            number = told[0]
            if number not in HANDLED_SIGNALS or (first and _is_repeat(number, first, at)):
                continue
            if first:
                os._exit(128 + number)
            first, at = number, time.monotonic()
            if self._waiting and distributed.is_main_process():
                notice = f"{signal.Signals(number).name}: {self._waiting}; a second one stops at once."
                log.warning(notice)
                print(f"\n{notice}", file=sys.stderr, flush=True)
        os.close(reading)


def _is_repeat(number: int, first: int, at: float) -> bool:
    """Whether a signal repeats the `first` one, received `at` that time: launchers forward a signal a second time."""
    return distributed.world_size() > 1 and number == first and time.monotonic() < at + REPEAT_SECONDS


def call_previous_handler(number: int) -> None:
    """Give a signal that was caught to whoever waited for it before: submitit queues the job again."""
    handler = signal.getsignal(number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
