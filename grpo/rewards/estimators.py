"""Advantage estimators: pure functions from the scores of groups to advantages, one for each `algorithm.estimator`.

`grpo.rewards.advantages` calls them in float64. A new estimator is one function here, its row in `ESTIMATORS`, its name
in grpo/config/rules.py and one file in conf/algorithm/. TRL computes the advantages that train for the estimators that
it has (`TRL_ESTIMATORS` in grpo/training/arguments.py), these functions for the others. This module knows no models,
losses or settings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import comb

import numpy as np
from numpy.typing import NDArray

from grpo.core.statistics import Floats

# Added to a divisor, which may be zero, as in TRL.
EPSILON = 1e-4
# Rewards reach TRL in float32: a spread below this share of the largest value is a rounding error, not a difference.
ROUNDING = 1e-6

Bools = NDArray[np.bool_]
GROUP, BATCH = 1, (0, 1)  # the axes of means and standard deviations


@dataclass(frozen=True)
class GroupScores:
    """The scores of G groups of K completions by R rewards.

    Attributes:
        scores: (G, K, R) 0 where a reward abstains or is gated: it adds nothing to the total.
        counted: (G, K, R) which of them are part of means and standard deviations.
    """

    scores: Floats
    counted: Bools

    def centered(self, axis: int | tuple[int, ...] = GROUP) -> Floats:
        """The scores (G, K, R) minus the mean of the reward in its group or in the batch; 0 where not counted."""
        counts = np.maximum(self.counted.sum(axis=axis, keepdims=True), 1)
        mean = np.where(self.counted, self.scores, 0.0).sum(axis=axis, keepdims=True) / counts
        return np.where(self.counted, self.scores - mean, 0.0)

    def constant_rewards(self) -> Bools:
        """Whether each reward is constant inside each group (G, R), up to rounding."""
        largest = np.abs(np.where(self.counted, self.scores, 0.0)).max(axis=1)
        return np.abs(self.centered()).max(axis=1) <= ROUNDING * largest

    def counted_totals(self) -> Bools:
        """Whether the total of each completion (G, K) is part of means and standard deviations."""
        counted: Bools = np.any(self.counted, axis=-1)
        return counted

    def std(self, values: Floats, axis: int | None = None) -> Floats:
        """The standard deviation of `values` (G, K) or (G, K, R), with Bessel's correction; 0 if fewer than two count.

        Args:
            axis: 1 for each group; None for the batch.
        """
        counted = self.counted if values.ndim == 3 else self.counted_totals()
        count = counted.sum(axis=axis, keepdims=True)
        mean = np.where(counted, values, 0.0).sum(axis=axis, keepdims=True) / np.maximum(count, 1)
        squares = np.where(counted, values - mean, 0.0) ** 2
        return np.sqrt(squares.sum(axis=axis, keepdims=True) / np.maximum(count - 1, 1))


# The scores of groups and the weights (R,) -> the parts (G, K, R) of the advantages, or the advantages (G, K) of an
# estimator that is not linear in the scores; and whether a group has no advantage (G,).
Estimator = Callable[[GroupScores, Floats], tuple[Floats, Bools]]


def no_scaling(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): a_ik = w_k (r_ik - mean of r_k in the group)."""
    return _zero_constant(weights * groups.centered(), weights * groups.scores)


