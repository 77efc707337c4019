"""Hydra's launchers, with what they leave to chance settled: cores, GPUs, jobs at once, jobs that are killed."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from grpo.config import Config
from grpo.device import cores
from grpo.errors import UserError

# What brings each.
PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}

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


def at_once(launcher: Launcher, wanted: int | None, jobs: int, config: Config) -> int:
    """How many of the jobs run at once, where `wanted` does not say it; `config` is that of one of them.

    Raises:
        UserError: this launcher cannot.
    """
    if wanted is not None and wanted < 1:
        raise UserError(f"hydra.sweeper.parallel={wanted}: must be at least 1.")
    if kind(launcher) == "BasicLauncher":
        if (wanted or 1) > 1:
            raise UserError(
                f"hydra.sweeper.parallel={wanted}: the basic launcher runs a job at a time; add hydra/launcher=joblib."
            )
        return 1
    if wanted is not None:
        return wanted
    if kind(launcher) == "SlurmLauncher":
        return min(jobs, launcher.params["array_parallelism"])  # type: ignore[attr-defined]
    return 1 if config.device == "cuda" else max(1, min(jobs, cores() // (config.threads or 1)))


def launch(launcher: Any, calls: Sequence[Call], parallel: int, cuda: bool) -> None:
    """Run the jobs; returns when none runs any more, and raises what the launcher does, not what jobs do."""
    overrides = [each for each, _ in calls]
    if kind(launcher) in ("LocalLauncher", "SlurmLauncher") and launcher.params.get("gpus_per_node") is None:
        launcher.params["gpus_per_node"] = 1 if cuda else None
    with shared_cores(parallel):
        match kind(launcher):
            case "BasicLauncher":
                for each, number in calls:
                    launcher.launch([each], number)
            case "JoblibLauncher":
                launcher.joblib["n_jobs"] = parallel
                launcher.launch(overrides, calls[0][1])
            case "LocalLauncher":
                _submit_locally(launcher, calls, parallel)
            case "SlurmLauncher":
                launcher.params["array_parallelism"] = parallel
                with submissions():
                    launcher.launch(overrides, calls[0][1])
            case _:
                launcher.launch(overrides, calls[0][1])


def _submit_locally(launcher: Any, calls: Sequence[Call], parallel: int) -> None:
    """submitit would start all at once."""
    with submissions() as submitted, ThreadPoolExecutor(parallel) as pool:
        try:
            for waiting in [pool.submit(launcher.launch, [overrides], number) for overrides, number in calls]:
                waiting.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for job in submitted:
                if not job.done():
                    os.kill(int(job.job_id), signal.SIGTERM)  # to its controller, which hands it on
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
    """The jobs that are submitted meanwhile.

    hydra-submitit-launcher 1.2 gives up a sweep over the first job whose process was killed (its `launch`, the last
    line); here such a job has no result, and the others are waited for.
    """
    from submitit import AutoExecutor

    submitted: list[Any] = []
    map_array = AutoExecutor.map_array

    def collecting(executor: Any, *arguments: Any) -> list[Any]:
        jobs = map_array(executor, *arguments)
        submitted.extend(jobs)
        return [Waited(job) for job in jobs]

    AutoExecutor.map_array = collecting  # type: ignore[method-assign,assignment]
    try:
        yield submitted
    finally:
        AutoExecutor.map_array = map_array  # type: ignore[method-assign]


@dataclass(frozen=True)
class Waited:
    job: Any

    def results(self) -> list[Any]:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return list(self.job.results())
        except (FailedJobError, UncompletedJobError):
            return [None]
