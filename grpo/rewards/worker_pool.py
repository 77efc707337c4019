"""Worker processes that score completions: they can be killed when a reward hangs, and they score in parallel.

Made by grpo/rewards/execution.py, once per run and process. The code of a worker is grpo/rewards/worker.py. Workers are
new processes, not forks, so they share no memory with this one. This module knows nothing of scores.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from multiprocessing.connection import Connection, wait
from typing import Any

from grpo.core.errors import UserError, one_line
from grpo.rewards.calls import GRACE_SECONDS, OVERDUE, CallFailed

START_SECONDS = 300.0  # for the imports of the reward files
POLL_SECONDS = 1.0  # between two checks that a worker is alive
PARTS = 4  # of each worker's share; a worker that finishes early computes a part of another one's share
COMMAND = "import sys; sys.path[:] = {path!r}; from {module} import main; main({descriptor})"


@dataclass(frozen=True)
class Setup:
    """What a worker loads when it starts.

    Attributes:
        files: the reward files.
        numpy: whether numpy is imported here. If it is, random numbers of numpy are seeded, also where a reward imports
            it late.
    """

    files: tuple[str, ...]
    numpy: bool


class Worker:
    """A worker process, with a socket to it.

    Args:
        setup: what it loads when it starts; pickled.
        module: its code, with a function `main` that takes the file descriptor of its socket.
    """

    def __init__(self, setup: Any, module: str = "grpo.rewards.worker") -> None:
        here, there = socket.socketpair()
        command = COMMAND.format(path=sys.path, module=module, descriptor=there.fileno())
        # In a session of its own, Ctrl-C does not reach it, and processes that a reward starts can be killed with it.
        self.process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            start_new_session=True,
        )
        there.close()
        self.connection = Connection(here.detach())
        self._is_ready = False
        with suppress(OSError):  # it has died, which `start_error` reports
            self.connection.send(setup)

    def wait_until_ready(self) -> None:
        """Wait until the reward files are loaded.

        Raises:
            UserError: they cannot be loaded in a worker.
        """
        if error := self.start_error():
            raise UserError(f"A worker process of the rewards could not start: {error}")

    def start_error(self) -> str | None:
        """Wait until the process has loaded its setup; why it could not, or None if it has."""
        if self._is_ready:
            return None
        try:
            error = self.connection.recv() if self.connection.poll(START_SECONDS) else f"no answer in {START_SECONDS} s"
        except (EOFError, OSError):
            error = f"it {self.describe_end()}"
        self._is_ready = error is None
        return None if error is None else str(error)

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def describe_end(self) -> str:
        """How the process has ended, as a verb phrase."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        code = self.process.returncode
        if code is None:
            return "closed its connection"
        if code >= 0:
            return f"exited with code {code}"
        memory = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{memory}"

    def kill(self) -> None:
        """Kill the process and those that it has started."""
        self.connection.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)


class WorkerFailed(Exception):
    """A worker could not compute a reply; the message is a phrase after the name of the reward."""


class WorkerPool:
    """Worker processes, started when they are needed first and after one was killed.

    Attributes:
        max_workers: how many run at once.
        files: the reward files that they load.
        timeout: the seconds that a reply may take; None: no limit.
    """

    def __init__(self, max_workers: int, files: Sequence[str], timeout: float | None = None) -> None:
        self.max_workers, self.files, self.timeout = max_workers, tuple(files), timeout
        self._workers: list[Worker] = []
        self._owner = os.getpid()

    def run(self, count: int, request: Callable[[int, int], Any], stop_at_overdue: bool = True) -> list[Any]:
        """`count` replies of workers. `request(start, stop)` asks for those from `start` to `stop`.

        A worker that takes longer than `timeout` for a reply is killed. The reply is then `OVERDUE`, unless
        `stop_at_overdue`. At an error, and if a signal raises an exception, the workers that still compute are killed.

        Raises:
            CallFailed: a reply is an error, or a worker has died or is overdue.
            UserError: the workers cannot start.
        """
        replies: list[Any] = [None] * count
        size = ceil(count / self.max_workers / (PARTS if self.max_workers > 1 else 1))
        waiting = deque((start, min(start + size, count)) for start in range(0, count, size))
        running: dict[Worker, _Part] = {}
        try:
            while waiting or running:
                for worker in self._idle_workers(running, len(waiting)):
                    part = running[worker] = _Part(*waiting.popleft())
                    _send(worker, part.next, request(part.next, part.stop))
                readable = wait([worker.connection for worker in running], self._poll_seconds(running))
                for worker, part in list(running.items()):
                    if worker.connection in readable or worker.has_ended():
                        replies[part.next] = _receive(worker, part.next)
                        part.next, part.since = part.next + 1, time.monotonic()
                        if part.next == part.stop:
                            del running[worker]
                    elif self._is_overdue(part):
                        if stop_at_overdue:
                            raise CallFailed(part.next, None)
                        replies[part.next] = OVERDUE
                        self._kill(worker)
                        del running[worker]
                        if part.next + 1 < part.stop:
                            waiting.appendleft((part.next + 1, part.stop))
            return replies
        finally:
            for worker in running:
                self._kill(worker)

    def _is_overdue(self, part: "_Part") -> bool:
        return self.timeout is not None and time.monotonic() >= part.since + self.timeout

    def _poll_seconds(self, running: "dict[Worker, _Part]") -> float:
        """How long to wait for a reply: until the first worker is overdue, or has to be checked."""
        if self.timeout is None:
            return POLL_SECONDS
        first = min(part.since for part in running.values()) + self.timeout
        return min(POLL_SECONDS, max(0.0, first - time.monotonic()))

    def _idle_workers(self, running: "dict[Worker, _Part]", wanted: int) -> list[Worker]:
        """At most `wanted` workers that are ready and not `running`; missing ones are started."""
        for worker in [worker for worker in self._workers if worker not in running and worker.has_ended()]:
            self._kill(worker)
        setup = Setup(self.files, "numpy" in sys.modules)
        while len(self._workers) < min(self.max_workers, len(running) + wanted):
            self._workers.append(Worker(setup))
        idle = [worker for worker in self._workers if worker not in running][:wanted]
        for worker in idle:
            worker.wait_until_ready()
        return idle

    def _kill(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.kill()

    def close(self) -> None:
        """Kill all workers. In a fork of the process that started them, do nothing."""
        while self._workers and os.getpid() == self._owner:
            self._workers.pop().kill()


@dataclass
class _Part:
    """Replies that one worker computes: the number of the next one and of the last one + 1, and since when it does."""

    next: int
    stop: int
    since: float = field(default_factory=time.monotonic)


def _send(worker: Worker, index: int, request: Any) -> None:
    """
    Raises:
        CallFailed: the request cannot be pickled.
    """
    try:
        worker.connection.send(request)
    except OSError:  # it has died, which `_receive` reports
        pass
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        raise CallFailed(
            index, WorkerFailed(f"its arguments cannot be sent to a worker process ({one_line(str(error))})")
        ) from error


def _receive(worker: Worker, index: int) -> Any:
    """
    Raises:
        CallFailed: the reply is an error, or the worker has died.
    """
    try:
        reply = worker.connection.recv() if worker.connection.poll() else EOFError()
    except (EOFError, OSError) as error:
        reply = error
    if isinstance(reply, EOFError | OSError):
        raise CallFailed(index, WorkerFailed(f"its worker process {worker.describe_end()}"))
    if isinstance(reply, BaseException):
        raise CallFailed(index, reply)
    return reply
