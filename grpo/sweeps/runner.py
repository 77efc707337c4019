"""A sweep: a folder of jobs, run by any of Hydra's launchers.

`sweep.json` in the folder says what the jobs are; what became of each stands in the job's own folder.
"""

import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from time import sleep
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from grpo.config.application import Command
from grpo.config.composition import load_sweeper
from grpo.config.schema import SweeperConfig
from grpo.core import distributed
from grpo.core.console import print_message
from grpo.core.errors import UserError, first_line
from grpo.core.files import atomic_write, parse_file, parse_json_object, write_json
from grpo.core.paths import display_path
from grpo.core.progress import spinner
from grpo.core.redact import mask_overrides
from grpo.core.signals import SignalHandler, StoppedBySignal
from grpo.core.tables import run_header
from grpo.core.text import plural
from grpo.runs.results import read_job_outcome
from grpo.runs.resume import has_all_steps
from grpo.runs.resume_settings import require_same_job
from grpo.runs.run_dir import RunDir, SweepDir, link_latest, quoted_path
from grpo.runs.settings import hydra_settings_to_store
from grpo.runs.trust import refuse_links
from grpo.sweeps.estimate import how_long
from grpo.sweeps.job_state import LOOK
from grpo.sweeps.jobs import Job, compose_jobs, refuse_twins, values_listed
from grpo.sweeps.launchers import at_once, kind, launch, on_this_machine
from grpo.sweeps.progress import Account


def run_grid(context: HydraContext, master: DictConfig, launcher: Launcher, arguments: Sequence[str]) -> None:
    """A job for each combination of what is listed in `arguments`, overrides as they are typed."""
    listed = values_listed(context, arguments)
    varied = [key for key, values in listed.items() if len(values) > 1]
    settings = load_sweeper(master.hydra.sweeper, SweeperConfig)
    chosen = [list(each) for each in product(*listed.values())]
    jobs = compose_jobs(context, master, chosen, varied, here=on_this_machine(launcher))
    refuse_twins(jobs)
    with Sweep(master, launcher, settings, varied, jobs, jobs[0], len(jobs)) as sweep:
        done = [job for job in jobs if has_all_steps(job.folder, job.config)]
        factors = [f"{key.lstrip('+')} ({len(listed[key])})" for key in varied]
        sweep.announce("job", len(done), [job for job in jobs if job not in done], " x ".join(factors))
        sweep.launch(jobs)
    sweep.conclude()


