"""Jobs under submitit: a limited number in parallel, a process for each task, and a checkpoint before the sweep stops.

Used by `launchers`. Submitit pickles `DistributedJob` by its name in this module.
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
from grpo.sweeps.job_state import POLL_SECONDS

SAVE_SECONDS = 10  # that jobs have to save a checkpoint when the sweep is stopped

JobCall = tuple[list[str], int]  # the overrides of a job, and its number


def submit_locally(launcher: Any, calls: Sequence[JobCall], parallel: int) -> None:
    """Run jobs on this machine, `parallel` at the same time, and stop them when the sweep is stopped.

    Submitit alone would start all of them together, and would leave them running when the sweep is stopped.
    """
    waiting = list(calls)
    with collect_submissions() as submitted:
        try:
            while waiting or not all(job.done() for job in submitted):
                while waiting and sum(not job.done() for job in submitted) < parallel:
                    overrides, number = waiting.pop(0)
                    launcher.launch([overrides], number)
                time.sleep(POLL_SECONDS)
        except BaseException:
            _stop_jobs(submitted)
            raise


def _stop_jobs(submitted: Sequence[Any]) -> None:
    """Let running jobs save a checkpoint, and kill those that have not ended after `SAVE_SECONDS`."""
    controllers = [int(job.job_id) for job in submitted if not job.done()]
    print(f"Waiting for {len(controllers)} {plural(len(controllers), 'job')} to save.", file=sys.stderr)
    for controller in controllers:
        with suppress(ProcessLookupError):
            os.kill(controller, signal.SIGTERM)  # the controller forwards it to its tasks
    end = time.monotonic() + SAVE_SECONDS
    while time.monotonic() < end and not all(job.done() for job in submitted):
        time.sleep(POLL_SECONDS / 5)
    for job in submitted:
        if not job.done():
            with suppress(ProcessLookupError):
                os.killpg(int(job.job_id), signal.SIGKILL)


@contextmanager
def collect_submissions() -> Iterator[list[Any]]:
    """Collect the jobs that submitit's launchers submit while the context lasts; the launchers do not wait for them.

    The last line of `launch` in hydra-submitit-launcher 1.2 waits for the results, and raises at the first job whose
    process was killed, which would end the sweep. `submitit.local.local.start_controller` in submitit 1.5 starts its
    processes in the group of this process, so that Ctrl-C would end them before the jobs have saved a checkpoint.
    """
    from submitit import AutoExecutor
    from submitit.local import local

    submitted: list[Any] = []
    map_array, local_subprocess = AutoExecutor.map_array, local.subprocess

    def collect(executor: Any, job: Any, *arguments: Any) -> list[Any]:
        jobs = map_array(executor, DistributedJob(job), *arguments)
        submitted.extend(jobs)
        return [SubmittedJob() for _ in jobs]

    own_session: Any = SimpleNamespace(
        Popen=partial(subprocess.Popen, start_new_session=True, stderr=subprocess.DEVNULL)
    )
    AutoExecutor.map_array = collect  # type: ignore[method-assign,assignment]
    local.subprocess = own_session
    try:
        yield submitted
    finally:
        AutoExecutor.map_array, local.subprocess = map_array, local_subprocess  # type: ignore[method-assign]


class DistributedJob:
    """A job that runs in each of its tasks (hydra.launcher.tasks_per_node, nodes), the processes of one run.

    The first task is the main process and runs the job; the others are its workers.
    """

    def __init__(self, job: Any) -> None:
        self.job = job

    def __call__(self, *arguments: Any) -> Any:
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        if JobEnvironment().num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        if distributed.is_main_process():
            return self.job(*arguments)
        from grpo.training.launch import run_worker  # here, because the main process has no use for it

        return run_worker()

    def checkpoint(self, *arguments: Any) -> Any:
        """The call that submitit queues again when it preempts the job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


class SubmittedJob:
    """Returned to the launcher in place of a job, so that it does not wait for the result."""

    def results(self) -> list[None]:
        return [None]
