"""Hydra's launchers, with what they leave to chance settled: cores, GPUs, jobs at once, jobs that are killed."""

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

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.device import cores
from grpo.core.errors import UserError
from grpo.core.text import plural

# What brings each.
PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}

LOOK = 0.5  # seconds between two looks at what the jobs have written
GRACE = 10  # seconds that jobs have to save themselves when the sweep is stopped
SWEEP_PROCESS = "GRPO_SWEEP_PROCESS"  # tells the workers of joblib whose they are

Call = tuple[list[str], int]  # the overrides of a job, and its number


def build_launcher(context: HydraContext, task: TaskFunction, master: DictConfig) -> Launcher:
    """
    Raises:
        UserError: its package is not installed.
    """
    name = master.hydra.runtime.choices.get("hydra/launcher")
    try:
        return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)
    except (RuntimeError, ImportError) as error:
        if name not in PACKAGES:
            raise
        raise UserError(f"hydra/launcher={name}: it is not installed: pip install {PACKAGES[name]}") from error


def kind(launcher: Launcher) -> str:
    return type(launcher).__name__


def on_this_machine(launcher: Launcher) -> bool:
    """Whether a job has the devices and files that this process has; submitit chooses them for each."""
    return kind(launcher) in ("BasicLauncher", "JoblibLauncher")


def at_once(launcher: Launcher, wanted: int | None, jobs: int, config: Config) -> int:
    """How many of the jobs run at once, where `wanted` does not say it; `config` is that of one of them.

    Raises:
        UserError: this launcher cannot.
    """
    if kind(launcher) == "BasicLauncher":
        if (wanted or 1) > 1:
            raise UserError(
                f"hydra.sweeper.parallel={wanted}: the basic launcher runs a job at a time; add hydra/launcher=joblib."
            )
        return 1
    if wanted is None and kind(launcher) == "SlurmLauncher":
        wanted = min(jobs, launcher.params["array_parallelism"])  # type: ignore[attr-defined]
    if wanted is None:
        wanted = 1 if config.device == "cuda" else max(1, min(jobs, cores() // (config.threads or 1)))
    if wanted > 1 and config.rollout.name == "vllm_server":
        raise UserError(
            f"rollout=vllm_server: {wanted} jobs at once would send their weights to one server, which holds those of "
            "one; add hydra.sweeper.parallel=1, or take rollout=vllm."
        )
    return wanted


def launch(launcher: Any, calls: Sequence[Call], parallel: int, cuda: bool) -> None:
    """Run the jobs; returns when none runs any more, and raises what the launcher does, not what jobs do."""
    overrides = [each for each, _ in calls]
    if kind(launcher) in ("LocalLauncher", "SlurmLauncher") and launcher.params.get("gpus_per_node") is None:
        launcher.params["gpus_per_node"] = launcher.params["tasks_per_node"] if cuda else None
    with shared_cores(parallel):
        match kind(launcher):
            case "BasicLauncher":
                for each, number in calls:
                    launcher.launch([each], number)
            case "JoblibLauncher":
                launcher.joblib["n_jobs"] = parallel
                os.environ[SWEEP_PROCESS] = str(os.getpid())
                launcher.launch(overrides, calls[0][1])
            case "LocalLauncher":
                _submit_locally(launcher, calls, parallel)
            case "SlurmLauncher":
                launcher.params["array_parallelism"] = parallel
                with submissions() as submitted:
                    launcher.launch(overrides, calls[0][1])
                    while not all(job.done() for job in submitted):
                        time.sleep(LOOK)
            case _:
                launcher.launch(overrides, calls[0][1])


def _submit_locally(launcher: Any, calls: Sequence[Call], parallel: int) -> None:
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
def shared_cores(parallel: int) -> Iterator[None]:
    """Processes that are started meanwhile take an equal part of the cores each, where `threads` says nothing."""
    given = os.environ.get("OMP_NUM_THREADS")
    if parallel > 1 and given is None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // parallel))
    try:
        yield
    finally:
        if given is None:
            os.environ.pop("OMP_NUM_THREADS", None)


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
        from grpo.training.launch import follow

        return follow()

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit queues again when it preempts the job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


class NotWaitedFor:
    def results(self) -> list[None]:
        return [None]


def leave_if_orphaned() -> None:
    """After a job: a worker of joblib's whose sweep was killed would wait for it for ever."""
    sweep = int(os.environ.get(SWEEP_PROCESS, "0"))
    if sweep and sweep not in (os.getpid(), os.getppid()):
        os._exit(1)
