"""What a sweep shows: its settings compared over seeds, the seed being the unit of chance. Nothing here draws."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, isnan, nan
from pathlib import Path, PurePath
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from grpo.config.keys import flatten
from grpo.core import files
from grpo.core.errors import UserError, first_line, nearest
from grpo.core.files import json_object
from grpo.core.metric_format import FIGURES, interval, shown, with_unit
from grpo.core.metric_names import SCORE_PREFIX
from grpo.core.statistics import Interval, Paired, bootstrap, holm, paired_t, t_interval
from grpo.core.tables import facts, table_of
from grpo.core.text import p_value, plural, printable, signed, written
from grpo.runs.record import Record, read
from grpo.runs.results import PRUNING
from grpo.runs.run_dir import ERROR, SWEEP

PRIMARY = "accuracy_strict"
MOST = 20  # rows of a table, and jobs without results, that a terminal shows
# Folders of this project beside runs, which hold no runs.
OTHER_FOLDERS = {"audits", "evaluations", "figures", "plans", "sweeps"}
# What of a run's settings tells nothing of its numbers, but for the seed, whose runs are one setting's.
APART = {"seed", "resume", "tracking", "threads", "save_steps", "save_total_limit"}


@dataclass(frozen=True, eq=False)
class Setting:
    """The runs that are alike in all but their seed."""

    levels: dict[str, str]  # factor -> its level here, as it was typed
    runs: dict[int, Record]  # seed -> its run, of those that are whole

    @property
    def name(self) -> str:
        return " ".join(f"{factor}={level}" for factor, level in self.levels.items()) or "all runs"

    def beside(self, baseline: "Setting", most: int = 300) -> str:
        """The levels that differ from the baseline, or all levels of the baseline itself, in `most` characters."""
        levels = self.levels.items()
        other = [f"{factor}={clipped(level, 60)}" for factor, level in levels if baseline.levels.get(factor) != level]
        return clipped(" ".join(other) or self.name, most)

    def brief(self, baseline: "Setting") -> str:
        """A name that is short enough for a sentence."""
        if len(self.name) <= 100:
            return self.name
        return "the baseline" if self is baseline else self.beside(baseline, 100)

    def values(self, figure: str) -> dict[int, float]:
        """By seed, the figure after training."""
        found = {seed: value(run, figure) for seed, run in self.runs.items()}
        return {seed: each for seed, each in found.items() if each is not None}


class Undone(NamedTuple):
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
    settings: list[Setting]
    undone: list[Undone]
    repeated: list[tuple[str, str]]
    trials: list[tuple[str, Record]]
    maximize: dict[str, bool]

    @property
    def compared(self) -> list[Setting]:
        return [setting for setting in self.settings if setting.runs]

    @property
    def missing(self) -> list[Undone]:
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
        known = [name for name in FIGURES if name != PRIMARY and (alike or name != "reward")]
        return [name for name in (*known, *rewards) if any(value(run, name) is not None for run in runs)]

    def within(self, folder: Path) -> str:
        return str(folder.relative_to(self.folder))


@dataclass
class _Plan:
    """What the sweep was asked for, by `sweep.json`."""

    command: str | None = None
    jobs: dict[str, str] = field(default_factory=dict)  # folder -> name
    maximize: dict[str, bool] = field(default_factory=dict)


def clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def holds_runs(folder: Path) -> bool:
    return (folder / SWEEP).is_file() or next(_runs_below(folder), None) is not None


def other_than_runs(folder: Path) -> Path | None:
    """The first subfolder that is neither a run nor a folder of runs nor of this project; None if there is none."""
    if (folder / SWEEP).is_file():
        return None
    for child in _folders(folder):
        below = _folders(child)
        if child.name in OTHER_FOLDERS or _of_ours(child) or (below and all(map(_of_ours, below))):
            continue
        return child
    return None


def _of_ours(folder: Path) -> bool:
    return _is_run(folder) or (folder / SWEEP).is_file() or (folder / "train.log").is_file()


def _folders(folder: Path) -> list[Path]:
    """The subfolders, sorted by name, without hidden ones and links (outputs/latest is one)."""
    try:
        found = [each for each in folder.iterdir() if not each.name.startswith(".") and not each.is_symlink()]
        return sorted((each for each in found if each.is_dir()), key=lambda each: natural(each.name))
    except OSError:  # not readable
        return []


def _runs_below(folder: Path) -> Iterator[Path]:
    """The runs in a folder and in the folders in it, as in outputs/DATE/TIME."""
    for child in _folders(folder):
        yield from [child] if _is_run(child) else filter(_is_run, _folders(child))


def _is_run(folder: Path) -> bool:
    """Whether it holds a training run of this project: other programs have a `.hydra/` as well."""
    try:
        with (folder / ".hydra" / "config.yaml").open(encoding="utf-8", errors="replace") as settings:
            text = settings.read(100_000)
    except OSError:
        return False
    ours = all(re.search(rf"^{key}:", text, re.M) for key in ("rewards", "prompts_per_step"))
    return ours or (folder / "completions").is_dir()


def read_sweep(folder: Path) -> Sweep:
    """The runs in a folder, or in the folders in it, sorted into settings.

    Raises:
        UserError: there is none, or `sweep.json` is damaged.
    """
    if not holds_runs(folder):
        raise UserError(f"{folder} holds no runs; give the folder of a sweep, outputs/sweeps/DATE/TIME.")
    plan = _plan(folder / SWEEP)
    found = {str(path.relative_to(folder)) for path in _runs_below(folder)}
    found |= {name for name in plan.jobs if (folder / name / ".hydra" / "config.yaml").is_file()}
    records: dict[str, Record] = {}
    wrong: dict[str, tuple[str, str] | None] = {}
    for name in [*plan.jobs, *sorted(found - plan.jobs.keys(), key=natural)]:
        if name not in found:
            wrong[name] = _undone(folder / name, None)
            continue
        try:
            records[name] = read(folder / name)
            wrong[name] = _undone(folder / name, records[name])
        except UserError as error:
            wrong[name] = "damaged", str(error)

    groups: dict[str, dict[str, Record]] = defaultdict(dict)
    for name, record in records.items():
        groups[json.dumps(_numbers(record), sort_keys=True, default=str)][name] = record
    levels = _levels([next(iter(of.values())) for of in groups.values()])
    settings: list[tuple[int, Setting]] = []
    repeated = []
    names = dict(plan.jobs)
    for of, group in zip(levels, groups.values(), strict=True):
        setting = Setting(of, {})
        by_seed: dict[int, list[str]] = defaultdict(list)
        for name, record in group.items():
            names.setdefault(name, f"{setting.name} seed={record.settings['seed']}")
            if not wrong[name]:
                by_seed[record.settings["seed"]].append(name)
        for seed in sorted(by_seed):
            *older, newest = sorted(by_seed[seed], key=lambda name: (folder / name / "results.json").stat().st_mtime)
            setting.runs[seed] = records[newest]
            repeated += [(name, newest) for name in older]
        settings.append((min(map(list(wrong).index, group)), setting))
    if not plan.maximize:
        settings += _without_runs(plan, records)
    return Sweep(
        folder,
        plan.command,
        list(levels[0]) if levels else [],
        [setting for _, setting in sorted(settings, key=lambda each: each[0])],
        [Undone(name, names.get(name, ""), *state) for name, state in wrong.items() if state],
        repeated,
        [(names[name], record) for name, record in records.items() if not wrong[name]],
        plan.maximize,
    )


def _without_runs(plan: _Plan, records: Mapping[str, Record]) -> list[tuple[int, Setting]]:
    """The settings of which no job has left a record, each with the place of its first job."""
    found: dict[str, tuple[int, Setting]] = {}
    recorded = set()
    for place, (folder, name) in enumerate(plan.jobs.items()):
        parts = [part for part in re.split(r" (?=[^ =]+=)", name) if "=" in part and _tells(part.partition("=")[0])]
        levels = dict(part.split("=", 1) for part in parts)
        found.setdefault(repr(levels), (place, Setting(levels, {})))
        if folder in records:
            recorded.add(repr(levels))
    return [each for key, each in found.items() if key not in recorded]


def _plan(path: Path) -> _Plan:
    if not path.is_file():
        return _Plan()
    try:
        written_down = files.read(path, json_object)
        jobs = {_inside(job["folder"]): str(job["name"]) for job in written_down["jobs"]}
        objectives = {direction: list(written_down.get(direction) or []) for direction in ("maximize", "minimize")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}.") from error
    maximize = {str(name): direction == "maximize" for direction, names in objectives.items() for name in names}
    return _Plan(str(written_down.get("command") or "") or None, jobs, maximize)


def _inside(name: str) -> str:
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the folder of a job, {name!r}, is not one within the sweep's")
    return str(path)


def _undone(folder: Path, record: Record | None) -> tuple[str, str] | None:
    """The state and the reason of a job that has no figures to be compared."""
    if record and record.results:
        if record.results.get("stopped_by") == PRUNING:
            return "pruned", f"at step {record.results['steps']:,}"
        primary = value(record, PRIMARY)
        return None if primary is not None else ("damaged", f"results.json holds no {PRIMARY}")
    error = folder / ERROR
    if error.is_file():
        return "failed", error.read_text(encoding="utf-8", errors="replace").strip() or "without a message"
    if record is None:
        return "not started", ""
    if record.history.empty:
        return "without a step", "interrupted, or still running"
    steps = int(record.history.index[-1])
    return "unfinished", f"interrupted, or still running: {steps:,} {plural(steps, 'step')} on record"


def value(record: Record, figure: str) -> float | None:
    """A figure after training, or `train_seconds`; None where there is none."""
    found = (record.results if figure == "train_seconds" else record.results["after"]).get(figure)
    return float(found) if isinstance(found, int | float) and isfinite(found) else None


def natural(path: str) -> list[tuple[float, str]]:
    """A sort key that puts job 10 after job 9."""
    return [(int(part), "") if part.isdecimal() else (inf, part) for part in PurePath(path).parts]


def _numbers(record: Record) -> dict[str, Any]:
    """The settings that tell of a run's numbers, by their full keys."""
    return {key: of for key, of in flatten(record.settings).items() if _tells(key)}


