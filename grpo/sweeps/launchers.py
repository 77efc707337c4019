"""Hydra's launchers: which one is used, how many jobs it runs in parallel, and how it is called.

Used by `runner`, and by `grpo.train` at the end of a job. It knows nothing of what a job computes.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from grpo.config.schema import Config
from grpo.core.device import usable_cores
from grpo.core.errors import UserError
from grpo.sweeps.job_state import POLL_SECONDS
from grpo.sweeps.submitit_jobs import JobCall, collect_submissions, submit_locally

# launcher -> the package that provides it
LAUNCHER_PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
SMALL_POLICY = 1e7  # parameters: below, a second job gains more than a second thread (docs/sweeps.md)
SWEEP_PID_VARIABLE = "GRPO_SWEEP_PROCESS"  # the process id of the sweep, for joblib's workers


def build_launcher(context: HydraContext, task: TaskFunction, master: DictConfig) -> Launcher:
    """The launcher that the settings name.

    Raises:
        UserError: its package is not installed.
    """
    name = master.hydra.runtime.choices.get("hydra/launcher")
    try:
        return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)
    except (RuntimeError, ImportError) as error:
        if name not in LAUNCHER_PACKAGES:
            raise
        raise UserError(f"hydra/launcher={name}: it is not installed: pip install {LAUNCHER_PACKAGES[name]}") from error


def launcher_name(launcher: Launcher) -> str:
    """The name of its class: BasicLauncher, JoblibLauncher, LocalLauncher, SlurmLauncher or one of your own."""
    return type(launcher).__name__


def runs_on_this_machine(launcher: Launcher) -> bool:
    """Whether jobs have the devices and files of this process; submitit chooses a machine for each job."""
    return launcher_name(launcher) in ("BasicLauncher", "JoblibLauncher")


def parallel_jobs(launcher: Launcher, wanted: int | None, jobs: int, config: Config) -> int:
    """How many jobs run in parallel: `wanted`, or if that is None, as many as the cores or Slurm allow.

    Args:
        wanted: hydra.sweeper.parallel.
        jobs: how many there are.
        config: the settings of one of them.

    Raises:
        UserError: the launcher or the server of the rollouts cannot run that many.
    """
    if launcher_name(launcher) == "BasicLauncher":
        if (wanted or 1) > 1:
            raise UserError(
                f"hydra.sweeper.parallel={wanted}: the basic launcher runs one job at a time; add "
                "hydra/launcher=joblib."
            )
        return 1
    if wanted is None and launcher_name(launcher) == "SlurmLauncher":
        wanted = min(jobs, launcher.params["array_parallelism"])  # type: ignore[attr-defined]
    if wanted is None:
        wanted = 1 if config.device == "cuda" else max(1, min(jobs, usable_cores() // (config.threads or 1)))
    if wanted > 1 and config.rollout.name == "vllm_server":
        raise UserError(
            f"rollout=vllm_server: {wanted} parallel jobs would send their weights to one server, which has the "
            "weights of one policy; add hydra.sweeper.parallel=1, or use rollout=vllm."
        )
    return wanted


def idle_cores_hint(launcher: Launcher, jobs: int, config: Config) -> str | None:
    """What to type so that jobs run in parallel; None if that is not certain to be quicker.

    It is quicker if the basic launcher leaves half of the cores or more idle, or if the policy is small: its matrices
    gain little from a second thread.

    Args:
        jobs: how many jobs are left.
        config: the settings of one of them.
    """
    if launcher_name(launcher) != "BasicLauncher" or config.device != "cpu" or jobs < 2:
        return None
    cores = usable_cores()
    given = os.environ.get("OMP_NUM_THREADS")
    small = (config.model.parameters or math.inf) <= SMALL_POLICY
    threads = config.threads or (1 if given == "1" or (given is None and small) else cores)
    if (parallel := min(jobs, cores // threads)) < 2:
        return None
    missing = not find_spec("hydra_plugins.hydra_joblib_launcher")
    install = f" (pip install {LAUNCHER_PACKAGES['joblib']})" if missing else ""
    return f"hydra/launcher=joblib runs {parallel} jobs in parallel on the {cores} cores{install}"


def launch_jobs(launcher: Any, calls: Sequence[JobCall], parallel: int, cuda: bool) -> None:
    """Run the jobs; returns when all have ended. Raises the errors of the launcher, not those of the jobs.

    Args:
        calls: the overrides and the number of each job.
        cuda: whether a job needs a GPU.
    """
    overrides = [job_overrides for job_overrides, _ in calls]
    if launcher_name(launcher) in ("LocalLauncher", "SlurmLauncher") and launcher.params.get("gpus_per_node") is None:
        launcher.params["gpus_per_node"] = launcher.params["tasks_per_node"] if cuda else None
    with share_cores(parallel):
        match launcher_name(launcher):
            case "BasicLauncher":
                for job_overrides, number in calls:
                    launcher.launch([job_overrides], number)
            case "JoblibLauncher":
                launcher.joblib["n_jobs"] = parallel
                os.environ[SWEEP_PID_VARIABLE] = str(os.getpid())
                launcher.launch(overrides, calls[0][1])
            case "LocalLauncher":
                submit_locally(launcher, calls, parallel)
            case "SlurmLauncher":
                launcher.params["array_parallelism"] = parallel
                with collect_submissions() as submitted:
                    launcher.launch(overrides, calls[0][1])
                    while not all(job.done() for job in submitted):
                        time.sleep(POLL_SECONDS)
            case _:
                launcher.launch(overrides, calls[0][1])


@contextmanager
def share_cores(parallel: int) -> Iterator[None]:
    """Give each process that starts while the context lasts an equal part of the cores, unless `threads` is set."""
    own_threads = os.environ.get("OMP_NUM_THREADS")
    if parallel > 1 and own_threads is None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // parallel))
    try:
        yield
    finally:
        if own_threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)


def exit_if_orphaned() -> None:
    """End this process after a job if it is a joblib worker whose sweep was killed; it would wait forever."""
    sweep = int(os.environ.get(SWEEP_PID_VARIABLE, "0"))
    if sweep and sweep not in (os.getpid(), os.getppid()):
        os._exit(1)
