"""Estimators of accuracy and their uncertainty: 95% intervals, paired tests, their power, pass@k, maj@k.

Evaluation, reports and sweeps call it. The unit of resampling is the problem for one or two runs; for arms with several
seeds it is the seed, or seed and problem. This module knows neither metrics nor runs, only arrays of numbers.
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
MAX_SAMPLES = 1_000  # with more samples, C(n, k) exceeds the range of a float


def wilson_interval(successes: int, trials: int) -> Interval:
    """Wilson's score interval (1927) of the proportion `successes / trials`."""
    from scipy.stats import binomtest

    low, high = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(low), float(high)


def bootstrap_intervals(values: Floats) -> list[Interval]:
    """Percentile bootstrap intervals (Efron 1979) of the row means of `values`, (figures, E), over E problems.

    All rows are resampled with the same indices and a fixed seed. A constant row has an interval of width zero. A
    problem whose value is nan is left out of its row.
    """
    from scipy.stats import bootstrap as resample

    if np.isnan(values).any():
        return [bootstrap_intervals(row[None, ~np.isnan(row)])[0] for row in values]
    if values.shape[1] == 1:  # the spread of a single problem is unknown
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
    # numpy's order of summation depends on the memory address; rounding makes equal data give equal intervals.
    return [(round(float(low), 9), round(float(high), 9)) for low, high in zip(*interval, strict=True)]


def mcnemar_p_value(gained: int, lost: int) -> float:
    """The exact two-sided p value of McNemar's test (1947) for paired right and wrong answers.

    Args:
        gained: problems that only one policy solves.
        lost: problems that only the other policy solves.
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


@dataclass(frozen=True)
class PairedTTest:
    """A mean of paired differences with its 95% interval and p value.

    All three are nan for a single pair. p is also nan if all differences are equal and not zero, because without spread
    there is no test.
    """

    difference: float
    low: float
    high: float
    p: float
    pairs: int


def paired_t_test(values: Sequence[float], baseline: Sequence[float]) -> PairedTTest:
    """Student's paired t test (1908) of `values` minus `baseline`, paired by index.

    If all differences are equal, the interval has width zero, and p is 1 for zero differences, else nan. With pairs of
    different variances the test is conservative at levels of 5% and below (Bakirov and Szekely 2005).
    """
    # Without rounding, equal differences would get an interval of floating-point errors.
    differences = np.round(np.array(values, np.float64) - np.array(baseline, np.float64), 12)
    first, pairs = float(differences[0]), len(differences)
    if pairs == 1:
        return PairedTTest(first, nan, nan, nan, pairs)
    if not np.ptp(differences):
        return PairedTTest(first, first, first, nan if first else 1.0, pairs)
    from scipy.stats import ttest_1samp

    p = float(ttest_1samp(differences, 0.0).pvalue)
    return PairedTTest(float(differences.mean()), *t_interval(differences), p, pairs)


def t_interval(values: Sequence[float] | Floats) -> Interval:
    """Student's t interval (1908) of the mean; nan for a single value."""
    from scipy.stats import sem, t

    if len(values) == 1:
        return nan, nan
    half_width = float(t.ppf(0.975, len(values) - 1) * sem(values))
    mean = float(np.mean(values))
    return mean - half_width, mean + half_width


def crossed_t_test(differences: Floats) -> PairedTTest:
    """The mean of paired differences, (S, E), for new seeds and new problems, of which S and E are samples.

    Every seed answers the same problems, so the two are crossed. The squared half-widths of Student's intervals over
    the S means of seeds and over the E means of problems are added (Zou and Donner 2008). p is the level at which the
    interval ends at zero; nan if the difference is the same in every seed and not zero. Both parts contain the
    variation of single answers, so the interval is conservative, as is min F' (Clark 1973, The language-as-fixed-effect
    fallacy).
    """
    from scipy.optimize import brentq
    from scipy.special import stdtrit

    over_seeds, over_problems = np.round(differences.mean(axis=1), 12), differences.mean(axis=0)
    mean, pairs = float(over_seeds.mean()), len(over_seeds)
    if pairs == 1 or len(over_problems) == 1:
        return paired_t_test(list(over_seeds), [0.0] * pairs)
    parts = [
        (len(values) - 1, float(np.std(values, ddof=1) ** 2 / len(values))) for values in (over_seeds, over_problems)
    ]

    def half_width(level: float) -> float:
        return sum(float(stdtrit(freedom, level / 2)) ** 2 * variance for freedom, variance in parts) ** 0.5

    p = least = 1e-12
    if not np.ptp(over_seeds):
        p = nan if mean else 1.0
    elif half_width(least) > abs(mean):
        p = float(brentq(lambda level: half_width(level) - abs(mean), least, 1.0))
    return PairedTTest(mean, mean - half_width(0.05), mean + half_width(0.05), p, pairs)