def _tells(key: str) -> bool:
    return key.partition(".")[0] not in APART


def _levels(records: Sequence[Record]) -> list[dict[str, str]]:
    """For a run of each setting, what tells it from the others: of what was typed, else of all settings."""
    if len(records) < 2:
        return [{} for _ in records]
    typed, settings = [_typed(record) for record in records], [_numbers(record) for record in records]
    keys = dict.fromkeys(key for each in typed for key in each if _tells(key))
    # In YAML's words, so that 1e-4 and 0.0001 are one value, and an expression is as good as what comes of it.
    values = {
        key: [
            written(of[key]) if key in of else record.choices.get(key, each.get(key, written(None)))
            for record, each, of in zip(records, typed, settings, strict=True)
        ]
        for key in keys
    }
    words = {key: [each.get(key, of) for each, of in zip(typed, values[key], strict=True)] for key in keys}
    factors = [key for key in keys if len(set(values[key])) > 1 and len(set(words[key])) > 1]
    if len(set(zip(*(words[key] for key in factors), strict=True))) < len(records):
        keys = dict.fromkeys(key for of in settings for key in of)
        words = {key: [written(of.get(key)) for of in settings] for key in keys}
        factors = [key for key in keys if len(set(words[key])) > 1]
    return [{key: words[key][i] for key in factors} for i in range(len(records))]


