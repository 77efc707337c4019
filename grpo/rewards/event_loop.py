"""The event loop of `async def` rewards: calls that run concurrently, bounded in number and in time.

Made by grpo/rewards/execution.py, once per run, because clients and locks that a reward creates belong to one loop. The
loop runs in a thread of its own: a coroutine that blocks it delays no signal. It knows nothing of rewards.
"""

import asyncio
import gc
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import wait
from typing import Any

from grpo.rewards.calls import GRACE_SECONDS, OVERDUE, CallFailed

Call = Callable[[], Awaitable[Any]]


class BlockedLoop(Exception):
    """A coroutine blocks the event loop: it computes or waits without `await`."""


class RewardEventLoop:
    """An event loop in a thread, which starts with the first call and ends with `close`.

    Attributes:
        concurrency: how many coroutines run at once.
        timeout: the seconds that each may take; None: no limit.
    """

    def __init__(self, concurrency: int, timeout: float | None = None) -> None:
        self.concurrency, self.timeout = concurrency, timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread()

    def run(self, calls: Sequence[Call], stop_at_overdue: bool = True) -> list[Any]:
        """The results of coroutines, in the order of `calls`.

        A coroutine that takes longer than `timeout` is cancelled. Its result is `OVERDUE`, unless `stop_at_overdue`. At
        an error, and if a signal raises an exception in this thread, all coroutines are cancelled and awaited.

        Raises:
            CallFailed: a coroutine raised an exception, or is overdue.
            BlockedLoop: the loop has not run for the seconds of `timeout`.
        """
        outcome: list[Any] = []
        ended = threading.Event()

        async def run_all() -> None:
            try:
                outcome.append(await _run_all(calls, self.concurrency, self.timeout, stop_at_overdue))
            except Exception as error:
                outcome.append(error)
            finally:
                ended.set()

        loop = self._started_loop()
        running = asyncio.run_coroutine_threadsafe(run_all(), loop)
        try:
            while not ended.wait(self.timeout):
                _check_responsive(loop, self.timeout)
        except BaseException:
            running.cancel()
            ended.wait(2 * GRACE_SECONDS)
            raise
        (result,) = outcome
        if isinstance(result, Exception):
            raise result
        return result

    def _started_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True)
            self._thread.start()
        return self._loop

    def close(self) -> None:
        """Cancel the coroutines that still run, such as background tasks of a reward, and end the thread."""
        loop, self._loop = self._loop, None
        if loop is None or not self._thread.is_alive():  # a fork of this process has the loop, but not the thread
            return
        stopped = asyncio.run_coroutine_threadsafe(_shut_down(), loop)
        wait([stopped], 2 * GRACE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(GRACE_SECONDS)
        if not self._thread.is_alive():
            loop.close()


def _check_responsive(loop: asyncio.AbstractEventLoop, timeout: float | None) -> None:
    """Check that the loop runs a callback within `timeout` seconds."""
    responded = threading.Event()
    loop.call_soon_threadsafe(responded.set)
    if not responded.wait(timeout):
        raise BlockedLoop


async def _shut_down() -> None:
    await _cancel(asyncio.all_tasks() - {asyncio.current_task()})
    await asyncio.get_running_loop().shutdown_asyncgens()
    # Transports of the subprocesses and sockets of cancelled coroutines close themselves through the loop.
    gc.collect()
    await asyncio.sleep(0)


async def _run_all(calls: Sequence[Call], concurrency: int, timeout: float | None, stop_at_overdue: bool) -> list[Any]:
    """See `RewardEventLoop.run`."""
    clock = asyncio.get_running_loop().time
    results: list[Any] = [None] * len(calls)
    waiting = deque(enumerate(calls))
    running: dict[asyncio.Task[Any], tuple[int, float]] = {}  # task -> number of the call, deadline
    cancelled: list[asyncio.Task[Any]] = []
    try:
        while waiting or running:
            while waiting and len(running) < concurrency:
                index, call = waiting.popleft()
                running[asyncio.create_task(_guarded(call))] = index, clock() + (timeout or math.inf)
            seconds = min(deadline for _, deadline in running.values()) - clock()
            await asyncio.wait(
                running, timeout=None if timeout is None else seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for task, (index, deadline) in list(running.items()):
                if task.done():
                    results[index] = _result(task, index)
                elif clock() >= deadline:
                    task.cancel()
                    cancelled.append(task)
                    results[index] = OVERDUE
                    if stop_at_overdue:
                        raise CallFailed(index, None)
                else:
                    continue
                del running[task]
        return results
    finally:
        await _cancel([*running, *cancelled])


async def _guarded(call: Call) -> tuple[Any, BaseException | None]:
    """The result of a call and its exception. asyncio would end the loop at a SystemExit."""
    try:
        return await call(), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error


def _result(task: asyncio.Task[Any], index: int) -> Any:
    """The result of a finished task.

    Raises:
        CallFailed: it raised an exception.
    """
    try:
        result, error = task.result()
    except asyncio.CancelledError as cancelled:  # the reward cancelled itself
        result, error = None, cancelled
    if error is not None:
        raise CallFailed(index, error)
    return result


async def _cancel(tasks: Iterable[Any]) -> None:
    """Cancel tasks and wait for their end, but not forever: a coroutine may suppress its cancellation."""
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=GRACE_SECONDS)
