"""Hydra's launchers: which one is used, how many jobs it runs at once, and how it is called.

Used by `runner`, and by `grpo.train` at the end of a job. It knows nothing of what a job computes.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from grpo.config.schema import Config
from grpo.core.device import usable_cores
from grpo.core.errors import UserError
from grpo.sweeps.job_state import LOOK
from grpo.sweeps.submitit_jobs import Call, submissions, submit_locally

# What brings each.
PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
SWEEP_PROCESS = "GRPO_SWEEP_PROCESS"  # tells the workers of joblib whose they are


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
        wanted = 1 if config.device == "cuda" else max(1, min(jobs, usable_cores() // (config.threads or 1)))
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
                submit_locally(launcher, calls, parallel)
            case "SlurmLauncher":
                launcher.params["array_parallelism"] = parallel
                with submissions() as submitted:
                    launcher.launch(overrides, calls[0][1])
                    while not all(job.done() for job in submitted):
                        time.sleep(LOOK)
            case _:
                launcher.launch(overrides, calls[0][1])


@contextmanager
def shared_cores(parallel: int) -> Iterator[None]:
    """Processes that are started meanwhile take an equal part of the cores each, where `threads` says nothing."""
    given = os.environ.get("OMP_NUM_THREADS")
    if parallel > 1 and given is None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // parallel))
    try:
        yield
    finally:
        if given is None:
            os.environ.pop("OMP_NUM_THREADS", None)


def leave_if_orphaned() -> None:
    """After a job: a worker of joblib's whose sweep was killed would wait for it for ever."""
    sweep = int(os.environ.get(SWEEP_PROCESS, "0"))
    if sweep and sweep not in (os.getpid(), os.getppid()):
        os._exit(1)
