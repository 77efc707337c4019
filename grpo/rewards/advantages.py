"""TRL's advantages computed again in float64, with the exact part of each reward: pure functions of scores and weights.

TRL computes the advantages that train; `algorithm.scale_rewards` selects its formula. A change in this module alone
changes the curves and the audit, not the training, and fails the tests that compare both. The trainer calls it on every
step, and `grpo.audit` before anything is trained; therefore it is in grpo/rewards. It knows no models or losses.

One function per estimator maps the scores of groups to the parts a_ik of the advantages: A_i = sum_k a_ik for
completion i and reward k. A formula that TRL has needs one such function and one row in `estimator`. A new one also
needs a change of TRL's training (CONTRIBUTING.md names the method).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo.core.metric_names import (
    ALL_CORRECT,
    CORRECT,
    CORRECTNESS_CONSTANT,
    MIXED,
    NONE_CORRECT,
    ZERO_STD,
    advantage_flips,
    advantage_share,
    reward_zero_std,
)
from grpo.core.statistics import Floats

# TRL adds this to a standard deviation, which may be zero.
EPSILON = 1e-4
# Rewards reach TRL in float32: a spread below this share of the largest one is a rounding error, not a difference.
ROUNDING = 1e-6

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class GroupScores:
    """The scores of G groups of K completions by R rewards.

    Attributes:
        scores: (G, K, R) 0 where a reward abstains: it adds nothing to the total.
        counted: (G, K, R) which of them are part of means and standard deviations.
    """

    scores: Floats
    counted: Bools

    def centered(self) -> Floats:
        """The scores (G, K, R) minus the mean of the reward in its group; 0 where not counted."""
        counts = np.maximum(self.counted.sum(axis=1, keepdims=True), 1)
        mean = np.where(self.counted, self.scores, 0.0).sum(axis=1, keepdims=True) / counts
        return np.where(self.counted, self.scores - mean, 0.0)

    def constant_rewards(self) -> Bools:
        """Whether each reward is constant inside each group (G, R), up to rounding."""
        largest = np.abs(np.where(self.counted, self.scores, 0.0)).max(axis=1)
        return np.abs(self.centered()).max(axis=1) <= ROUNDING * largest

    def std(self, values: Floats, axis: int | None = None) -> Floats:
        """The standard deviation of `values` (G, K) or (G, K, R), with Bessel's correction; 0 if fewer than two count.

        Args:
            axis: 1 for each group; None for the batch.
        """
        counted = self.counted if values.ndim == 3 else self.counted.any(axis=-1)
        count = counted.sum(axis=axis, keepdims=True)
        mean = np.where(counted, values, 0.0).sum(axis=axis, keepdims=True) / np.maximum(count, 1)
        squares = np.where(counted, values - mean, 0.0) ** 2
        return np.sqrt(squares.sum(axis=axis, keepdims=True) / np.maximum(count - 1, 1))


# The scores of groups and the weights (R,) -> the parts (G, K, R) of the advantages, and whether the total is constant
# inside each group (G,). A group with a constant total has no advantage: its parts are 0.
Estimator = Callable[[GroupScores, Floats], tuple[Floats, Bools]]


@dataclass(frozen=True)
class Attribution:
    """The advantages of a step and their parts.

    Attributes:
        advantages: (N,) A_i.
        parts: (N, R) a_ik; the parts of a completion sum to its advantage.
        zero_std: (G, R + 1) whether a reward is constant inside a group; the last column is the total.
    """

    advantages: Floats
    parts: Floats
    zero_std: Bools

    def shares(self) -> Floats | None:
        """Each reward's share (R,) of the squared advantages: sum_i a_ik A_i / sum_i A_i^2. The shares sum to 1.

        None if no completion has an advantage. A negative share: the reward acts against the total.
        """
        power = float(self.advantages @ self.advantages)
        return self.advantages @ self.parts / power if power else None

    def flips(self) -> Floats:
        """The fraction of completions (R,) whose advantage would change its sign without the reward."""
        without = self.advantages[:, None] - self.parts
        return (self.advantages[:, None] * without < 0).mean(axis=0)


def no_scaling(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): a_ik = w_k (r_ik - mean of r_k in the group)."""
    return _zero_constant_groups(weights * groups.centered(), weights * groups.scores)