def _typed(record: Record) -> dict[str, str]:
    """key -> value, of what was typed for a run."""
    typed = {}
    for override in record.overrides:
        key, _, text = override.lstrip("+").partition("=")
        typed[key.removeprefix("~")] = "removed" if key.startswith("~") else text
    return typed


def choose(sweep: Sweep, asked: str | None) -> Setting:
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
        if wanted and all(any(_same(part, *level) for level in setting.levels.items()) for part in wanted)
    ]
    if not fitting:
        names = [setting.name for setting in sweep.settings]
        raise UserError(f"--baseline {asked!r}: no setting of this sweep has that.{nearest(asked, names)}")
    if len(fitting) > 1:
        names = [setting.name for setting in fitting]
        raise UserError(f"--baseline {asked!r}: {len(names)} settings have that, so name one: {'; '.join(names)}.")
    if not fitting[0].runs:
        raise UserError(f"--baseline {asked!r}: none of its runs has finished; take another setting.")
    return fitting[0]


def _same(part: str, factor: str, level: str) -> bool:
    key, _, text = part.lstrip("+").partition("=")
    return key == factor and (text == level or (number(text) is not None and number(text) == number(level)))


def number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if isfinite(found) else None


@dataclass(frozen=True, eq=False)
class Contrast:
    """A setting less the baseline, over the seeds that both have."""

    setting: Setting
    paired: Paired
    p_holm: float  # adjusted for the settings that are compared with the baseline in this figure

    @property
    def sure(self) -> bool:
        return self.p_holm < 0.05

    @property
    def reach(self) -> float:
        """Half the width of the interval."""
        return (self.paired.high - self.paired.low) / 2


