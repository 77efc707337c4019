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
# So many failures in a row, and a tracker is left alone.
FAILURES = 3


class BackgroundTracker:
    """A tracker that training neither waits for nor hangs on.

    Its calls are made in order by a thread of their own: a service that cannot be reached is waited for at length. The
    first failure is said, and after several in a row it is left alone.
    """

    def __init__(self, name: str, tracker: Service) -> None:
        self.name, self.tracker = name, tracker
        self.said, self.failures = False, 0
        self.calls: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        # In this context, because trackio keeps its run there.
        self.thread = Thread(target=copy_context().run, args=(self._work,), daemon=True)
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

    def summarize(self, figures: dict[str, float]) -> None:
        self.calls.put((self.tracker.summarize, (figures,)))

    def finish(self, exit_code: int) -> None:
        self.calls.put((self.tracker.finish, (exit_code,)))
        self.calls.put(None)
        self.thread.join(FINISH_SECONDS)
        if self.thread.is_alive():
            self._failed(f"it did not close within {FINISH_SECONDS} s")
        if self.failures:
            letting_go = Thread(target=self._abandon, daemon=True)
            letting_go.start()
            letting_go.join(1)

    def _work(self) -> None:
        while (item := self.calls.get()) is not None:
            call, arguments = item
            if self.failures >= FAILURES:
                continue
            try:
                call(*arguments)
                self.failures = 0
            except Exception as error:  # a tracker can raise anything
                self._failed(f"{type(error).__name__}: {first_line(error)}")

    def _failed(self, why: str) -> None:
        self.failures += 1
        if not self.said:
            say(f"Tracking with {self.name} has failed ({why}). Training goes on; metrics.jsonl holds everything.")
        self.said = True

    def _abandon(self) -> None:
        with suppress(Exception):  # it has failed already, which is said
            self.tracker.abandon()
