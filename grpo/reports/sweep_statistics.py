"""Statistics of a sweep: differences between arms over seeds and over problems, effects of factors, Pareto fronts.

Differences are tested over seeds. Used by the sentences, tables and metrics of a sweep; it formats nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean

import numpy as np
import pandas as pd

from grpo.core.metric_format import METRIC_LABELS
from grpo.core.metric_names import MEAN_COMPLETION_TOKENS, SCORE_PREFIX
from grpo.core.statistics import (
    Interval,
    PairedTTest,
    bootstrap_intervals,
    holm_adjusted,
    paired_t_test,
    t_interval,
)
from grpo.reports.arms import PRIMARY_METRIC, Arm, final_value
from grpo.reports.sweep_results import SweepResults
from grpo.runs.run_dir import RunDir
from grpo.runs.saved_run import SavedRun


@dataclass(frozen=True, eq=False)
class Contrast:
    """The difference of an arm from the baseline, over the seeds that both have."""

    arm: Arm
    paired: PairedTTest
    p_holm: float  # adjusted for the number of arms that are compared with the baseline in this metric

    @property
    def is_significant(self) -> bool:
        return self.p_holm < 0.05

    @property
    def half_width(self) -> float:
        """Half the width of the interval, which is about the smallest difference that would be significant."""
        return (self.paired.high - self.paired.low) / 2


def compute_contrasts(sweep: SweepResults, baseline: Arm, metric: str = PRIMARY_METRIC) -> dict[str, Contrast]:
    """The contrasts of all arms that share a seed with the baseline, by the name of the arm."""
    baseline_values = baseline.values(metric)
    arms, paired = [], []
    for arm in sweep.arms_with_runs:
        values = arm.values(metric)
        if arm is not baseline and (seeds := [seed for seed in values if seed in baseline_values]):
            arms.append(arm)
            paired.append(paired_t_test([values[seed] for seed in seeds], [baseline_values[seed] for seed in seeds]))
    adjusted = holm_adjusted([test.p for test in paired])
    return {arm.name: Contrast(arm, test, p_holm) for arm, test, p_holm in zip(arms, paired, adjusted, strict=True)}


def intervals_over_problems(sweep: SweepResults, baseline: Arm) -> dict[str, dict[str, Interval]]:
    """By arm and metric, the 95% interval of the difference from the baseline, given these runs.

    A bootstrap over the problems of the mean difference over the seeds that both have. It shows how much the difference
    depends on the choice of problems, and nothing about other seeds. Arms are left out that were evaluated on other
    problems than the baseline, or whose completions were deleted.
    """
    tables = {run.folder: _metrics_by_problem(run) for arm in sweep.arms_with_runs for run in arm.runs.values()}
    intervals = {}
    for arm in sweep.arms_with_runs:
        seeds = [seed for seed in arm.runs if seed in baseline.runs]
        pairs = [(tables[arm.runs[seed].folder], tables[baseline.runs[seed].folder]) for seed in seeds]
        if arm is baseline or not pairs:
            continue
        changes = [
            first - second
            for first, second in pairs
            if first is not None and second is not None and first.index.equals(second.index)
        ]
        if len(changes) < len(pairs) or not all(change.index.equals(changes[0].index) for change in changes):
            continue
        change = sum(changes[1:], changes[0]).dropna(axis="columns") / len(changes)
        by_metric = bootstrap_intervals(change.to_numpy(dtype=np.float64).T)
        intervals[arm.name] = dict(zip(change.columns, by_metric, strict=True))
    return intervals


def _metrics_by_problem(run: SavedRun) -> pd.DataFrame | None:
    """The metrics of each held-out problem after training; None if its file is missing or damaged."""
    try:
        table = pd.read_parquet(RunDir(run.folder).evaluation_table("after"))
        table = table.set_index(["problem", "question", "gold"]).sort_index()
    except (OSError, ValueError, KeyError):
        return None
    table = table.rename(columns={"tokens": MEAN_COMPLETION_TOKENS})
    metrics = [name for name in table if name in METRIC_LABELS or str(name).startswith(SCORE_PREFIX)]
    return table[metrics].astype(np.float64).groupby(level=[0, 1, 2]).mean()


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a factor, over the runs that have a counterpart at every level."""

    name: str
    by_seed: dict[int, float]  # the mean over the other factors' levels
    paired: PairedTTest | None  # difference from the first level; None for the first
    p_holm: float  # adjusted for the factor's levels

    @property
    def mean(self) -> float:
        return fmean(self.by_seed.values())

    @property
    def interval(self) -> Interval:
        return t_interval(list(self.by_seed.values()))


