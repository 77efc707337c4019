"""Estimates, and how far they can be trusted: intervals are 95%.

Of one run, or of given runs, the problem is the unit of chance; of settings that are run with several seeds, the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, isnan, nan, prod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]

BOOTSTRAP_RESAMPLES = 9_999
MAX_SAMPLES = 1_000  # with more, C(n, k) leaves the range of a float


def wilson_interval(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(low), float(high)


def bootstrap_intervals(values: Floats) -> list[Interval]:
    """Percentile bootstrap intervals (Efron 1979) of the mean of each row of `values` (F, P) over its P problems.

    All rows are resampled alike, with a fixed seed. A row that does not vary has an interval of no width.
    """
    from scipy.stats import bootstrap as resample

    if values.shape[1] == 1:  # a lone problem says nothing of its spread
        return [(float(value), float(value)) for value in values[:, 0]]
    interval = resample(
        (values,),
        np.mean,
        axis=-1,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=100,
        method="percentile",
        vectorized=True,
        rng=0,
    ).confidence_interval
    # How numpy adds up hangs on where an array lies in memory; rounding makes equal data give equal intervals.
    return [(round(float(low), 9), round(float(high), 9)) for low, high in zip(*interval, strict=True)]


def mcnemar_p_value(gained: int, lost: int) -> float:
    """The exact two-sided p value of McNemar's test (1947): of the problems on which two policies differ, `gained` are
    right under the first alone and `lost` under the second alone."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


@dataclass(frozen=True)
class PairedDifference:
    """A mean of paired differences, with its 95% interval and p value; without those (nan) of a single pair."""

    difference: float
    low: float
    high: float
    p: float
    pairs: int


def paired_t_test(values: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
    """The paired t test of `values` less `baseline`, which go together by their places (Student 1908).

    Differences that are all alike have an interval of no width, and a p value of 0, or of 1 where they are nought.
    """
    # Differences that are alike but for rounding would make an interval of rounding errors.
    differences = np.round(np.array(values, np.float64) - np.array(baseline, np.float64), 12)
    first, pairs = float(differences[0]), len(differences)
    if pairs == 1:
        return PairedDifference(first, nan, nan, nan, pairs)
    if not np.ptp(differences):
        return PairedDifference(first, first, first, 0.0 if first else 1.0, pairs)
    from scipy.stats import ttest_1samp

    p = float(ttest_1samp(differences, 0.0).pvalue)
    return PairedDifference(float(differences.mean()), *t_interval(differences), p, pairs)


def t_interval(values: Sequence[float] | Floats) -> Interval:
    """Student's t interval (1908) of a mean; nan of a single value."""
    from scipy.stats import sem, t

    if len(values) == 1:
        return nan, nan
    reach = float(t.ppf(0.975, len(values) - 1) * sem(values))
    mean = float(np.mean(values))
    return mean - reach, mean + reach


def holm_adjusted(values: Sequence[float]) -> list[float]:
    """p values adjusted for their number by the step-down method of Holm (1979); nan stays nan and does not count."""
    order = sorted((p, i) for i, p in enumerate(values) if not isnan(p))
    adjusted, largest = list(values), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that one of `k` completions is right, without bias from `samples` >= k of which `right` are.

    1 - C(n - c, k) / C(n, k), as a product (Chen et al. 2021, Evaluating Large Language Models Trained on Code).
    """
    assert k <= samples
    return 1.0 - prod(1.0 - k / n for n in range(samples - right + 1, samples + 1)) if samples - right >= k else 1.0


@cache
def maj_at_k(samples: int, right: int, others: tuple[int, ...], k: int) -> float:
    """The chance that the most frequent answer among `k` of the `samples` completions is the right one.

    `right` completions give the right answer, `others` are the sizes of the groups that agree on a wrong one (sorted,
    for the cache), and the rest give none, which does not vote. The mean over all C(n, k) choices is exact; where
    answers are equally frequent, each of them is as likely (self-consistency, Wang et al. 2022). At most
    `MAX_SAMPLES` samples.
    """
    assert k <= samples <= MAX_SAMPLES and right + sum(others) <= samples
    silent = samples - right - sum(others)
    chosen = 0.0
    for votes in range(1, min(right, k) + 1):
        # ways[t, m]: how many ways there are to take m of the other completions with no wrong answer above `votes`
        # and t of them level with it. Groups below `votes` cannot be level and are free.
        rivals = [size for size in others if size >= votes]
        ways = np.zeros((1 + min(k // votes, len(rivals)), 1 + k - votes))
        ways[0] = _ways(silent + sum(size for size in others if size < votes), k - votes)
        for size in rivals:
            taken = np.zeros_like(ways)
            for m, count in enumerate(_ways(size, min(votes - 1, k - votes))):
                taken[:, m:] += count * ways[:, : ways.shape[1] - m]
            taken[1:, votes:] += comb(size, votes) * ways[:-1, : max(0, ways.shape[1] - votes)]
            ways = taken
        chosen += comb(right, votes) * float(np.sum(ways[:, -1] / np.arange(1, len(ways) + 1)))
    return chosen / comb(samples, k)


@cache
def _ways(size: int, most: int) -> Floats:
    """How many ways there are to take 0, 1, ... `most` of `size`."""
    return np.array([comb(size, m) for m in range(most + 1)], dtype=np.float64)
