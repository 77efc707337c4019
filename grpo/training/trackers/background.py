"""A tracker in a thread of its own, so that training never waits for a service and never fails with it.

`grpo.training.tracking` wraps every service in it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any

from grpo.core.console import say
from grpo.core.errors import first_line
from grpo.training.trackers.interface import Service

FINISH_SECONDS = 10  # what an unreachable service may cost a run at its end
MAX_FAILURES = 3


class BackgroundTracker:
    """Calls a tracker in order from a thread of its own, because a service that cannot be reached blocks for long.

    The first failure prints a message. After `MAX_FAILURES` in a row the tracker is not called again.
    """

    def __init__(self, name: str, tracker: Service) -> None:
        self.name, self.tracker = name, tracker
        self.warned, self.failures = False, 0
        self.calls: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        # With a copy of this context, because trackio stores its run in a context variable.
        self.thread = Thread(target=copy_context().run, args=(self._run_calls,), daemon=True)
        self.thread.start()

    @property
    def id(self) -> str | None:
        return self.tracker.id

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        self.calls.put((self.tracker.catch_up, (rows,)))

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.calls.put((self.tracker.log, (metrics, step)))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self.calls.put((self.tracker.log_table, (name, columns, rows, step)))

    def alert(self, title: str, message: str, step: int) -> None:
        self.calls.put((self.tracker.alert, (title, message, step)))

    def summarize(self, figures: dict[str, float], headline: str) -> None:
        self.calls.put((self.tracker.summarize, (figures, headline)))

    def finish(self, exit_code: int) -> None:
        self.calls.put((self.tracker.finish, (exit_code,)))
        self.calls.put(None)
        self.thread.join(FINISH_SECONDS)
        if self.thread.is_alive():
            self._record_failure(f"it did not close within {FINISH_SECONDS} s")
        if self.failures:
            release = Thread(target=self._abandon, daemon=True)
            release.start()
            release.join(1)

    def _run_calls(self) -> None:
        while (item := self.calls.get()) is not None:
            call, arguments = item
            if self.failures >= MAX_FAILURES:
                continue
            try:
                call(*arguments)
                self.failures = 0
            except Exception as error:  # a tracker can raise anything
                self._record_failure(f"{type(error).__name__}: {first_line(error)}")

    def _record_failure(self, why: str) -> None:
        self.failures += 1
        if not self.warned:
            say(f"Tracking with {self.name} has failed ({why}). Training continues; metrics.jsonl holds everything.")
        self.warned = True

    def _abandon(self) -> None:
        with suppress(Exception):  # its failure has been printed already
            self.tracker.abandon()
