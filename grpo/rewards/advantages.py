"""What an update is made of: the advantages of a step, split exactly among the rewards that made them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo.core.metric_names import (
    ALL_CORRECT,
    CORRECTNESS_CONSTANT,
    MIXED,
    NONE_CORRECT,
    ZERO_STD,
    advantage_flips,
    advantage_share,
    reward_zero_std,
)
from grpo.core.statistics import Floats

# TRL's guard against a standard deviation of zero.
EPSILON = 1e-4
# Rewards reach TRL in float32: a spread below this share of the largest one is rounding, not a difference.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Attribution:
    """The advantages of a step and their parts.

    Attributes:
        advantages: (N,) A_i.
        parts: (N, R) a_ik; those of a completion sum to its advantage.
        zero_std: (G, R + 1) whether a reward does not vary inside a group; the last column is the total.
    """

    advantages: Floats
    parts: Floats
    zero_std: NDArray[np.bool_]

    def shares(self) -> Floats | None:
        """Each reward's share (R,) of the squared advantages: sum_i a_ik A_i / sum_i A_i^2, which sum to 1.

        None where no completion has an advantage. A negative share: the reward pulled against the total.
        """
        power = float(self.advantages @ self.advantages)
        return self.advantages @ self.parts / power if power else None

    def flips(self) -> Floats:
        """The share of completions (R,) whose advantage would change sign without the reward."""
        without = self.advantages[:, None] - self.parts
        return (self.advantages[:, None] * without < 0).mean(axis=0)


def attribute(
    scores: Floats,
    weights: Floats,
    num_generations: int,
    scale_rewards: str = "group",
    aggregation: str = "sum_then_normalize",
) -> Attribution:
    """Split the advantages of raw `scores` (N, R), groups of `num_generations` next to each other, in float64.

    `sum_then_normalize`: a_ik = w_k (r_ik - mean_gk) / d, with d the standard deviation of the total in the group
    (GRPO, Shao et al. 2024) or in the batch, plus 1e-4, or 1 (Dr. GRPO, Liu et al. 2025). `normalize_then_sum` (GDPO,
    arXiv 2601.05242): a_ik = w_k z_ik / d, with z_ik the reward standardised in its group and d the batch's standard
    deviation of their sum, plus 1e-4. A group whose total does not vary has no advantage and no parts.
    """
    groups = scores.astype(np.float64).reshape(-1, num_generations, scores.shape[1])
    centred = groups - groups.mean(axis=1, keepdims=True)
    constant = np.abs(centred).max(axis=1) <= ROUNDING * np.abs(groups).max(axis=1)
    if aggregation == "sum_then_normalize":
        parts, terms = weights * centred, weights * groups
    else:
        standardised = centred / (centred.std(axis=1, ddof=1, keepdims=True) + EPSILON)
        parts = terms = weights * np.where(constant[:, None], 0.0, standardised)
    total = parts.sum(axis=-1)
    flat = np.abs(total).max(axis=1) <= ROUNDING * np.abs(terms).max(axis=(1, 2))
    parts = np.where(flat[:, None, None], 0.0, parts)
    if aggregation == "normalize_then_sum":
        parts /= total.std(ddof=1) + EPSILON
    elif scale_rewards == "group":
        parts /= total.std(axis=1, ddof=1)[:, None, None] + EPSILON
    elif scale_rewards == "batch":
        parts /= (groups @ weights).std(ddof=1) + EPSILON
    parts = parts.reshape(scores.shape)
    return Attribution(parts.sum(axis=-1), parts, np.column_stack([constant, flat]))


def attribution_metrics(
    attribution: Attribution, names: Sequence[str], correct: NDArray[np.bool_], num_generations: int
) -> dict[str, float]:
    """What is logged of a step's attribution, with `correct` (N,) by completion; groups as shares of all groups."""
    figures: dict[str, float] = {}
    if (shares := attribution.shares()) is not None:
        figures |= {advantage_share(name): float(share) for name, share in zip(names, shares, strict=True)}
    flips = attribution.flips()
    figures |= {advantage_flips(name): float(flip) for name, flip in zip(names, flips, strict=True)}
    right = correct.reshape(-1, num_generations).mean(axis=1)
    *constant, flat = attribution.zero_std.T
    figures |= {
        ALL_CORRECT: float((right == 1).mean()),
        NONE_CORRECT: float((right == 0).mean()),
        MIXED: float(((right > 0) & (right < 1)).mean()),
        CORRECTNESS_CONSTANT: float((~flat & ((right == 0) | (right == 1))).mean()),
        ZERO_STD: float(flat.mean()),
    }
    return figures | {reward_zero_std(name): float(of.mean()) for name, of in zip(names, constant, strict=True)}
