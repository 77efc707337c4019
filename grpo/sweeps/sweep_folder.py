"""The folder of a sweep: `sweep.json`, which lists its jobs, and the checks that the folder belongs to this sweep.

Used by `runner`. It starts no job and reads no results.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from grpo.config.application import Command
from grpo.core.errors import UserError
from grpo.core.files import atomic_write, parse_file, parse_json_object, write_json
from grpo.core.paths import display_path
from grpo.core.redact import mask_overrides
from grpo.runs.resume_settings import require_same_job
from grpo.runs.run_dir import RunDir, SweepDir
from grpo.runs.settings import hydra_settings_to_store
from grpo.sweeps.jobs import Job


class SweepFolder:
    """The folder of a sweep and the jobs in it.

    Args:
        path: the folder, which need not exist yet.
        jobs: the jobs known at the start; a search adds others.
        identity: what distinguishes this sweep from others, in addition to its jobs; stored in `sweep.json`.
    """

    def __init__(self, path: Path, jobs: Sequence[Job], identity: dict[str, Any]) -> None:
        self.path, self.jobs, self.identity = path, list(jobs), identity

    def add(self, job: Job) -> None:
        """Add a job that was not known at the start, and store it.

        Raises:
            UserError: its folder is outside the sweep's, or belongs to another job.
        """
        self._check_job_folder(job, self.jobs)
        self.jobs.append(job)
        self.write_jobs()

    def write_jobs(self) -> None:
        """Write `sweep.json`."""
        jobs = [
            {"folder": self.relative_name(job), "name": job.name, "overrides": list(job.overrides)} for job in self.jobs
        ]
        command = shlex.join(["python", "-m", "grpo.train", *mask_overrides(Command.current.arguments)])
        write_json(SweepDir(self.path).sweep_json, {"command": command, **self.identity, "jobs": jobs})

    def write_settings(self, master: DictConfig) -> None:
        """Write `multirun.yaml`, the settings that all jobs share, as Hydra's own sweeper does."""
        with atomic_write(SweepDir(self.path).multirun_yaml) as partial:
            OmegaConf.save(OmegaConf.create(hydra_settings_to_store(master)), partial)

    def relative_name(self, job: Job) -> str:
        """The folder of a job, relative to the sweep's."""
        return os.path.relpath(job.folder, self.path)

    def check(self) -> None:
        """Check that the folder is free or contains this sweep.

        Raises:
            UserError: it contains a run, other runs or another sweep, or two jobs share a folder.
        """
        if RunDir(self.path).is_used():
            raise UserError(
                f"{display_path(self.path)} contains a run; give the sweep another, hydra.sweep.dir=FOLDER."
            )
        if SweepDir(self.path).sweep_json.is_file():
            self._check_same_sweep()
        else:
            self._check_no_other_runs()
        for number, job in enumerate(self.jobs):
            self._check_job_folder(job, self.jobs[:number])

    def _check_job_folder(self, job: Job, others: Sequence[Job]) -> None:
        name = self.relative_name(job)
        if name == "." or name.startswith("..") or any(job.folder == other.folder for other in others):
            raise UserError(
                f"hydra.sweep.subdir={name}: each job needs a separate folder below the sweep's; "
                "'hydra.sweep.subdir=${hydra.job.num}' gives it one."
            )
        if RunDir(job.folder).is_used():
            require_same_job(job.folder, job.config)

    def _check_no_other_runs(self) -> None:
        runs = {folder for folder in self.path.glob("**") if RunDir(folder).has_settings()}
        if others := sorted(runs - {job.folder for job in self.jobs}):
            raise UserError(
                f"{display_path(self.path)} contains other runs, such as {display_path(others[0])}; give the sweep a "
                "separate folder, hydra.sweep.dir=FOLDER."
            )

    def _check_same_sweep(self) -> None:
        path = SweepDir(self.path).sweep_json
        try:
            stored = parse_file(path, parse_json_object)
            stored_jobs = [" ".join(job["overrides"]) for job in stored["jobs"]]
        except (UserError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged; give the sweep another folder, hydra.sweep.dir=FOLDER.") from error
        jobs = [" ".join(job.overrides) for job in self.jobs]
        stored_identity = {name: stored.get(name) for name in self.identity}
        if (self.jobs and stored_jobs != jobs) or stored_identity != self.identity:
            raise UserError(
                f"{display_path(self.path)} contains another sweep, of {len(stored_jobs)} jobs; its own command, "
                f"stored in {path.name}, resumes it. Give this one a separate folder, hydra.sweep.dir=FOLDER."
            )