def contrasts(sweep: Sweep, baseline: Setting, figure: str = PRIMARY) -> dict[str, Contrast]:
    """By its name, every setting that has a seed in common with the baseline."""
    base = baseline.values(figure)
    settings, found = [], []
    for setting in sweep.compared:
        values = setting.values(figure)
        if setting is not baseline and (seeds := [seed for seed in values if seed in base]):
            settings.append(setting)
            found.append(paired_t([values[seed] for seed in seeds], [base[seed] for seed in seeds]))
    adjusted = holm([paired.p for paired in found])
    return {
        each.name: Contrast(each, *of) for each, of in zip(settings, zip(found, adjusted, strict=True), strict=True)
    }


def over_problems(sweep: Sweep, baseline: Setting) -> dict[str, dict[str, Interval]]:
    """By setting and figure, the 95% interval of its difference from the baseline for these very runs.

    A bootstrap over the problems of the mean difference over the seeds that both have: it says how much hangs on the
    choice of problems, and nothing of other seeds. Settings are left out that were asked other problems than the
    baseline, or whose completions are gone.
    """
    tables = {run.folder: _problems(run) for setting in sweep.compared for run in setting.runs.values()}
    found = {}
    for setting in sweep.compared:
        seeds = [seed for seed in setting.runs if seed in baseline.runs]
        pairs = [(tables[setting.runs[seed].folder], tables[baseline.runs[seed].folder]) for seed in seeds]
        if setting is baseline or not pairs:
            continue
        changes = [
            first - second
            for first, second in pairs
            if first is not None and second is not None and first.index.equals(second.index)
        ]
        if len(changes) < len(pairs) or not all(each.index.equals(changes[0].index) for each in changes):
            continue
        change = sum(changes[1:], changes[0]).dropna(axis="columns") / len(changes)
        intervals = bootstrap(change.to_numpy(dtype=np.float64).T)
        found[setting.name] = dict(zip(change.columns, intervals, strict=True))
    return found