def group_std(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """GRPO (Shao et al. 2024, arXiv 2402.03300): `no_scaling`, divided by the std of the total in the group + 1e-4."""
    parts, constant = no_scaling(groups, weights)
    std = groups.std(parts.sum(axis=-1), axis=GROUP)
    return parts / (std[:, :, None] + EPSILON), constant


def batch_std(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """Lite PPO (Liu et al. 2025, arXiv 2508.08221): `no_scaling`, divided by the std of the batch's totals + 1e-4."""
    parts, constant = no_scaling(groups, weights)
    std = groups.std(groups.scores @ weights)
    return parts / (std[:, :, None] + EPSILON), constant


def gdpo(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """GDPO (arXiv 2601.05242): a_ik = w_k z_ik / (d + 1e-4).

    z_ik is the reward, standardized in its group; d is the std of sum_k w_k z_ik in the batch.
    """
    centered = groups.centered()
    standardized = centered / (groups.std(centered, axis=GROUP) + EPSILON)
    parts = weights * np.where(groups.constant_rewards()[:, None], 0.0, standardized)
    std = groups.std(parts.sum(axis=-1))
    parts, constant = _zero_constant(parts, parts)
    return parts / (std[:, :, None] + EPSILON), constant


def rloo(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """RLOO (Ahmadian et al. 2024, arXiv 2402.14740): the baseline is the mean of the other K - 1 completions.

    A_i = total_i - mean of the others, so a_ik is K / (K - 1) times that of `no_scaling`.
    """
    parts, constant = no_scaling(groups, weights)
    count = groups.counted_totals().sum(axis=GROUP)[:, None, None]
    return parts * (count / np.maximum(count - 1, 1)), constant


def reinforce_pp(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """REINFORCE++ (Hu et al. 2025, arXiv 2501.03262): mean and std of the batch, of all processes, not of the group.

    a_ik = w_k (r_ik - mean of r_k in the batch) / (std of the total in the batch + 1e-4). A group with a constant total
    has advantages if the totals of other groups differ from it.
    """
    parts, constant = _zero_constant(weights * groups.centered(BATCH), weights * groups.scores, over_batch=True)
    return parts / (groups.std(parts.sum(axis=-1))[:, :, None] + EPSILON), constant


def maxrl(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """MaxRL (Tajwar et al. 2026, arXiv 2602.02710): `no_scaling`, divided by the mean of the total in the group + 1e-4.

    For scores of 0 and 1 the mean is the solve rate: a prompt that is rarely solved has large advantages. The paper has
    no advantages in a group without a right answer; here a group whose mean is not positive has none.
    """
    parts, constant = no_scaling(groups, weights)
    counted = groups.counted_totals()
    mean = np.where(counted, groups.scores @ weights, 0.0).sum(axis=GROUP) / np.maximum(counted.sum(axis=GROUP), 1)
    is_zero: Bools = constant | (mean <= ROUNDING * np.abs(weights * groups.scores).max(axis=(1, 2)))
    divisor = np.where(is_zero, 1.0, mean + EPSILON)[:, None, None]
    return np.where(is_zero[:, None, None], 0.0, parts / divisor), is_zero


def passk(groups: GroupScores, weights: Floats, k: int) -> tuple[Floats, Bools]:
    """Pass@k training (Chen et al. 2025, arXiv 2508.10751), for the best total of k completions; not linear.

    With S a set of k of the K completions and M(S) its largest total:
    A_i = (mean of M(S) over the sets with i - mean of M(S) over all sets) / (std of M(S) over all sets + 1e-4).
    For totals of 0 and 1 these are the advantages of the paper. A group with k completions or fewer has none.
    """
    totals, counted = groups.scores @ weights, groups.counted_totals()
    advantages = np.zeros_like(totals)
    for group in np.flatnonzero(counted.sum(axis=GROUP) > k):
        advantages[group, counted[group]] = _best_of_k(totals[group, counted[group]], k)
    return advantages, ~np.any(advantages, axis=GROUP)


def _best_of_k(totals: Floats, k: int) -> Floats:
    """The advantages (n,) of n > k >= 2 totals (n,), by the probabilities that a completion is the best of a set.

    Of all sets, C(j, k - 1) have the best completion j (j = 0, 1, ... from the lowest total). Of the sets with
    completion i, C(j - 1, k - 2) have a better best one j > i, and C(i, k - 1) have i itself.
    """
    n = len(totals)
    order = np.argsort(totals, kind="stable")
    ordered = totals[order]
    is_best = np.array([comb(j, k - 1) / comb(n, k) for j in range(n)])
    mean = is_best @ ordered
    std = np.sqrt(is_best @ (ordered - mean) ** 2)
    better = ordered[1:] * [comb(j - 1, k - 2) / comb(n - 1, k - 1) for j in range(1, n)]
    itself = ordered * [comb(i, k - 1) / comb(n - 1, k - 1) for i in range(n)]
    gain = itself + np.append(np.cumsum(better[::-1])[::-1], 0.0) - mean
    if np.abs(gain).max() <= ROUNDING * np.abs(totals).max():
        return np.zeros(n)
    advantages = np.empty(n)
    advantages[order] = gain / (std + EPSILON)
    return advantages


def _zero_constant(parts: Floats, terms: Floats, over_batch: bool = False) -> tuple[Floats, Bools]:
    """The parts, set to 0 in groups whose total is constant, and which groups these are (G,).

    Args:
        terms: (G, K, R) the terms that sum to the total; the largest of them says how large a rounding error is.
        over_batch: a total is constant only if it is the same in the complete batch.
    """
    spread, largest = np.abs(parts.sum(axis=-1)).max(axis=1), np.abs(terms).max(axis=(1, 2))
    if over_batch:
        spread, largest = np.full_like(spread, spread.max()), np.full_like(largest, largest.max())
    constant = spread <= ROUNDING * largest
    return np.where(constant[:, None, None], 0.0, parts), constant


ESTIMATORS: dict[str, Callable[..., tuple[Floats, Bools]]] = {
    "group_std": group_std,
    "batch_std": batch_std,
    "no_scaling": no_scaling,
    "gdpo": gdpo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
    "maxrl": maxrl,
    "passk": passk,
}


def get_estimator(name: str, pass_k: int) -> Estimator:
    """The estimator of `algorithm.estimator`; `pass_k` is the k of passk."""
    function = ESTIMATORS[name]
    return partial(function, k=pass_k) if function is passk else function