def group_std(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """GRPO (Shao et al. 2024, arXiv 2402.03300): `no_scaling`, divided by the std of the total in the group + 1e-4."""
    parts, constant = no_scaling(groups, weights)
    std = groups.std(parts.sum(axis=-1), axis=1)
    return parts / (std[:, :, None] + EPSILON), constant


def batch_std(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """`no_scaling`, divided by the std of the total in the batch + 1e-4 (Liu et al. 2025, arXiv 2508.08221)."""
    parts, constant = no_scaling(groups, weights)
    std = groups.std(groups.scores @ weights)
    return parts / (std[:, :, None] + EPSILON), constant


def gdpo(groups: GroupScores, weights: Floats) -> tuple[Floats, Bools]:
    """GDPO (arXiv 2601.05242): a_ik = w_k z_ik / (d + 1e-4).

    z_ik is the reward, standardized in its group; d is the std of sum_k w_k z_ik in the batch.
    """
    centered = groups.centered()
    standardized = centered / (groups.std(centered, axis=1) + EPSILON)
    parts = weights * np.where(groups.constant_rewards()[:, None], 0.0, standardized)
    std = groups.std(parts.sum(axis=-1))
    parts, constant = _zero_constant_groups(parts, parts)
    return parts / (std[:, :, None] + EPSILON), constant


def estimator(scale_rewards: str, aggregation: str) -> Estimator:
    """The estimator of `algorithm.scale_rewards` and TRL's `multi_objective_aggregation`."""
    if aggregation == "normalize_then_sum":
        return gdpo
    return {"group": group_std, "batch": batch_std, "none": no_scaling}[scale_rewards]


def attribute(
    scores: Floats,
    weights: Floats,
    num_generations: int,
    scale_rewards: str = "group",
    aggregation: str = "sum_then_normalize",
) -> Attribution:
    """Compute the advantages of raw scores and their parts, in float64.

    An abstention, nan, adds 0 to the total. A completion for which all rewards with a weight abstain has no advantage
    and is not part of its group's mean and standard deviation. With normalize_then_sum, TRL standardizes each reward
    over the completions that it scores.

    Args:
        scores: (N, R) raw scores; the completions of a group, `num_generations` of them, are adjacent.
        weights: (R,) the weight of each reward.
    """
    groups = scores.astype(np.float64).reshape(-1, num_generations, scores.shape[1])
    scored = ~np.isnan(groups)
    weighted = weights != 0 if weights.any() else np.full(len(weights), True)
    counted = np.broadcast_to(scored[:, :, weighted].any(axis=-1, keepdims=True), scored.shape)
    if aggregation == "normalize_then_sum":
        counted = counted & scored
    group_scores = GroupScores(np.where(scored, groups, 0.0), counted)
    parts, constant = estimator(scale_rewards, aggregation)(group_scores, weights)
    parts = parts.reshape(scores.shape)
    return Attribution(parts.sum(axis=-1), parts, np.column_stack([group_scores.constant_rewards(), constant]))


def _zero_constant_groups(parts: Floats, terms: Floats) -> tuple[Floats, Bools]:
    """The parts, set to 0 in groups whose total is constant, and which groups these are (G,).

    `terms` (G, K, R) are what the total is a sum of; their size says how large a rounding error is.
    """
    total = parts.sum(axis=-1)
    constant = np.abs(total).max(axis=1) <= ROUNDING * np.abs(terms).max(axis=(1, 2))
    return np.where(constant[:, None, None], 0.0, parts), constant


def attribution_metrics(
    attribution: Attribution, names: Sequence[str], correct: NDArray[np.bool_], num_generations: int
) -> dict[str, float]:
    """The logged metrics of a step's attribution.

    Args:
        names: the R rewards.
        correct: (N,) whether each completion is correct. Counts of groups are fractions of all groups.
    """
    metrics: dict[str, float] = {}
    if (shares := attribution.shares()) is not None:
        metrics |= {advantage_share(name): float(share) for name, share in zip(names, shares, strict=True)}
    flips = attribution.flips()
    metrics |= {advantage_flips(name): float(flip) for name, flip in zip(names, flips, strict=True)}
    fraction_correct = correct.reshape(-1, num_generations).mean(axis=1)
    *constant_rewards, constant_total = attribution.zero_std.T
    metrics |= {
        CORRECT: float(correct.mean()),
        ALL_CORRECT: float((fraction_correct == 1).mean()),
        NONE_CORRECT: float((fraction_correct == 0).mean()),
        MIXED: float(((fraction_correct > 0) & (fraction_correct < 1)).mean()),
        CORRECTNESS_CONSTANT: float((~constant_total & ((fraction_correct == 0) | (fraction_correct == 1))).mean()),
        ZERO_STD: float(constant_total.mean()),
    }
    return metrics | {
        reward_zero_std(name): float(constant.mean()) for name, constant in zip(names, constant_rewards, strict=True)
    }
