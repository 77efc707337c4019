"""Signals that stop a run after it has saved its state: SIGTERM, Ctrl-C, SIGHUP, and Slurm's SIGUSR1 and SIGUSR2.

Training, sweeps and rewards use it. This module does not know what has to be saved: callers say which work must finish
first.
"""

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
# With several processes, a process may receive one signal twice within this many seconds: from the sender and from the
# launcher, which forwards it.
REPEAT_SECONDS = 5.0


class StoppedBySignal(BaseException):
    """A signal stopped the run. A BaseException like KeyboardInterrupt, so that no `except Exception` catches it."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number

    def __reduce__(self) -> tuple[type["StoppedBySignal"], tuple[int, str]]:
        return StoppedBySignal, (self.number, str(self))  # the process of a sweep job sends it, pickled

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython prints for this exception."""
        return [f"{type(self).__name__}: {self}"]

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


WAKEUP_END = b"\0"  # not the number of any signal
# A forked child inherits the wake-up descriptor, and would report its signals to the thread of its parent.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


class SignalHandler:
    """A context manager: the first signal raises `StoppedBySignal`, a second signal ends the process immediately.

    With `exits=False`, for a process that has more to do than the run, a second signal raises `StoppedBySignal` even
    where the first one was deferred.

    Python runs a signal handler between two bytecode instructions, so a long call into a library delays it for minutes.
    Therefore a thread reads every signal from a pipe: it prints the notice, and ends the process at a second signal.

    Attributes:
        received: the first signal, or None.
    """

    def __init__(self, exits: bool = True) -> None:
        self.received: signal.Signals | None = None
        self._exits = exits
        self._received_at = 0.0
        self._deferring_work = ""
        self._before: dict[signal.Signals, Any] = {}
        self._to_thread = self._wakeup_before = -1

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():  # Python allows no other thread to set handlers
            for number in HANDLED_SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup
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
    def deferred(self, work: str) -> Iterator[None]:
        """Inside this context the first signal is only stored in `received`.

        `work` names the work that finishes first, for the notice: "finishing the step, then saving".
        """
        self._deferring_work = work
        try:
            yield
        finally:
            self._deferring_work = ""

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if not _is_repeat(number, self.received, self._received_at):
                if not self._exits:
                    raise StoppedBySignal(number)
                os._exit(128 + number)
            return
        self.received, self._received_at = signal.Signals(number), time.monotonic()
        if not self._deferring_work:
            raise StoppedBySignal(number)

    def _watch(self, reading: int) -> None:
        """The thread: print a notice at the first signal, end the process at the second."""
        first, at = 0, 0.0
        while (byte := os.read(reading, 1)) not in (b"", WAKEUP_END):
            number = byte[0]
            if number not in HANDLED_SIGNALS or (first and _is_repeat(number, first, at)):
                continue
            if first and self._exits:
                os._exit(128 + number)
            if first:
                continue
            first, at = number, time.monotonic()
            if self._deferring_work and distributed.is_main_process():
                notice = f"{signal.Signals(number).name}: {self._deferring_work}; a second one stops at once."
                log.warning(notice)
                print(f"\n{notice}", file=sys.stderr, flush=True)
        os.close(reading)


def _is_repeat(number: int, first: int, at: float) -> bool:
    """Whether a signal is the `first` one again, received at time `at` and forwarded by the launcher."""
    return distributed.world_size() > 1 and number == first and time.monotonic() < at + REPEAT_SECONDS


def call_previous_handler(number: int) -> None:
    """Call the handler that was set before `SignalHandler`: submitit's handler queues the job again."""
    handler = signal.getsignal(number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
