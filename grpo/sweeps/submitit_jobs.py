"""Submitit's jobs: started a few at a time, one process for each task, saved before the sweep stops.

Used by `launchers`. Submitit pickles `OfTasks` by its name in this module.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from grpo.core import distributed
from grpo.core.text import plural
from grpo.sweeps.job_state import LOOK

GRACE = 10  # seconds that jobs have to save themselves when the sweep is stopped

Call = tuple[list[str], int]  # the overrides of a job, and its number


def submit_locally(launcher: Any, calls: Sequence[Call], parallel: int) -> None:
    """submitit would start all at once, and leave them running when the sweep is stopped."""
    waiting = list(calls)
    with submissions() as submitted:
        try:
            while waiting or not all(job.done() for job in submitted):
                while waiting and sum(not job.done() for job in submitted) < parallel:
                    overrides, number = waiting.pop(0)
                    launcher.launch([overrides], number)
                time.sleep(LOOK)
        except BaseException:
            running = [int(job.job_id) for job in submitted if not job.done()]
            print(f"Waiting for {len(running)} {plural(len(running), 'job')} to save.", file=sys.stderr)
            for controller in running:
                with suppress(ProcessLookupError):
                    os.kill(controller, signal.SIGTERM)  # which it hands on
            end = time.monotonic() + GRACE
            while time.monotonic() < end and not all(job.done() for job in submitted):
                time.sleep(LOOK / 5)
            for job in submitted:
                if not job.done():
                    with suppress(ProcessLookupError):
                        os.killpg(int(job.job_id), signal.SIGKILL)
            raise


@contextmanager
def submissions() -> Iterator[list[Any]]:
    """The jobs that submitit's launchers submit meanwhile; they are not waited for.

    hydra-submitit-launcher 1.2 would wait in its `launch`, the last line, and give up all over the first job whose
    process was killed. submitit 1.5's `submitit.local.local.start_controller` would start its processes where Ctrl-C
    reaches them before the jobs have saved themselves.
    """
    from submitit import AutoExecutor
    from submitit.local import local

    submitted: list[Any] = []
    map_array, whole = AutoExecutor.map_array, local.subprocess

    def collecting(executor: Any, job: Any, *arguments: Any) -> list[Any]:
        jobs = map_array(executor, OfTasks(job), *arguments)
        submitted.extend(jobs)
        return [NotWaitedFor() for _ in jobs]

    apart: Any = SimpleNamespace(Popen=partial(subprocess.Popen, start_new_session=True, stderr=subprocess.DEVNULL))
    AutoExecutor.map_array = collecting  # type: ignore[method-assign,assignment]
    local.subprocess = apart
    try:
        yield submitted
    finally:
        AutoExecutor.map_array, local.subprocess = map_array, whole  # type: ignore[method-assign]


class OfTasks:
    """A job in each of its tasks (hydra.launcher.tasks_per_node, nodes): the processes of one run."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def __call__(self, *arguments: Any) -> Any:
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        if JobEnvironment().num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        if distributed.is_main_process():
            return self.job(*arguments)
        from grpo.training.launch import run_worker

        return run_worker()

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit queues again when it preempts the job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


class NotWaitedFor:
    def results(self) -> list[None]:
        return [None]