def seeds_needed(difference: float, sd: float, comparisons: int, problem_error: float = 0.0) -> int | None:
    """The number of seeds with which the test above finds a difference in 80% of sweeps; None above 1,000.

    The level is 5% / `comparisons`, that of Holm's first step. The power is P(T > t) for the noncentral t variable T
    with S - 1 degrees of freedom and noncentrality difference / error, error^2 = sd^2 / S + problem_error^2 (Johnson
    and Welch 1940; for seeds: Colas et al. 2018, How Many Random Seeds?).

    Args:
        sd: the standard deviation over seeds of the paired difference.
        problem_error: the standard error of the difference over problems, which more seeds do not lower.
    """
    from scipy.stats import nct, t

    seeds = np.arange(2, 1001)
    errors = np.sqrt(sd**2 / seeds + problem_error**2)
    powers = nct.sf(t.isf(0.025 / comparisons, seeds - 1), seeds - 1, abs(difference) / errors)
    enough = seeds[powers >= 0.8]
    return int(enough[0]) if len(enough) else None


def sd_factors(count: int) -> Interval:
    """The 95% interval of the true standard deviation of normal values, as factors of the one of `count` values."""
    from scipy.stats import chi2

    low, high = (float((count - 1) / chi2.ppf(level, count - 1)) ** 0.5 for level in (0.975, 0.025))
    return low, high


def holm_adjusted(values: Sequence[float]) -> list[float]:
    """p values adjusted for multiple comparisons by Holm's step-down method (1979); nan values are ignored."""
    order = sorted((p, i) for i, p in enumerate(values) if not isnan(p))
    adjusted, largest = list(values), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The unbiased estimate of pass@k: the probability that at least one of `k` completions is right.

    From n = `samples` >= k completions of which c = `right` are right: 1 - C(n - c, k) / C(n, k), computed as a product
    (Chen et al. 2021, Evaluating Large Language Models Trained on Code).
    """
    assert k <= samples
    return 1.0 - prod(1.0 - k / n for n in range(samples - right + 1, samples + 1)) if samples - right >= k else 1.0


@cache
def maj_at_k(samples: int, right: int, others: tuple[int, ...], k: int) -> float:
    """The unbiased estimate of maj@k: the probability that the most frequent of `k` answers is right.

    The exact mean over all C(n, k) choices of k completions from n = `samples` <= `MAX_SAMPLES`. A tie is broken with
    equal probabilities (self-consistency, Wang et al. 2022).

    Args:
        right: completions with the right answer.
        others: for each wrong answer, the number of completions that give it, sorted for the cache. The remaining
            completions give no answer and do not vote.
    """
    assert k <= samples <= MAX_SAMPLES and right + sum(others) <= samples
    without_answer = samples - right - sum(others)
    chosen = 0.0
    for votes in range(1, min(right, k) + 1):
        # ways[t, m]: the number of ways to choose m of the other completions such that t wrong answers have exactly
        # `votes` votes and none has more. Answers with fewer than `votes` completions cannot tie.
        rivals = [size for size in others if size >= votes]
        ways = np.zeros((1 + min(k // votes, len(rivals)), 1 + k - votes))
        ways[0] = _binomials(without_answer + sum(size for size in others if size < votes), k - votes)
        for size in rivals:
            taken = np.zeros_like(ways)
            for m, count in enumerate(_binomials(size, min(votes - 1, k - votes))):
                taken[:, m:] += count * ways[:, : ways.shape[1] - m]
            taken[1:, votes:] += comb(size, votes) * ways[:-1, : max(0, ways.shape[1] - votes)]
            ways = taken
        chosen += comb(right, votes) * float(np.sum(ways[:, -1] / np.arange(1, len(ways) + 1)))
    return chosen / comb(samples, k)


@cache
def _binomials(size: int, most: int) -> Floats:
    """The binomial coefficients C(size, m) for m = 0, 1, ..., `most`."""
    return np.array([comb(size, m) for m in range(most + 1)], dtype=np.float64)
