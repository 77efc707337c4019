"""Statistics of a sweep: differences between arms over seeds and over problems, effects of factors, Pareto fronts.

Training seeds are the unit of replication. Every run of a sweep answers the same held-out problems, so seeds and
problems are crossed, and a difference is tested for new seeds and new problems. Used by the sentences, tables and
metrics of a sweep; it formats nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import fmean, stdev

import numpy as np

from grpo.core.statistics import (
    Floats,
    Interval,
    PairedTTest,
    crossed_t_test,
    holm_adjusted,
    paired_t_test,
    seeds_needed,
    t_interval,
)
from grpo.reports.arms import PRIMARY_METRIC, Arm, final_value
from grpo.reports.sweep_results import SweepResults


@dataclass(frozen=True, eq=False)
class Contrast:
    """The difference of an arm from the baseline, over the seeds that both have.

    Attributes:
        by_seed: seed -> the values of the arm and of the baseline.
        paired: over seeds, given these held-out problems.
        crossed: over seeds and problems; None if the runs answered different problems, their completions were deleted,
            or the metric is not one of single problems.
        p_holm: p of `test`, adjusted for the number of arms that are tested against the baseline in this metric.
        comparisons: that number.
    """

    arm: Arm
    by_seed: dict[int, tuple[float, float]]
    paired: PairedTTest
    crossed: PairedTTest | None
    p_holm: float
    comparisons: int

    @property
    def test(self) -> PairedTTest:
        return self.crossed or self.paired

    @property
    def difference(self) -> float:
        return self.paired.difference

    @property
    def seeds(self) -> int:
        return len(self.by_seed)

    @property
    def is_significant(self) -> bool:
        return self.p_holm < 0.05

    @property
    def is_constant(self) -> bool:
        """Whether the difference is the same in each of several seeds, so that there is no spread to test it with."""
        return self.seeds > 1 and self.paired.low == self.paired.high

    @property
    def is_clear(self) -> bool:
        return self.is_significant or (self.is_constant and self.is_separate)

    @property
    def agreeing_seeds(self) -> int:
        """The number of seeds whose difference has the sign of the mean difference."""
        return sum((first - second) * self.difference > 0 for first, second in self.by_seed.values())

    @property
    def is_separate(self) -> bool:
        """Whether every run of the arm lies on the same side of every run of the baseline."""
        first, second = zip(*self.by_seed.values(), strict=True)
        return min(first) > max(second) or max(first) < min(second)

    @property
    def half_width(self) -> float:
        """Half the width of the interval, which is about the smallest difference that would be significant."""
        return (self.test.high - self.test.low) / 2

    @property
    def sd(self) -> float:
        """The standard deviation of the difference over seeds, of which there must be two."""
        return stdev(first - second for first, second in self.by_seed.values())

    @property
    def problem_error(self) -> float:
        """The standard error of the difference over problems; 0 if it is unknown."""
        over_seeds = (self.paired.high - self.paired.low) / 2
        return max(0.0, self.half_width**2 - over_seeds**2) ** 0.5 / 1.96

    @property
    def seeds_needed(self) -> int | None:
        """The number of seeds that finds a difference of this size with this spread; None if it is above 1,000."""
        return seeds_needed(self.difference, self.sd, self.comparisons, self.problem_error)


def compute_contrasts(sweep: SweepResults, baseline: Arm, metric: str = PRIMARY_METRIC) -> dict[str, Contrast]:
    """The contrasts of all arms that share a seed with the baseline, by the name of the arm."""
    baseline_values = baseline.values(metric)
    compared = []
    for arm in sweep.arms_with_runs:
        by_seed = {
            seed: (value, baseline_values[seed])
            for seed, value in arm.values(metric).items()
            if seed in baseline_values
        }
        if arm is baseline or not by_seed:
            continue
        paired = paired_t_test(*zip(*by_seed.values(), strict=True))
        changes = _changes_by_problem(sweep, arm, baseline, by_seed, metric)
        compared.append((arm, by_seed, paired, None if changes is None else crossed_t_test(changes)))
    p_values = [(crossed or paired).p for _, _, paired, crossed in compared]
    comparisons = sum(not isnan(p) for p in p_values)
    return {
        row[0].name: Contrast(*row, p_holm, comparisons)
        for row, p_holm in zip(compared, holm_adjusted(p_values), strict=True)
    }


def _changes_by_problem(
    sweep: SweepResults, arm: Arm, baseline: Arm, by_seed: Mapping[int, tuple[float, float]], metric: str
) -> Floats | None:
    """The differences of an arm from the baseline by seed and problem, (S, E).

    None if they are unknown: all tables must have the same problems, and the means that the runs report.
    """
    rows, problems = [], None
    for seed, means in by_seed.items():
        columns = []
        for run, mean in zip((arm.runs[seed], baseline.runs[seed]), means, strict=True):
            table = sweep.problem_tables[run.folder]
            if table is None or metric not in table or not abs(table[metric].mean() - mean) < 1e-6:
                return None
            problems = table.index if problems is None else problems
            if not problems.equals(table.index):
                return None
            columns.append(table[metric].to_numpy(dtype=np.float64))
        rows.append(columns[0] - columns[1])
    changes = np.array(rows)
    return None if np.isnan(changes).any() else changes


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