@dataclass(frozen=True, eq=False)
class Effect:
    """The effect of a factor over all levels of the others; `left_out` runs lack a counterpart at some level."""

    factor: str
    levels: list[Level]  # empty if no run has a counterpart at every level
    left_out: int


def factor_effects(sweep: SweepResults, baseline: Arm, metric: str = PRIMARY_METRIC) -> list[Effect]:
    """The effect of each factor on a metric; the level of the baseline comes first.

    Runs that differ only in the factor are compared seed by seed, if there is one at each level. Within a seed they are
    averaged over the other factors, so that the seed is the unit.
    """
    return [_factor_effect(sweep, baseline, factor, metric) for factor in sweep.factors]


def _factor_effect(sweep: SweepResults, baseline: Arm, factor: str, metric: str) -> Effect:
    names = dict.fromkeys([baseline.levels[factor], *(arm.levels[factor] for arm in sweep.arms_with_runs)])
    cells: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for arm in sweep.arms_with_runs:
        others = repr([level for key, level in arm.levels.items() if key != factor])
        for seed, value in arm.values(metric).items():
            cells[others, seed][arm.levels[factor]] = value
    complete = {key: by_level for key, by_level in cells.items() if len(by_level) == len(names)}
    left_out = sum(len(by_level) for key, by_level in cells.items() if key not in complete)
    if not complete or len(names) < 2:
        return Effect(factor, [], left_out)
    seeds = sorted({seed for _, seed in complete})
    means = {
        name: {
            seed: fmean(by_level[name] for (_, other), by_level in complete.items() if other == seed) for seed in seeds
        }
        for name in names
    }
    first, *rest = names
    paired = [paired_t_test([*means[name].values()], [*means[first].values()]) for name in rest]
    levels = [Level(first, means[first], None, nan)] + [
        Level(name, means[name], test, p_holm)
        for name, test, p_holm in zip(rest, paired, holm_adjusted([test.p for test in paired]), strict=True)
    ]
    return Effect(factor, levels, left_out)


def pareto_front(points: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
    """The indices of the Pareto front: no other point is at least as good in all values and better in one."""
    signs = np.where(maximize, 1.0, -1.0)
    values = np.asarray(points, dtype=np.float64).reshape(len(points), len(maximize)) * signs
    dominated = [bool(np.any(np.all(values >= point, axis=1) & np.any(values > point, axis=1))) for point in values]
    return [i for i, is_dominated in enumerate(dominated) if not is_dominated]


@dataclass(frozen=True, eq=False)
class Trial:
    """A finished run of a search."""

    folder: str
    name: str
    values: list[float | None]  # one for each objective
    best: bool  # on the Pareto front


def search_trials(sweep: SweepResults) -> list[Trial]:
    """The finished runs of a search. A run without the value of an objective is not among the best."""
    points = [[final_value(run, metric) for metric in sweep.maximize] for _, run in sweep.finished_runs]
    complete = [i for i, point in enumerate(points) if None not in point]
    front = {complete[i] for i in pareto_front([points[i] for i in complete], [*sweep.maximize.values()])}  # type: ignore[misc]
    return [
        Trial(sweep.relative_name(run.folder), name, point, i in front)
        for i, ((name, run), point) in enumerate(zip(sweep.finished_runs, points, strict=True))
    ]


def mean_accuracy(arm: Arm) -> float:
    """The mean of the primary metric over the seeds of an arm that has runs."""
    return fmean(arm.values(PRIMARY_METRIC).values())


def detectable_range(contrasts: Iterable[Contrast]) -> Interval | None:
    """The smallest and the largest half-width of the intervals; None if all are zero or unknown."""
    half_widths = [contrast.half_width for contrast in contrasts if contrast.half_width > 0]
    return (min(half_widths), max(half_widths)) if half_widths else None
