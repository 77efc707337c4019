"""The advantages of a step with the exact part of each reward: from raw scores, in float64.

`attribute` applies an estimator of grpo/rewards/estimators.py. The trainer calls it on every step, and `grpo.audit`
without any training, so it is in grpo/rewards. For the estimators that TRL has, TRL computes the advantages that train:
a change in this module alone changes the curves and the audit, not the training, and fails the tests that compare both.
For the other estimators, and with a gate, the trainer takes the advantages from here. It knows no models or losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo.core.metric_names import (
    ALL_CORRECT,
    CORRECT,
    CORRECTNESS_CONSTANT,
    MIXED,
    NONE_CORRECT,
    PHANTOM,
    PHANTOM_ALL_CORRECT,
    PHANTOM_NONE_CORRECT,
    ZERO_STD,
    advantage_flips,
    advantage_share,
    reward_zero_std,
)
from grpo.core.statistics import Floats
from grpo.rewards.estimators import Bools, Estimator, GroupScores, gdpo, group_std


@dataclass(frozen=True)
class Attribution:
    """The advantages of a step and their parts.

    Attributes:
        advantages: (N,) A_i.
        parts: (N, R) a_ik; the parts of a completion sum to its advantage. None: the estimator is not linear, or the
            advantages are a placebo.
        zero_std: (G, R + 1) whether a reward is constant inside a group; the last column: a group has no advantage.
    """

    advantages: Floats
    parts: Floats | None
    zero_std: Bools

    def shares(self) -> Floats | None:
        """Each reward's share (R,) of the squared advantages: sum_i a_ik A_i / sum_i A_i^2. The shares sum to 1.

        None if no completion has an advantage or there are no parts. A negative share: the reward acts against the
        total.
        """
        power = float(self.advantages @ self.advantages)
        return self.advantages @ self.parts / power if power and self.parts is not None else None

    def flips(self) -> Floats | None:
        """The fraction of completions (R,) whose advantage would change its sign without the reward."""
        if self.parts is None:
            return None
        without = self.advantages[:, None] - self.parts
        return (self.advantages[:, None] * without < 0).mean(axis=0)


def attribute(
    scores: Floats,
    weights: Floats,
    num_generations: int,
    estimator: Estimator = group_std,
    gated: Bools | None = None,
) -> Attribution:
    """Compute the advantages of raw scores and their parts, in float64.

    An abstention, nan, adds 0 to the total. A completion for which all rewards with a weight abstain has no advantage
    and is not part of means and standard deviations. `gdpo` standardizes each reward over the completions that it
    scores.

    Args:
        scores: (N, R) raw scores; the completions of a group, `num_generations` of them, are adjacent.
        weights: (R,) the weight of each reward.
        gated: (G, R) rewards that count in a group as if their weight were 0 (`gate_rewards`).
    """
    groups = scores.astype(np.float64).reshape(-1, num_generations, scores.shape[1])
    scored = ~np.isnan(groups)
    weighted = weights != 0 if weights.any() else np.full(len(weights), True)

    def group_scores(active: Bools) -> GroupScores:
        counted = np.broadcast_to((scored & active)[:, :, weighted].any(axis=-1, keepdims=True), scored.shape) & active
        if estimator is gdpo:
            counted = counted & scored
        return GroupScores(np.where(scored & active, groups, 0.0), counted)

    everything = group_scores(np.full_like(scored, True))
    effective = everything if gated is None else group_scores(np.broadcast_to(~gated[:, None], scored.shape))
    parts, has_no_advantage = estimator(effective, weights)
    zero_std = np.column_stack([everything.constant_rewards(), has_no_advantage])
    if parts.ndim == 2:
        return Attribution(parts.reshape(-1), None, zero_std)
    parts = parts.reshape(scores.shape)
    return Attribution(parts.sum(axis=-1), parts, zero_std)


def gate_rewards(gate: str, correct: Bools, num_generations: int, is_shaping: Bools) -> Bools | None:
    """Which rewards (G, R) count in a group as if their weight were 0; None: all count everywhere.

    Args:
        gate: "correctness": shaping rewards, in groups in which all or no completions are right; "none_right": in
            groups without a right completion; "off".
        correct: (N,) whether each completion is right.
        is_shaping: (R,) which rewards are shaping rewards: all but correct_by.
    """
    if gate == "off":
        return None
    groups = correct.reshape(-1, num_generations)
    closed: Bools = ~np.any(groups, axis=1)
    if gate == "correctness":
        closed |= groups.all(axis=1)
    return closed[:, None] & is_shaping


def attribution_metrics(
    attribution: Attribution, names: Sequence[str], correct: Bools, num_generations: int
) -> dict[str, float]:
    """The logged metrics of a step's attribution.

    Args:
        names: the R rewards.
        correct: (N,) whether each completion is correct.

    Returns:
        Name of the metric -> its value. Counts of groups are fractions of all groups.
    """
    metrics: dict[str, float] = {}
    if (shares := attribution.shares()) is not None:
        metrics |= {advantage_share(name): float(share) for name, share in zip(names, shares, strict=True)}
    if (flips := attribution.flips()) is not None:
        metrics |= {advantage_flips(name): float(flip) for name, flip in zip(names, flips, strict=True)}
    fraction_correct = correct.reshape(-1, num_generations).mean(axis=1)
    all_correct, none_correct = fraction_correct == 1, fraction_correct == 0
    *constant_rewards, has_no_advantage = attribution.zero_std.T
    squares = (attribution.advantages**2).reshape(-1, num_generations).sum(axis=1)
    if power := squares.sum():
        metrics |= {
            PHANTOM: float(squares[all_correct | none_correct].sum() / power),
            PHANTOM_NONE_CORRECT: float(squares[none_correct].sum() / power),
            PHANTOM_ALL_CORRECT: float(squares[all_correct].sum() / power),
        }
    metrics |= {
        CORRECT: float(correct.mean()),
        ALL_CORRECT: float(all_correct.mean()),
        NONE_CORRECT: float(none_correct.mean()),
        MIXED: float((~all_correct & ~none_correct).mean()),
        CORRECTNESS_CONSTANT: float((~has_no_advantage & (all_correct | none_correct)).mean()),
        ZERO_STD: float(has_no_advantage.mean()),
    }
    return metrics | {
        reward_zero_std(name): float(constant.mean()) for name, constant in zip(names, constant_rewards, strict=True)
    }
