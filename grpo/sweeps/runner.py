"""A sweep while it runs: its jobs are started with a Hydra launcher, watched, and reported when they have ended.

Called by the sweeper `hydra/sweeper=grid`, and by `search` for the trials of Optuna. The jobs' results are known only
through the files in their folders.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from time import sleep
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from grpo.config.composition import load_sweeper
from grpo.config.schema import SweeperConfig
from grpo.core import distributed
from grpo.core.console import print_message
from grpo.core.errors import UserError, first_line
from grpo.core.paths import display_path
from grpo.core.progress import importing, spinner
from grpo.core.signals import SignalHandler, StoppedBySignal
from grpo.core.tables import run_header
from grpo.core.text import plural
from grpo.runs.results import read_job_outcome
from grpo.runs.resume import has_all_steps
from grpo.runs.run_dir import RunDir, SweepDir, link_latest, quoted_path
from grpo.runs.trust import refuse_links
from grpo.sweeps.estimate import estimate_duration
from grpo.sweeps.job_state import POLL_SECONDS
from grpo.sweeps.jobs import Job, compose_jobs, expand_overrides, refuse_duplicates
from grpo.sweeps.launchers import idle_cores_hint, launch_jobs, launcher_name, parallel_jobs, runs_on_this_machine
from grpo.sweeps.progress import SweepProgress
from grpo.sweeps.sweep_folder import SweepFolder

ATTEMPTS = 2  # a job whose process was killed is started a second time


def run_grid(context: HydraContext, master: DictConfig, launcher: Launcher, arguments: Sequence[str]) -> None:
    """Run a job for each combination of the values in `arguments`, which are overrides as typed."""
    listed = expand_overrides(context, arguments)
    varied = [key for key, values in listed.items() if len(values) > 1]  # these settings differ, and name the jobs
    settings = load_sweeper(master.hydra.sweeper, SweeperConfig)
    combinations = [list(values) for values in product(*listed.values())]
    jobs = compose_jobs(context, master, combinations, varied, on_this_machine=runs_on_this_machine(launcher))
    refuse_duplicates(jobs)
    with SweepRunner(master, launcher, settings, varied, jobs, jobs[0], len(jobs)) as sweep:
        finished = [job for job in jobs if has_all_steps(job.folder, job.config)]
        variation = " x ".join(f"{key.lstrip('+')} ({len(listed[key])})" for key in varied)
        remaining = [job for job in jobs if job not in finished]
        hint = idle_cores_hint(launcher, len(remaining), jobs[0].config)
        sweep.print_header("job", len(finished), remaining, variation, hint)
        sweep.run_jobs(jobs)
    sweep.report()


class SweepRunner:
    """Runs the jobs of a sweep in its folder; as a context manager, it locks the folder and handles signals.

    Args:
        jobs: those known at the start; a search adds others.
        example: any job, for the number of parallel jobs.
        varied: the keys of the settings that differ between jobs.
        total: how many jobs there will be.
        identity: what distinguishes this sweep from others, in addition to its jobs.

    Raises:
        UserError: the folder contains a sweep that runs, another sweep, or a run.
    """

    def __init__(
        self,
        master: DictConfig,
        launcher: Launcher,
        settings: SweeperConfig,
        varied: Sequence[str],
        jobs: Sequence[Job],
        example: Job,
        total: int,
        **identity: Any,
    ) -> None:
        if distributed.world_size() > 1:
            raise UserError("a sweep starts its jobs itself; type it without a launcher (docs/multi-gpu.md).")
        if not master.hydra.sweep.dir:
            raise UserError("hydra.sweep.dir=: give the sweep a folder, or leave it out.")
        self.master, self.launcher, self.settings, self.total = master, launcher, settings, total
        identity = {"varied": [key.lstrip("+") for key in varied], **identity}
        self.folder = SweepFolder(Path(master.hydra.sweep.dir), jobs, identity)
        self.parallel = parallel_jobs(launcher, settings.parallel, total, example.config)
        self.progress = SweepProgress(self.folder.jobs, total)
        self._contexts = ExitStack()

    def __enter__(self) -> "SweepRunner":
        path = self.folder.path
        refuse_links(path)
        self.folder.check()  # before a lock file is created in it
        path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as contexts:
            contexts.enter_context(self._explain_stop())
            contexts.enter_context(SweepDir(path).locked())
            contexts.enter_context(SignalHandler())
            self.folder.check()
            link_latest(path)
            self.folder.write_settings(self.master)
            self.folder.write_jobs()
            self._contexts = contexts.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._contexts.__exit__(*error)

    @contextmanager
    def _explain_stop(self) -> Iterator[None]:
        """Add to a signal that stops the sweep how to resume it."""
        try:
            yield
        except (StoppedBySignal, KeyboardInterrupt) as error:
            number = error.number if isinstance(error, StoppedBySignal) else signal.SIGINT
            queued = " Its jobs stay in Slurm's queue." if launcher_name(self.launcher) == "SlurmLauncher" else ""
            raise StoppedBySignal(
                number,
                f"The sweep was stopped by {signal.Signals(number).name}.{queued} To resume it, type its command again "
                f"with {self._folder_override()}",
            ) from error

    def _folder_override(self) -> str:
        return f"hydra.sweep.dir={quoted_path(Path(display_path(self.folder.path)))}"

    def print_header(
        self, noun: str, finished: int, remaining: Sequence[Job], variation: str, hint: str | None = None
    ) -> None:
        """Print what will run, how long it will take if an estimate is possible, and `hint`: how it runs faster.

        `variation` says in which settings the jobs differ, and in how many values: `num_generations (2) x seed (3)`.
        """
        lines = {
            "sweep": f"{self.total} {plural(self.total, noun)}" + (f", {finished} of them done" if finished else "")
        }
        if variation:
            lines["sweep"] += f": {variation}"
        if self.parallel > 1:
            lines["sweep"] += f"; {self.parallel} in parallel"
        lines["folder"] = display_path(self.folder.path)
        if remaining:
            estimate = estimate_duration(remaining, self.parallel, self.settings.step_seconds)
            lines["time"] = estimate or "estimated after the first steps; or give hydra.sweeper.step_seconds=SECONDS"
            self.progress.estimate_pending = estimate is None
        if hint:
            lines["faster"] = hint
        print_message(run_header(lines), self.progress.terminal)

    def run_jobs(self, jobs: Sequence[Job]) -> None:
        """Run those of the jobs that have not ended; returns when none of them runs."""
        with self.progress.watch(jobs):
            for _ in range(ATTEMPTS):
                remaining = [job for job in jobs if read_job_outcome(job.folder) is None]
                # Jobs that an earlier process of this sweep started may still run.
                running = [job for job in remaining if RunDir(job.folder).is_locked()]
                self._launch([job for job in remaining if job not in running])
                while any(RunDir(job.folder).is_locked() for job in running):
                    sleep(POLL_SECONDS)

    def _launch(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        names = [quoted_path(Path(self.folder.relative_name(job))) for job in jobs]
        calls = [
            ([*job.overrides, f"hydra.sweep.subdir={name}"], job.number) for job, name in zip(jobs, names, strict=True)
        ]
        cuda = any(job.config.device == "cuda" for job in jobs)
        try:
            launch_jobs(self.launcher, calls, self.parallel, cuda)
        except Exception as error:  # the launcher's own: the errors of jobs are in the jobs' folders
            launcher_error = f"{type(error).__name__}: {first_line(error)}"
            if not any(job.folder.is_dir() for job in jobs):
                raise UserError(f"The jobs could not be launched. {launcher_error.rstrip('?')}.") from error
            self.progress.launcher_error = launcher_error

    def report(self) -> None:
        """Print the table and the verdict, and write the report.

        Raises:
            UserError: a job has no result.
        """
        with importing("Matplotlib"):
            # Imported here because Matplotlib takes a second, and the jobs come first.
            from grpo.reports.sweep_findings import verdict
            from grpo.reports.sweep_report import write_sweep_report
            from grpo.reports.sweep_results import read_sweep
            from grpo.reports.sweep_tables import sweep_table

        path = self.folder.path
        results = read_sweep(path)
        self.progress.print_line("")
        print_message(sweep_table(results), self.progress.terminal)
        self.progress.print_line(verdict(results))
        with spinner("drawing the report"):
            page = write_sweep_report(results)
        self.progress.print_line(f"Report: {display_path(page)}")
        if any(path.glob("*/wandb/offline-run-*")):
            self.progress.print_line(
                f"W&B: tracked offline. To upload: wandb sync {display_path(path)}/*/wandb/offline-run-*"
            )
        jobs = self.folder.jobs
        if missing := sum(not has_all_steps(job.folder, job.config) for job in jobs):
            raise UserError(
                f"{missing} of {len(jobs)} jobs {'has' if missing == 1 else 'have'} no result. The same command with "
                f"{self._folder_override()} runs only {'that' if missing == 1 else 'those'} again."
            )