class Sweep:
    """A sweep's folder and the jobs in it, while it runs.

    Args:
        jobs: those known at the start; a search adds others.
        example: any of them.
        total: how many there will be.
        record: what else makes it this sweep and no other.

    Raises:
        UserError: its folder belongs to a sweep that runs, to another one, or to a run.
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
        **record: Any,
    ) -> None:
        if distributed.world_size() > 1:
            raise UserError("a sweep starts its jobs itself; type it without a launcher (docs/scaling.md).")
        if not master.hydra.sweep.dir:
            raise UserError("hydra.sweep.dir=: give the sweep a folder, or leave it out.")
        self.master, self.launcher, self.settings = master, launcher, settings
        self.jobs, self.total = list(jobs), total
        self.record = {"varied": [key.lstrip("+") for key in varied], **record}
        self.folder = Path(master.hydra.sweep.dir)
        self.parallel = at_once(launcher, settings.parallel, total, example.config)
        self.account = Account(self.jobs, total)
        self._entered = ExitStack()

    def __enter__(self) -> "Sweep":
        refuse_links(self.folder)
        self._refuse_folder()  # before there is a lock in it
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as entered:
            entered.enter_context(self._stoppable())
            entered.enter_context(SweepDir(self.folder).locked())
            entered.enter_context(SignalHandler())
            self._refuse_folder()
            link_latest(self.folder)
            with atomic_write(SweepDir(self.folder).multirun_yaml) as partial:
                OmegaConf.save(OmegaConf.create(hydra_settings_to_store(self.master)), partial)
            self.write()
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._entered.__exit__(*error)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        try:
            yield
        except (StoppedBySignal, KeyboardInterrupt) as error:
            number = error.number if isinstance(error, StoppedBySignal) else signal.SIGINT
            again = (
                f"type the sweep's command again with hydra.sweep.dir={quoted_path(Path(display_path(self.folder)))}"
            )
            queued = " Its jobs stay in Slurm's queue." if kind(self.launcher) == "SlurmLauncher" else ""
            name = signal.Signals(number).name
            raise StoppedBySignal(number, f"The sweep was stopped by {name}.{queued} To go on, {again}") from error

    def add(self, job: Job) -> None:
        """A job that was not known at the start."""
        self._refuse_place(job, self.jobs)
        self.jobs.append(job)
        self.write()

    def write(self) -> None:
        jobs = [{"folder": self._name(job), "name": job.name, "overrides": list(job.overrides)} for job in self.jobs]
        command = shlex.join(["python", "-m", "grpo.train", *mask_overrides(Command.current.typed)])
        write_json(SweepDir(self.folder).sweep_json, {"command": command, **self.record, "jobs": jobs})

    def _name(self, job: Job) -> str:
        return os.path.relpath(job.folder, self.folder)

    def _refuse_place(self, job: Job, others: Sequence[Job]) -> None:
        name = self._name(job)
        if name == "." or name.startswith("..") or any(job.folder == other.folder for other in others):
            raise UserError(
                f"hydra.sweep.subdir={name}: each job needs a folder of its own below the sweep's; "
                "'hydra.sweep.subdir=${hydra.job.num}' gives it one."
            )
        if RunDir(job.folder).is_used():
            require_same_job(job.folder, job.config)

    def _refuse_folder(self) -> None:
        if RunDir(self.folder).is_used():
            raise UserError(f"{display_path(self.folder)} holds a run; give the sweep another, hydra.sweep.dir=FOLDER.")
        self._refuse_another()
        for number, job in enumerate(self.jobs):
            self._refuse_place(job, self.jobs[:number])

    def _refuse_another(self) -> None:
        path = SweepDir(self.folder).sweep_json
        if not path.is_file():
            runs = {each for each in self.folder.glob("**") if RunDir(each).is_run()}
            if others := sorted(runs - {job.folder for job in self.jobs}):
                raise UserError(
                    f"{display_path(self.folder)} holds other runs, {display_path(others[0])} among them; give the "
                    f"sweep a "
                    "folder of its own, hydra.sweep.dir=FOLDER."
                )
            return
        try:
            there = parse_file(path, parse_json_object)
            before = [" ".join(job["overrides"]) for job in there["jobs"]]
        except (UserError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged; give the sweep another folder, hydra.sweep.dir=FOLDER.") from error
        here = [" ".join(job.overrides) for job in self.jobs]
        record = {name: there.get(name) for name in self.record}
        if (self.jobs and before != here) or record != self.record:
            raise UserError(
                f"{display_path(self.folder)} holds another sweep, of {len(before)} jobs, which goes on with its own "
                f"command, on record in {path.name}. Give this one a folder of its own, hydra.sweep.dir=FOLDER."
            )

    def announce(self, noun: str, done: int, left: Sequence[Job], varied: str) -> None:
        """What is about to run, and how long that will take."""
        lines = {"sweep": f"{self.total} {plural(self.total, noun)}" + (f", {done} of them done" if done else "")}
        if varied:
            lines["sweep"] += f": {varied}"
        if self.parallel > 1:
            lines["sweep"] += f"; {self.parallel} at once"
        lines["folder"] = display_path(self.folder)
        if left:
            time = how_long(left, self.parallel, self.settings.step_seconds)
            lines["time"] = time or "told after the first steps; or state it, hydra.sweeper.step_seconds=SECONDS"
            self.account.untold = time is None
        print_message(run_header(lines), self.account.terminal)

    def launch(self, jobs: Sequence[Job]) -> None:
        """Run what is left to do of these, each in its folder; returns when none runs any more.

        A job whose process was killed is tried once more.
        """
        with self.account.kept(jobs):
            for _ in range(2):
                left = [job for job in jobs if read_job_outcome(job.folder) is None]
                # Jobs of an earlier start of this sweep may have outlived it.
                elsewhere = [job for job in left if RunDir(job.folder).is_locked()]
                self._start([job for job in left if job not in elsewhere])
                while any(RunDir(job.folder).is_locked() for job in elsewhere):
                    sleep(LOOK)

    def _start(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        calls = [
            ([*job.overrides, f"hydra.sweep.subdir={quoted_path(Path(self._name(job)))}"], job.number) for job in jobs
        ]
        cuda = any(job.config.device == "cuda" for job in jobs)
        try:
            launch(self.launcher, calls, self.parallel, cuda)
        except Exception as error:  # the launcher's own: what jobs raise stands in their folders
            trouble = f"{type(error).__name__}: {first_line(error)}"
            if not any(job.folder.is_dir() for job in jobs):
                raise UserError(f"The jobs could not be launched. {trouble.rstrip('?')}.") from error
            self.account.trouble = trouble

    def conclude(self) -> None:
        """The table, the report, and an error where a job has no result."""
        with spinner("importing Matplotlib"):
            from grpo.reports.sweep_findings import verdict
            from grpo.reports.sweep_report import write_sweep_report
            from grpo.reports.sweep_results import read_sweep
            from grpo.reports.sweep_tables import sweep_table

        sweep = read_sweep(self.folder)
        self.account.say("")
        print_message(sweep_table(sweep), self.account.terminal)
        self.account.say(verdict(sweep))
        with spinner("drawing the report"):
            page = write_sweep_report(sweep)
        self.account.say(f"Report: {display_path(page)}")
        if any(self.folder.glob("*/wandb/offline-run-*")):
            self.account.say(
                f"W&B: tracked offline. To upload: wandb sync {display_path(self.folder)}/*/wandb/offline-run-*"
            )
        missing = [job for job in self.jobs if not has_all_steps(job.folder, job.config)]
        if missing:
            again = f"hydra.sweep.dir={quoted_path(Path(display_path(self.folder)))}"
            raise UserError(
                f"{len(missing)} of {len(self.jobs)} jobs {'has' if len(missing) == 1 else 'have'} no result. The same "
                f"command with {again} runs only {'that' if len(missing) == 1 else 'those'} again."
            )
