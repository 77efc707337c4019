"""Expected shares of groups of K completions, without bias from more samples of each problem: pure functions.

Called by grpo/forecast/forecast.py. A group is a choice of K of the samples without replacement, so that a share is
a ratio of binomial coefficients: the hypergeometric distribution, as in `pass_at_k`. It knows no policy and no reward.
"""

from dataclasses import dataclass
from math import comb

import numpy as np

from grpo.core.statistics import Floats
from grpo.rewards.estimators import ROUNDING, Bools


@dataclass(frozen=True)
class GroupShares:
    """For each of E problems, the probability (E,) of each kind of group of K of its samples.

    Attributes:
        mixed: groups with right and wrong completions.
        none_right, all_right: groups with wrong ones only, and with right ones only.
        differing: groups in which two totals differ.
        learning: groups with an advantage: two totals differ, also if the gate leaves rewards out.
    """

    mixed: Floats
    none_right: Floats
    all_right: Floats
    differing: Floats
    learning: Floats


def group_shares(totals: Floats, correct: Bools, k: int, gate: str) -> GroupShares:
    """The shares of groups of `k` completions.

    Args:
        totals: (E, samples) the total of each sample; nan if every reward abstains: it has no advantage.
        correct: (E, samples) whether it is right.
        gate: `algorithm.gate`: in which groups only the reward for right answers counts.
    """
    m = totals.shape[1]
    all_right = np.array([_share(int(row.sum()), m, k) for row in correct])
    none_right = np.array([_share(int((~row).sum()), m, k) for row in correct])
    rounding = ROUNDING * float(np.abs(np.nan_to_num(totals)).max())

    def equal(chosen: Bools) -> Floats:
        """The probability (E,) that all of a group are `chosen` (E, samples), and that their totals are equal."""
        rows = zip(totals, chosen, strict=True)
        return np.array([_equal_share(values[of_group], m, k, rounding) for values, of_group in rows])

    mixed = 1.0 - all_right - none_right
    differing = 1.0 - equal(np.full_like(correct, True))
    learning = differing
    if gate != "off":  # in groups without a right answer, nothing but right answers counts
        learning = learning - (none_right - equal(~correct))
    if gate == "correctness":
        learning = learning - (all_right - equal(correct))
    return GroupShares(*(np.clip(each, 0.0, 1.0) for each in (mixed, none_right, all_right, differing, learning)))


def _share(count: int, m: int, k: int) -> float:
    """The probability that all `k` of `m` samples are among `count` of them."""
    return comb(count, k) / comb(m, k)


def _equal_share(totals: Floats, m: int, k: int, rounding: float) -> float:
    """The probability that all `k` of `m` samples are among those with these totals, and that no two totals differ."""
    scored = np.sort(totals[~np.isnan(totals)])
    without = len(totals) - len(scored)
    starts = np.flatnonzero(np.diff(scored, prepend=-np.inf) > rounding)
    sizes = np.diff(starts, append=len(scored))
    unscored = _share(without, m, k)
    return unscored + sum(_share(int(size) + without, m, k) - unscored for size in sizes)
