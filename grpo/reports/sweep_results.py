"""The results of a sweep, read from its folder: the arms under comparison, their runs by seed, and the unfinished jobs.

Read by the statistics, sentences, tables and figures of a sweep. It groups runs into arms and compares nothing.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import pandas as pd

from grpo.core import files
from grpo.core.errors import UserError, first_line
from grpo.core.files import parse_json_object
from grpo.core.metric_format import METRIC_LABELS
from grpo.core.metric_names import (
    ACCURACY_FLEXIBLE,
    ACCURACY_STRICT,
    MEAN_COMPLETION_TOKENS,
    PHANTOM,
    REWARD,
    SCORE_PREFIX,
)
from grpo.core.text import plural
from grpo.reports.arms import (
    PRIMARY_METRIC,
    Arm,
    affects_results,
    factor_levels,
    final_value,
    settings_with_effect,
)
from grpo.reports.sweep_folders import find_runs, holds_runs, natural_key
from grpo.runs.results import STOPPED_BY_PRUNING
from grpo.runs.run_dir import RunDir, SweepDir
from grpo.runs.saved_run import SavedRun, read_run


class UnfinishedJob(NamedTuple):
    """A job without results that can be compared."""

    folder: str  # relative to the sweep's
    name: str
    state: str  # failed, unfinished, without a step, not started, damaged or pruned
    reason: str

    @property
    def without_steps(self) -> bool:
        return self.state in ("without a step", "not started")


@dataclass(frozen=True, eq=False)
class SweepResults:
    """The results below a folder.

    Attributes:
        factors: the keys of the settings that differ between arms, as typed.
        arms: in the order of the sweep; arms without a finished run have no runs.
        unfinished: the jobs that are in no arm.
        repeated: (left out, newer run) for each run that a newer run of the same arm and seed replaces.
        finished_runs: every finished run with the name of its job, in the order of the sweep.
        maximize: the objectives of a search -> whether the highest value is the best; empty if it was no search.
    """

    folder: Path
    command: str | None
    factors: list[str]
    arms: list[Arm]
    unfinished: list[UnfinishedJob]
    repeated: list[tuple[str, str]]
    finished_runs: list[tuple[str, SavedRun]]
    maximize: dict[str, bool]

    @property
    def arms_with_runs(self) -> list[Arm]:
        return [arm for arm in self.arms if arm.runs]

    @property
    def missing(self) -> list[UnfinishedJob]:
        """The jobs that may still get results."""
        return [job for job in self.unfinished if job.state != "pruned"]

    @property
    def job_count(self) -> int:
        return len(self.finished_runs) + len(self.unfinished)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the two accuracies in tables; general ones if the runs differ in what counts as right."""
        labels = [run.accuracy_labels for _, run in self.finished_runs]
        if labels and all(others == labels[0] for others in labels):
            return labels[0]
        return {ACCURACY_STRICT: "right", ACCURACY_FLEXIBLE: "right in any format"}

    @property
    def metrics(self) -> list[str]:
        """The other metrics to compare; the total reward is one only if the rewards have equal weights in all runs."""
        runs = [run for arm in self.arms for run in arm.runs.values()]
        rewards = dict.fromkeys(name for run in runs for name in run.results["after"] if name.startswith(SCORE_PREFIX))
        same_weights = all(run.weights == runs[0].weights for run in runs)
        labelled = [name for name in METRIC_LABELS if name != PRIMARY_METRIC and (same_weights or name != REWARD)]
        metrics = (*labelled, *rewards, PHANTOM)
        return [name for name in metrics if any(final_value(run, name) is not None for run in runs)]

    @cached_property
    def problem_tables(self) -> dict[Path, pd.DataFrame | None]:
        """Folder of a run -> its metrics by held-out problem after training; None if the file is missing or damaged."""
        return {run.folder: _metrics_by_problem(run) for arm in self.arms for run in arm.runs.values()}

    def relative_name(self, folder: Path) -> str:
        """A folder of the sweep, relative to the sweep's own."""
        return str(folder.relative_to(self.folder))


def _metrics_by_problem(run: SavedRun) -> pd.DataFrame | None:
    try:
        table = pd.read_parquet(RunDir(run.folder).evaluation_table("after"))
        table = table.set_index(["problem", "question", "gold"]).sort_index()
    except (OSError, ValueError, KeyError):
        return None
    table = table.rename(columns={"tokens": MEAN_COMPLETION_TOKENS})
    metrics = [name for name in table if name in METRIC_LABELS or str(name).startswith(SCORE_PREFIX)]
    return table[metrics].astype(np.float64).groupby(level=[0, 1, 2]).mean()


@dataclass
class _SweepFile:
    """The content of `sweep.json`."""

    command: str | None = None
    jobs: dict[str, str] = field(default_factory=dict)  # folder -> name
    maximize: dict[str, bool] = field(default_factory=dict)


