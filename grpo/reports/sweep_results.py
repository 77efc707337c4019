"""The results of a sweep, read from its folder: the arms under comparison, their runs by seed, and the unfinished jobs.

Read by the statistics, sentences, tables and figures of a sweep. It computes and draws nothing.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from grpo.core import files
from grpo.core.errors import UserError, first_line, suggest_name
from grpo.core.files import parse_json_object
from grpo.core.metric_format import METRIC_LABELS
from grpo.core.metric_names import SCORE_PREFIX
from grpo.core.text import plural
from grpo.reports.arms import (
    PRIMARY_METRIC,
    Arm,
    affects_results,
    factor_levels,
    final_value,
    parse_number,
    settings_with_effect,
)
from grpo.reports.sweep_folders import find_runs, holds_runs, natural_key
from grpo.runs.results import STOPPED_BY_PRUNING
from grpo.runs.run_dir import RunDir, SweepDir
from grpo.runs.saved_run import SavedRun, read_run


class UnfinishedJob(NamedTuple):
    """A job whose figures are not to be had."""

    folder: str  # within the sweep's
    name: str
    state: str  # failed, unfinished, without a step, not started, damaged or pruned
    reason: str

    @property
    def without_steps(self) -> bool:
        return self.state in ("without a step", "not started")


@dataclass(frozen=True, eq=False)
class Sweep:
    """What stands below a folder.

    Attributes:
        factors: what differs between the settings, by the keys that were typed.
        settings: in the order of the sweep; those of which no run is whole have no runs.
        undone: the jobs that are in none of them.
        repeated: runs left out for a newer one of the same setting and seed, each with that.
        trials: every whole run with the name of its job, in the order of the sweep.
        maximize: the figures that a search was after -> whether the highest is best; empty unless it was a search.
    """

    folder: Path
    command: str | None
    factors: list[str]
    settings: list[Arm]
    undone: list[UnfinishedJob]
    repeated: list[tuple[str, str]]
    trials: list[tuple[str, SavedRun]]
    maximize: dict[str, bool]

    @property
    def compared(self) -> list[Arm]:
        return [setting for setting in self.settings if setting.runs]

    @property
    def missing(self) -> list[UnfinishedJob]:
        """The jobs that may still have figures one day."""
        return [job for job in self.undone if job.state != "pruned"]

    @property
    def jobs(self) -> int:
        return len(self.trials) + len(self.undone)

    @property
    def figures(self) -> list[str]:
        """All but the primary one that can be compared: a total of rewards only where all weigh them alike."""
        runs = [run for setting in self.settings for run in setting.runs.values()]
        rewards = dict.fromkeys(name for run in runs for name in run.results["after"] if name.startswith(SCORE_PREFIX))
        alike = all(run.weights == runs[0].weights for run in runs)
        known = [name for name in METRIC_LABELS if name != PRIMARY_METRIC and (alike or name != "reward")]
        return [name for name in (*known, *rewards) if any(final_value(run, name) is not None for run in runs)]

    def within(self, folder: Path) -> str:
        return str(folder.relative_to(self.folder))


@dataclass
class _Plan:
    """What the sweep was asked for, by `sweep.json`."""

    command: str | None = None
    jobs: dict[str, str] = field(default_factory=dict)  # folder -> name
    maximize: dict[str, bool] = field(default_factory=dict)


def read_sweep(folder: Path) -> Sweep:
    """The runs in a folder, or in the folders in it, sorted into settings.

    Raises:
        UserError: there is none, or `sweep.json` is damaged.
    """
    if not holds_runs(folder):
        raise UserError(f"{folder} holds no runs; give the folder of a sweep, outputs/sweeps/DATE/TIME.")
    plan = _read_sweep_file(SweepDir(folder).sweep_json)
    found = {str(path.relative_to(folder)) for path in find_runs(folder)}
    found |= {name for name in plan.jobs if RunDir(folder / name).is_run()}
    records: dict[str, SavedRun] = {}
    wrong: dict[str, tuple[str, str] | None] = {}
    for name in [*plan.jobs, *sorted(found - plan.jobs.keys(), key=natural_key)]:
        if name not in found:
            wrong[name] = _job_state(folder / name, None)
            continue
        try:
            records[name] = read_run(folder / name)
            wrong[name] = _job_state(folder / name, records[name])
        except UserError as error:
            wrong[name] = "damaged", str(error)

    groups: dict[str, dict[str, SavedRun]] = defaultdict(dict)
    for name, record in records.items():
        groups[json.dumps(settings_with_effect(record), sort_keys=True, default=str)][name] = record
    levels = factor_levels([next(iter(of.values())) for of in groups.values()])
    settings: list[tuple[int, Arm]] = []
    repeated = []
    names = dict(plan.jobs)
    for of, group in zip(levels, groups.values(), strict=True):
        setting = Arm(of, {})
        by_seed: dict[int, list[str]] = defaultdict(list)
        for name, record in group.items():
            names.setdefault(name, f"{setting.name} seed={record.settings['seed']}")
            if not wrong[name]:
                by_seed[record.settings["seed"]].append(name)
        for seed in sorted(by_seed):
            *older, newest = sorted(by_seed[seed], key=lambda name: RunDir(folder / name).results_json.stat().st_mtime)
            setting.runs[seed] = records[newest]
            repeated += [(name, newest) for name in older]
        settings.append((min(map(list(wrong).index, group)), setting))
    if not plan.maximize:
        settings += _arms_without_runs(plan, records)
    return Sweep(
        folder,
        plan.command,
        list(levels[0]) if levels else [],
        [setting for _, setting in sorted(settings, key=lambda each: each[0])],
        [UnfinishedJob(name, names.get(name, ""), *state) for name, state in wrong.items() if state],
        repeated,
        [(names[name], record) for name, record in records.items() if not wrong[name]],
        plan.maximize,
    )


def _arms_without_runs(plan: _Plan, records: Mapping[str, SavedRun]) -> list[tuple[int, Arm]]:
    """The settings of which no job has left a record, each with the place of its first job."""
    found: dict[str, tuple[int, Arm]] = {}
    recorded = set()
    for place, (folder, name) in enumerate(plan.jobs.items()):
        parts = [
            part for part in re.split(r" (?=[^ =]+=)", name) if "=" in part and affects_results(part.partition("=")[0])
        ]
        levels = dict(part.split("=", 1) for part in parts)
        found.setdefault(repr(levels), (place, Arm(levels, {})))
        if folder in records:
            recorded.add(repr(levels))
    return [each for key, each in found.items() if key not in recorded]


def _read_sweep_file(path: Path) -> _Plan:
    if not path.is_file():
        return _Plan()
    try:
        written_down = files.parse_file(path, parse_json_object)
        jobs = {_relative_folder(job["folder"]): str(job["name"]) for job in written_down["jobs"]}
        objectives = {direction: list(written_down.get(direction) or []) for direction in ("maximize", "minimize")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}.") from error
    maximize = {str(name): direction == "maximize" for direction, names in objectives.items() for name in names}
    return _Plan(str(written_down.get("command") or "") or None, jobs, maximize)


def _relative_folder(name: str) -> str:
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the folder of a job, {name!r}, is not one within the sweep's")
    return str(path)


def _job_state(folder: Path, record: SavedRun | None) -> tuple[str, str] | None:
    """The state and the reason of a job that has no figures to be compared."""
    if record and record.results:
        if record.results.get("stopped_by") == STOPPED_BY_PRUNING:
            return "pruned", f"at step {record.results['steps']:,}"
        primary = final_value(record, PRIMARY_METRIC)
        return None if primary is not None else ("damaged", f"results.json holds no {PRIMARY_METRIC}")
    error = RunDir(folder).error_txt
    if error.is_file():
        return "failed", error.read_text(encoding="utf-8", errors="replace").strip() or "without a message"
    if record is None:
        return "not started", ""
    if record.history.empty:
        return "without a step", "interrupted, or still running"
    steps = int(record.history.index[-1])
    return "unfinished", f"interrupted, or still running: {steps:,} {plural(steps, 'step')} on record"


def choose_baseline(sweep: Sweep, asked: str | None) -> Arm:
    """The baseline: the setting that is asked for, by its name or a part of it, else the first that has runs.

    Raises:
        UserError: there is no such setting, or more than one, or none of its runs is whole.
    """
    if asked is None:
        if not sweep.compared:
            raise UserError(f"{sweep.folder} holds no run that has finished, so there is nothing to compare.")
        return sweep.compared[0]
    wanted = asked.replace(",", " ").split()
    named = [setting for setting in sweep.settings if setting.name == asked]
    fitting = named or [
        setting
        for setting in sweep.settings
        if wanted and all(any(_matches_level(part, *level) for level in setting.levels.items()) for part in wanted)
    ]
    if not fitting:
        names = [setting.name for setting in sweep.settings]
        raise UserError(f"--baseline {asked!r}: no setting of this sweep has that.{suggest_name(asked, names)}")
    if len(fitting) > 1:
        names = [setting.name for setting in fitting]
        raise UserError(f"--baseline {asked!r}: {len(names)} settings have that, so name one: {'; '.join(names)}.")
    if not fitting[0].runs:
        raise UserError(f"--baseline {asked!r}: none of its runs has finished; take another setting.")
    return fitting[0]


def _matches_level(part: str, factor: str, level: str) -> bool:
    key, _, text = part.lstrip("+").partition("=")
    return key == factor and (
        text == level or (parse_number(text) is not None and parse_number(text) == parse_number(level))
    )