def _problems(record: Record) -> pd.DataFrame | None:
    """The figures of each held-out problem after training; None where they are gone."""
    try:
        table = pd.read_parquet(record.folder / "evaluations" / "after.parquet")
        table = table.set_index(["problem", "question", "gold"]).sort_index()
    except (OSError, ValueError, KeyError):
        return None
    table = table.rename(columns={"tokens": "mean_completion_tokens"})
    figures = [name for name in table if name in FIGURES or str(name).startswith(SCORE_PREFIX)]
    return table[figures].astype(np.float64).groupby(level=[0, 1, 2]).mean()


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a factor, over all that was run at every level of it."""

    name: str
    by_seed: dict[int, float]  # the mean over the other factors' levels
    paired: Paired | None  # less the first level; None of the first
    p_holm: float  # adjusted for the factor's levels

    @property
    def mean(self) -> float:
        return fmean(self.by_seed.values())

    @property
    def interval(self) -> Interval:
        return t_interval(list(self.by_seed.values()))


@dataclass(frozen=True, eq=False)
class Effect:
    """What a factor does, whatever the others: `left_out` runs lack a counterpart at one of its levels."""

    factor: str
    levels: list[Level]  # none where nothing was run at every level
    left_out: int


def effects(sweep: Sweep, baseline: Setting, figure: str = PRIMARY) -> list[Effect]:
    """The effect of each factor on a figure; the baseline's level comes first.

    The runs that differ in the factor alone are compared, seed by seed, where there is one at each of its levels.
    Within a seed they are averaged over the other factors, so that the seed stays the unit.
    """
    return [_effect(sweep, baseline, factor, figure) for factor in sweep.factors]


def _effect(sweep: Sweep, baseline: Setting, factor: str, figure: str) -> Effect:
    names = dict.fromkeys([baseline.levels[factor], *(setting.levels[factor] for setting in sweep.compared)])
    cells: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for setting in sweep.compared:
        others = repr([level for key, level in setting.levels.items() if key != factor])
        for seed, of in setting.values(figure).items():
            cells[others, seed][setting.levels[factor]] = of
    whole = {key: of for key, of in cells.items() if len(of) == len(names)}
    left_out = sum(len(of) for key, of in cells.items() if key not in whole)
    if not whole or len(names) < 2:
        return Effect(factor, [], left_out)
    seeds = sorted({seed for _, seed in whole})
    means = {
        name: {seed: fmean(of[name] for (_, each), of in whole.items() if each == seed) for seed in seeds}
        for name in names
    }
    first, *rest = names
    paired = [paired_t([*means[name].values()], [*means[first].values()]) for name in rest]
    levels = [Level(first, means[first], None, nan)] + [
        Level(name, means[name], of, p) for name, of, p in zip(rest, paired, holm([of.p for of in paired]), strict=True)
    ]
    return Effect(factor, levels, left_out)


def pareto(points: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
    """The places of the points that no other point is at least as good as in all and better in one."""
    signs = np.where(maximize, 1.0, -1.0)
    values = np.asarray(points, dtype=np.float64).reshape(len(points), len(maximize)) * signs
    beaten = [bool(np.any(np.all(values >= one, axis=1) & np.any(values > one, axis=1))) for one in values]
    return [i for i, each in enumerate(beaten) if not each]


@dataclass(frozen=True, eq=False)
class Trial:
    """A run of a search."""

    folder: str
    name: str
    values: list[float | None]  # of each objective
    best: bool  # no other trial is better, or as good and in one objective better


def trials(sweep: Sweep) -> list[Trial]:
    """The whole runs of a search. One that lacks an objective is not among the best."""
    points = [[value(record, figure) for figure in sweep.maximize] for _, record in sweep.trials]
    whole = [i for i, point in enumerate(points) if None not in point]
    front = {whole[i] for i in pareto([points[i] for i in whole], [*sweep.maximize.values()])}  # type: ignore[misc]
    return [
        Trial(sweep.within(record.folder), name, point, i in front)
        for i, ((name, record), point) in enumerate(zip(sweep.trials, points, strict=True))
    ]


def verdict(sweep: Sweep, baseline: Setting | None = None) -> str:
    """What the sweep shows, as sure as the figures are: see `findings`."""
    return " ".join(findings(sweep, baseline))


def findings(sweep: Sweep, baseline: Setting | None = None) -> list[str]:
    """Sentences: what the settings show or cannot tell, then what else is to be known with it.

    Args:
        baseline: what the others are compared with; else the first setting.
    """
    if not sweep.compared:
        return [f"None of {sweep.jobs} {plural(sweep.jobs, 'job')} has finished: there is nothing to compare yet."]
    found = _best(sweep) if sweep.maximize else _compared(sweep, baseline or sweep.compared[0])
    if baseline is None and not sweep.maximize and not (first := sweep.settings[0]).runs:
        base = sweep.compared[0]
        found.append(f"{first.brief(base)} has no finished run: the others are compared with {base.brief(base)}.")
    if missing := len(sweep.missing):
        found.append(f"{missing} of {sweep.jobs} jobs {'is' if missing == 1 else 'are'} missing from this.")
    return found


def _best(sweep: Sweep) -> list[str]:
    found = trials(sweep)
    best, (figure, *others) = [trial for trial in found if trial.best], sweep.maximize
    names = " and ".join(shown(name)[0] for name in sweep.maximize)
    if not best:
        return [f"No trial has a figure for {names}, which the search was after."]
    of = f"Of {len(found)} {plural(len(found), 'trial')},"
    if others:
        said = f"{of} {len(best)} {'is' if len(best) == 1 else 'are'} not beaten in {names} together."
    else:
        extreme = "highest" if sweep.maximize[figure] else "lowest"
        alike = f", and so had {len(best) - 1} {plural(len(best) - 1, 'other')}" if len(best) > 1 else ""
        reached = with_unit(figure, best[0].values[0] or 0.0)
        said = f"{of} {best[0].name} had the {extreme} figure for {names}, {reached}{alike}."
    return [said, "Each is a single run, and the best of many is partly luck: run it again with other seeds."]


def _compared(sweep: Sweep, baseline: Setting) -> list[str]:
    settings, found = sweep.compared, contrasts(sweep, baseline)
    asked = sorted({int(run.results["after"]["n"]) for setting in settings for run in setting.runs.values()})
    problems = f"{' or '.join(f'{n:,}' for n in asked)} held-out {plural(asked[-1], 'problem')}"
    if len(settings) == 1:
        return [_alone(settings[0], problems)]
    tested = [contrast for contrast in found.values() if not isnan(contrast.paired.p)]
    if not tested:
        if max(len(setting.runs) for setting in settings) == 1:
            return [
                "A single seed a setting: how far seeds differ is unknown, so nothing can be concluded about the "
                "settings."
            ]
        base = baseline.brief(baseline)
        return [f"No setting shares two seeds with {base}, so nothing can be concluded about the settings."]
    pairs = sorted({contrast.paired.pairs for contrast in tested})
    seeds = f"{pairs[0]} to {pairs[-1]} seeds" if len(pairs) > 1 else f"{pairs[0]} seeds"
    sure = [contrast for contrast in tested if contrast.sure]
    untested = _untested(len(settings) - 1 - len(tested), baseline)
    if not sure:
        return [*_cannot_tell(baseline, tested, seeds), *untested, *_over_all(sweep, baseline)]
    leader = max(settings, key=_mean)
    if (told := found.get(leader.name)) in sure and told and told.paired.difference > 0:
        said = (
            f"{leader.brief(baseline)} had the most right answers on {problems}, {_over_seeds(leader)}: "
            f"{_points(told.paired.difference)} than {baseline.brief(baseline)}"
        )
    else:
        told = max(sure, key=lambda contrast: abs(contrast.paired.difference))
        reached = with_unit(PRIMARY, _mean(baseline))
        said = (
            f"{told.setting.brief(baseline)} had {_points(told.paired.difference, ' right answers')} than "
            f"{baseline.brief(baseline)} on {problems}, {_over_seeds(told.setting)} against {reached}"
        )
    return [f"{said} ({_certainty(told)}).", *_rest(told, sure, len(tested), baseline, seeds), *untested]


def _untested(count: int, baseline: Setting) -> list[str]:
    if not count:
        return []
    has = f"{count} {'setting has' if count == 1 else 'settings have'}"
    return [f"{has} fewer than two seeds in common with {baseline.brief(baseline)}, which tells nothing."]


def _rest(told: Contrast, sure: list[Contrast], tested: int, baseline: Setting, seeds: str) -> list[str]:
    """What of the other settings is told from the baseline, and that the rest is not."""
    said, also, unsure = [], [contrast for contrast in sure if contrast is not told], tested - len(sure)
    base = baseline.brief(baseline)
    if also:
        named = ", ".join(f"{each.setting.brief(baseline)} ({_signed(each.paired.difference)})" for each in also[:3])
        more = f" and {len(also) - 3} more" if len(also) > 3 else ""
        said.append(f"{named}{more} {'differs' if len(also) == 1 else 'differ'} from {base}, too.")
    if unsure:
        which = "The other" if unsure == 1 else f"The other {unsure}"
        differ = "differs" if unsure == 1 else "differ"
        said.append(f"{which} {differ} from {base} by less than {seeds} can tell.")
    return said


def _alone(setting: Setting, problems: str) -> str:
    values = [*setting.values(PRIMARY).values()]
    if len(values) == 1:
        return f"One run: {with_unit(PRIMARY, values[0])} right answers on {problems}, and nothing to compare it with."
    return (
        f"One setting, and nothing to compare it with: {with_unit(PRIMARY, _mean(setting))} right answers on "
        f"{problems}, the mean of {len(values)} seeds (95% interval {interval(PRIMARY, *t_interval(values))})."
    )


def _cannot_tell(baseline: Setting, tested: list[Contrast], seeds: str) -> list[str]:
    largest, base = max(tested, key=lambda contrast: abs(contrast.paired.difference)), baseline.brief(baseline)
    if all(contrast.paired.difference == contrast.reach == 0 for contrast in tested):
        return [f"In each of {seeds} every setting had the same share of right answers: nothing tells them apart."]
    apart = f"{_signed(largest.paired.difference)} points of {largest.setting.brief(baseline)}"
    around = f"95% interval from {_signed(largest.paired.low)} to {_signed(largest.paired.high)}"
    if largest.paired.p < 0.05:
        return [
            f"{seeds.capitalize()} are too few to settle which settings differ.",
            f"The largest difference in right answers from {base}, {apart}, would stand alone ({around}, p "
            f"{p_text(largest.paired.p)}), but as one of {len(tested)} comparisons it may be chance (Holm p "
            f"{p_text(largest.p_holm)}).",
        ]
    which = "the largest difference in right answers" if len(tested) > 1 else "the difference in right answers"
    return [
        f"These {seeds} cannot tell the settings apart: {which} from {base}, {apart}, has a {around} "
        f"(Holm p {p_text(largest.p_holm)})."
    ]


def _over_all(sweep: Sweep, baseline: Setting) -> list[str]:
    """The clearest effect of a factor, of which all settings tell together where no single one does."""
    levels = [
        (level.paired, f"{effect.factor}={level.name}", f"{effect.factor}={effect.levels[0].name}")
        for effect in (effects(sweep, baseline) if len(sweep.factors) > 1 else [])
        for level in effect.levels[1:]
        if level.paired and level.paired.low < level.paired.high
    ]
    adjusted = holm([paired.p for paired, _, _ in levels])
    sure = [(p, *level) for p, level in zip(adjusted, levels, strict=True) if p < 0.05]
    if not sure:
        return []
    p, paired, name, first = min(sure, key=lambda each: each[0])
    return [
        f"Over all of them, though, {name} had {_points(paired.difference, ' right answers')} than {first} "
        f"(95% interval {_signed(paired.low)} to {_signed(paired.high)}, Holm p {p_text(p)})."
    ]


def _mean(setting: Setting) -> float:
    return fmean(setting.values(PRIMARY).values())


def _over_seeds(setting: Setting) -> str:
    seeds = len(setting.runs)
    return f"{with_unit(PRIMARY, _mean(setting))} over {seeds} {plural(seeds, 'seed')}"


def _points(difference: float, what: str = "") -> str:
    return f"{abs(difference) * 100:.1f} points {'more' if difference > 0 else 'fewer'}{what}"


def _signed(difference: float) -> str:
    return f"{difference * 100:+z.1f}"


def _certainty(contrast: Contrast) -> str:
    paired = contrast.paired
    if paired.low == paired.high:
        return f"the same in each of {paired.pairs} seeds, so that its spread is unknown"
    return f"95% interval {_signed(paired.low)} to {_signed(paired.high)}, Holm p {p_text(contrast.p_holm)}"


def p_text(p: float) -> str:
    """A p value in prose."""
    return f"{p:.2g}" if p >= 0.001 else "below 0.001"


def could_be_told(found: Iterable[Contrast]) -> Interval | None:
    """From the sharpest to the bluntest comparison, the difference that it could just have told from none."""
    reaches = [contrast.reach for contrast in found if contrast.reach > 0]
    return (min(reaches), max(reaches)) if reaches else None


def settings_table(sweep: Sweep, baseline: Setting | None = None) -> RenderableType:
    """The settings of a sweep, or the trials of a search, for a terminal of 80 columns; below them what is missing."""
    parts: list[RenderableType] = []
    if sweep.compared:
        base = baseline or choose(sweep, None)
        parts += _trials_table(sweep) if sweep.maximize else _settings_table(sweep, base)
    listed = [job for job in sweep.undone if not job.without_steps]
    missing = {f"{job.folder}  {job.state}": _about(job) for job in listed[:MOST]}
    if len(listed) > MOST:
        missing[f"and {len(listed) - MOST} more"] = ""
    for state in ("without a step", "not started"):
        if names := [job.folder for job in sweep.undone if job.state == state]:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            missing[f"{len(names)}  {state}"] = f"{', '.join(names[:5])}{more}"
    return Group(*parts, facts(missing)) if missing else Group(*parts)


def _about(job: Undone) -> str:
    reason = " ".join(job.reason.split())
    return ": ".join(clipped(part, 300) for part in (job.name, reason) if part)


def shown_settings(sweep: Sweep, baseline: Setting, most: int) -> list[Setting]:
    """All settings, or if they are more than `most`, the baseline and the best ones."""
    # Outside a sweep, settings without figures were only started.
    settings = sweep.settings if sweep.command else sweep.compared
    if len(settings) <= most:
        return settings
    best = sorted((each for each in sweep.compared if each is not baseline), key=lambda each: -_mean(each))
    return [baseline, *best[: most - 1]]


def _settings_table(sweep: Sweep, baseline: Setting) -> list[RenderableType]:
    table = table_of("seeds", "correct", "difference", "95% interval", "Holm p")
    table.columns[0].header = "setting"
    found, settings = contrasts(sweep, baseline), shown_settings(sweep, baseline, MOST)
    names = [printable(setting.beside(baseline)) for setting in settings]
    labels, legend = _labels(names)
    for setting, label in zip(settings, labels, strict=True):
        if not setting.runs:
            table.add_row(label, "0", "", "", "", "")
            continue
        cells = ["baseline" if setting is baseline else "", "", ""]
        if contrast := found.get(setting.name):
            cells = [
                signed(shown(PRIMARY)[1](contrast.paired.difference)),
                *_uncertain(contrast.paired, contrast.p_holm),
            ]
        table.add_row(label, str(len(setting.runs)), with_unit(PRIMARY, _mean(setting)), *cells)
    table.caption = "correct: inside <answer>, mean over seeds; paired t intervals with the seed as unit"
    table.caption_justify = "left"
    if len(sweep.factors) > 1:
        legend = [Text("Settings are named by their differences from the baseline."), *legend]
    return [table, *legend, *_left_out(len(sweep.compared), len(settings), "settings")]


def _labels(names: Sequence[str], room: int = 32) -> tuple[list[Text], list[RenderableType]]:
    """The first column of a table, and a legend below it: names that need more than two lines become numbers."""
    longest_word = max((cell_len(word) for name in names for word in name.split()), default=0)
    if longest_word <= room and max(map(cell_len, names), default=0) <= 2 * room:
        return [Text(name) for name in names], []
    numbers = [str(number) for number in range(1, len(names) + 1)]
    return [Text(number) for number in numbers], [facts(dict(zip(numbers, names, strict=True)))]


def _left_out(all_of: int, shown_of: int, what: str) -> list[RenderableType]:
    return [Text(f"The best {shown_of} of {all_of} {what}; all are in sweep.csv.")] if shown_of < all_of else []


def _uncertain(paired: Paired, p_holm: float) -> tuple[str, str]:
    return ("unknown", "") if isnan(paired.p) else (interval(PRIMARY, paired.low, paired.high), p_value(p_holm))


def _trials_table(sweep: Sweep) -> list[RenderableType]:
    table = table_of(*(shown(figure)[0] for figure in sweep.maximize))
    table.columns[0].header = "trial"
    found, total = shown_trials(sweep, MOST), len(sweep.trials)
    labels, legend = _labels([printable(f"{trial.folder}  {clipped(trial.name, 300)}") for trial in found])
    for trial, label in zip(found, labels, strict=True):
        cells = [
            "" if each is None else with_unit(figure, each)
            for figure, each in zip(sweep.maximize, trial.values, strict=True)
        ]
        table.add_row(label, *cells, style="bold" if trial.best else None)
    table.caption, table.caption_justify = "bold: no trial is better", "left"
    return [table, *legend, *_left_out(total, len(found), "trials")]


def shown_trials(sweep: Sweep, most: int) -> list[Trial]:
    """All trials, or if they are more than `most`, those that no other beats and the best by the first objective."""
    found = trials(sweep)
    if len(found) <= most:
        return found
    sign = -1 if next(iter(sweep.maximize.values())) else 1
    return sorted(found, key=lambda trial: (not trial.best, sign * (trial.values[0] or 0.0)))[:most]
