"""Statistics of a sweep: differences between arms over seeds and over problems, effects of factors, Pareto fronts.

The seed is the unit of chance. Used by the sentences, tables and figures of a sweep; it formats nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean

import numpy as np
import pandas as pd

from grpo.core.metric_format import METRIC_LABELS
from grpo.core.metric_names import SCORE_PREFIX
from grpo.core.statistics import (
    Interval,
    PairedTTest,
    bootstrap_intervals,
    holm_adjusted,
    paired_t_test,
    t_interval,
)
from grpo.reports.arms import PRIMARY_METRIC, Arm, final_value
from grpo.reports.sweep_results import Sweep
from grpo.runs.run_dir import RunDir
from grpo.runs.saved_run import SavedRun


@dataclass(frozen=True, eq=False)
class Contrast:
    """A setting less the baseline, over the seeds that both have."""

    setting: Arm
    paired: PairedTTest
    p_holm: float  # adjusted for the settings that are compared with the baseline in this figure

    @property
    def sure(self) -> bool:
        return self.p_holm < 0.05

    @property
    def reach(self) -> float:
        """Half the width of the interval."""
        return (self.paired.high - self.paired.low) / 2


def compute_contrasts(sweep: Sweep, baseline: Arm, figure: str = PRIMARY_METRIC) -> dict[str, Contrast]:
    """By its name, every setting that has a seed in common with the baseline."""
    base = baseline.values(figure)
    settings, found = [], []
    for setting in sweep.compared:
        values = setting.values(figure)
        if setting is not baseline and (seeds := [seed for seed in values if seed in base]):
            settings.append(setting)
            found.append(paired_t_test([values[seed] for seed in seeds], [base[seed] for seed in seeds]))
    adjusted = holm_adjusted([paired.p for paired in found])
    return {
        each.name: Contrast(each, *of) for each, of in zip(settings, zip(found, adjusted, strict=True), strict=True)
    }


def intervals_over_problems(sweep: Sweep, baseline: Arm) -> dict[str, dict[str, Interval]]:
    """By setting and figure, the 95% interval of its difference from the baseline for these very runs.

    A bootstrap over the problems of the mean difference over the seeds that both have: it says how much hangs on the
    choice of problems, and nothing of other seeds. Settings are left out that were asked other problems than the
    baseline, or whose completions are gone.
    """
    tables = {run.folder: _metrics_by_problem(run) for setting in sweep.compared for run in setting.runs.values()}
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
        intervals = bootstrap_intervals(change.to_numpy(dtype=np.float64).T)
        found[setting.name] = dict(zip(change.columns, intervals, strict=True))
    return found


def _metrics_by_problem(record: SavedRun) -> pd.DataFrame | None:
    """The figures of each held-out problem after training; None where they are gone."""
    try:
        table = pd.read_parquet(RunDir(record.folder).evaluation_table("after"))
        table = table.set_index(["problem", "question", "gold"]).sort_index()
    except (OSError, ValueError, KeyError):
        return None
    table = table.rename(columns={"tokens": "mean_completion_tokens"})
    figures = [name for name in table if name in METRIC_LABELS or str(name).startswith(SCORE_PREFIX)]
    return table[figures].astype(np.float64).groupby(level=[0, 1, 2]).mean()


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a factor, over all that was run at every level of it."""

    name: str
    by_seed: dict[int, float]  # the mean over the other factors' levels
    paired: PairedTTest | None  # less the first level; None of the first
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


def factor_effects(sweep: Sweep, baseline: Arm, figure: str = PRIMARY_METRIC) -> list[Effect]:
    """The effect of each factor on a figure; the baseline's level comes first.

    The runs that differ in the factor alone are compared, seed by seed, where there is one at each of its levels.
    Within a seed they are averaged over the other factors, so that the seed stays the unit.
    """
    return [_factor_effect(sweep, baseline, factor, figure) for factor in sweep.factors]


def _factor_effect(sweep: Sweep, baseline: Arm, factor: str, figure: str) -> Effect:
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
    paired = [paired_t_test([*means[name].values()], [*means[first].values()]) for name in rest]
    levels = [Level(first, means[first], None, nan)] + [
        Level(name, means[name], of, p)
        for name, of, p in zip(rest, paired, holm_adjusted([of.p for of in paired]), strict=True)
    ]
    return Effect(factor, levels, left_out)


def pareto_front(points: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
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


def search_trials(sweep: Sweep) -> list[Trial]:
    """The whole runs of a search. One that lacks an objective is not among the best."""
    points = [[final_value(record, figure) for figure in sweep.maximize] for _, record in sweep.trials]
    whole = [i for i, point in enumerate(points) if None not in point]
    front = {whole[i] for i in pareto_front([points[i] for i in whole], [*sweep.maximize.values()])}  # type: ignore[misc]
    return [
        Trial(sweep.within(record.folder), name, point, i in front)
        for i, ((name, record), point) in enumerate(zip(sweep.trials, points, strict=True))
    ]


def mean_accuracy(setting: Arm) -> float:
    return fmean(setting.values(PRIMARY_METRIC).values())


def detectable_range(found: Iterable[Contrast]) -> Interval | None:
    """From the sharpest to the bluntest comparison, the difference that it could just have told from none."""
    reaches = [contrast.reach for contrast in found if contrast.reach > 0]
    return (min(reaches), max(reaches)) if reaches else None