def read_sweep(folder: Path) -> SweepResults:
    """The runs in a folder, or in its subfolders, grouped into arms.

    Raises:
        UserError: there is no run, or `sweep.json` is damaged.
    """
    if not holds_runs(folder):
        raise UserError(f"{folder} contains no runs; give the folder of a sweep, outputs/sweeps/DATE/TIME.")
    sweep_file = _read_sweep_file(SweepDir(folder).sweep_json)
    runs, states = _read_jobs(folder, sweep_file)
    finished = {job: run for job, run in runs.items() if states[job] is None}
    groups: dict[str, dict[str, SavedRun]] = defaultdict(dict)
    for job, run in runs.items():
        groups[json.dumps(settings_with_effect(run), sort_keys=True, default=str)][job] = run
    levels = factor_levels([next(iter(group.values())) for group in groups.values()])

    positions = {job: position for position, job in enumerate(states)}
    arms: list[tuple[int, Arm]] = []  # each with the position of its first job
    repeated: list[tuple[str, str]] = []
    names = dict(sweep_file.jobs)
    for arm_levels, group in zip(levels, groups.values(), strict=True):
        newest, older = _newest_by_seed(folder, {job: run for job, run in group.items() if job in finished})
        arm = Arm(arm_levels, newest)
        repeated += older
        for job, run in group.items():
            names.setdefault(job, f"{arm.name} seed={run.settings['seed']}")
        arms.append((min(positions[job] for job in group), arm))
    if not sweep_file.maximize:
        arms += _arms_without_runs(sweep_file, runs)
    return SweepResults(
        folder=folder,
        command=sweep_file.command,
        factors=list(levels[0]) if levels else [],
        arms=[arm for _, arm in sorted(arms, key=lambda placed: placed[0])],
        unfinished=[UnfinishedJob(job, names.get(job, ""), *state) for job, state in states.items() if state],
        repeated=repeated,
        finished_runs=[(names[job], run) for job, run in finished.items()],
        maximize=sweep_file.maximize,
    )


def _read_jobs(folder: Path, sweep_file: _SweepFile) -> tuple[dict[str, SavedRun], dict[str, tuple[str, str] | None]]:
    """The runs by their job's folder, and for every job its state and the reason, None if it has finished."""
    started_jobs = {str(path.relative_to(folder)) for path in find_runs(folder)}
    started_jobs |= {job for job in sweep_file.jobs if RunDir(folder / job).has_settings()}
    runs: dict[str, SavedRun] = {}
    states: dict[str, tuple[str, str] | None] = {}
    for job in [*sweep_file.jobs, *sorted(started_jobs - sweep_file.jobs.keys(), key=natural_key)]:
        if job not in started_jobs:
            states[job] = _job_state(folder / job, None)
            continue
        try:
            runs[job] = read_run(folder / job)
            states[job] = _job_state(folder / job, runs[job])
        except UserError as error:
            states[job] = "damaged", str(error)
    return runs, states


def _newest_by_seed(folder: Path, runs: Mapping[str, SavedRun]) -> tuple[dict[int, SavedRun], list[tuple[str, str]]]:
    """The newest run of each seed, and (left out, newer run) for the others."""
    by_seed: dict[int, list[str]] = defaultdict(list)
    for job, run in runs.items():
        by_seed[run.settings["seed"]].append(job)
    chosen, repeated = {}, []
    for seed in sorted(by_seed):
        *older, newest = sorted(by_seed[seed], key=lambda job: RunDir(folder / job).results_json.stat().st_mtime)
        chosen[seed] = runs[newest]
        repeated += [(job, newest) for job in older]
    return chosen, repeated


def _arms_without_runs(sweep_file: _SweepFile, runs: Mapping[str, SavedRun]) -> list[tuple[int, Arm]]:
    """The arms of which no job has written anything, each with the position of its first job."""
    arms: dict[str, tuple[int, Arm]] = {}
    started = set()
    for position, (job, name) in enumerate(sweep_file.jobs.items()):
        parts = [
            part for part in re.split(r" (?=[^ =]+=)", name) if "=" in part and affects_results(part.partition("=")[0])
        ]
        levels = dict(part.split("=", 1) for part in parts)
        arms.setdefault(repr(levels), (position, Arm(levels, {})))
        if job in runs:
            started.add(repr(levels))
    return [arm for key, arm in arms.items() if key not in started]


def _read_sweep_file(path: Path) -> _SweepFile:
    if not path.is_file():
        return _SweepFile()
    try:
        content = files.parse_file(path, parse_json_object)
        jobs = {_relative_folder(job["folder"]): str(job["name"]) for job in content["jobs"]}
        objectives = {direction: list(content.get(direction) or []) for direction in ("maximize", "minimize")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}.") from error
    maximize = {str(name): direction == "maximize" for direction, names in objectives.items() for name in names}
    return _SweepFile(str(content.get("command") or "") or None, jobs, maximize)


def _relative_folder(name: str) -> str:
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the folder of a job, {name!r}, is not below the sweep's")
    return str(path)


def _job_state(folder: Path, run: SavedRun | None) -> tuple[str, str] | None:
    """The state of a job without results to compare, and the reason; None if it has finished."""
    if run and run.results:
        if run.results.get("stopped_by") == STOPPED_BY_PRUNING:
            return "pruned", f"at step {run.results['steps']:,}"
        primary = final_value(run, PRIMARY_METRIC)
        return None if primary is not None else ("damaged", f"results.json lacks {PRIMARY_METRIC}")
    error = RunDir(folder).error_txt
    if error.is_file():
        return "failed", error.read_text(encoding="utf-8", errors="replace").strip() or "without a message"
    if run is None:
        return "not started", ""
    if run.history.empty:
        return "without a step", "interrupted, or still running"
    steps = int(run.history.index[-1])
    return "unfinished", f"interrupted, or still running: {steps:,} {plural(steps, 'step')} logged"
