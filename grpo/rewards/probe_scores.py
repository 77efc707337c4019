"""The scores of the probes under a stack of rewards.

Called by `grpo.audit`; grpo/rewards/probe_rules.py judges them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grpo.core.statistics import Floats
from grpo.rewards.advantages import ROUNDING
from grpo.rewards.probes import PROBE_INDEX, PROBES, Probe
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack
from grpo.tasks.example import Example


@dataclass(frozen=True)
class ProbeScores:
    """The scores of the N probes under a stack.

    Attributes:
        names: the R rewards with a weight.
        raw: (N, R) the score of each probe by each reward.
        weighted: (N, R) the scores times the weights; those of a probe sum to its total.
    """

    names: list[str]
    raw: Floats
    weighted: Floats

    @cached_property
    def totals(self) -> Floats:
        """(N,) the weighted sum of each probe's scores."""
        return self.weighted.sum(axis=1)

    @cached_property
    def rounding(self) -> float:
        """The largest difference that counts as a rounding error."""
        return ROUNDING * float(np.abs(self.weighted).max())

    @cached_property
    def best(self) -> Probe:
        """The first probe with the highest total."""
        return PROBES[int(np.argmax(self.totals >= self.totals.max() - self.rounding))]

    def total(self, probe: str) -> float:
        return float(self.totals[PROBE_INDEX[probe]])

    def change(self, before: str, after: str) -> tuple[float, dict[str, float]]:
        """The difference in total between two probes, and its parts: reward -> the difference that it causes."""
        parts = self.weighted[PROBE_INDEX[after]] - self.weighted[PROBE_INDEX[before]]
        return float(parts.sum()), self.nonzero_parts(parts)

    def nonzero_parts(self, parts: Floats) -> dict[str, float]:
        """reward -> its part (R,), without those that are zero up to rounding."""
        return {name: float(part) for name, part in zip(self.names, parts, strict=True) if abs(part) > self.rounding}


def score_probes(stack: RewardStack) -> ProbeScores:
    """Score the probes.

    Raises:
        UserError: a reward raised, or did not return a finite number for each completion.
    """
    examples = [Example(probe.question, probe.gold) for probe in PROBES]
    stack.check_columns(examples, "a probe of the audit")
    scores = stack.score(ScoringBatch([probe.completion for probe in PROBES], examples))
    names = [name for name, weight in stack.weights.items() if weight]
    raw = np.array([scores[name] for name in names]).T
    return ProbeScores(names, raw, raw * [stack.weights[name] for name in names])
