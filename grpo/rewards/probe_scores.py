"""The scores of the probes under a stack of rewards.

Called by `grpo.audit`; grpo/rewards/probe_findings.py judges them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grpo.core.statistics import Floats
from grpo.rewards.advantages import ROUNDING
from grpo.rewards.probes import PROBE_INDEX, PROBES, Probe
from grpo.rewards.stack import RewardStack


@dataclass(frozen=True)
class ProbeScores:
    """The battery's scores under a stack.

    Attributes:
        names: the R rewards with a weight.
        raw: (N, R) their scores of each probe.
        parts: (N, R) the same times their weights; those of a probe sum to its total.
    """

    names: list[str]
    raw: Floats
    parts: Floats

    @cached_property
    def totals(self) -> Floats:
        return self.parts.sum(axis=1)

    @cached_property
    def rounding(self) -> float:
        """A difference up to this is none."""
        return ROUNDING * float(np.abs(self.parts).max())

    @cached_property
    def best(self) -> Probe:
        """The first probe with the highest total."""
        return PROBES[int(np.argmax(self.totals >= self.totals.max() - self.rounding))]

    def total(self, probe: str) -> float:
        return float(self.totals[PROBE_INDEX[probe]])

    def change(self, before: str, after: str) -> tuple[float, dict[str, float]]:
        """By how much the total differs between two probes, and the rewards that made the difference."""
        parts = self.parts[PROBE_INDEX[after]] - self.parts[PROBE_INDEX[before]]
        return float(parts.sum()), self.made_of(parts)

    def made_of(self, parts: Floats) -> dict[str, float]:
        return {name: float(part) for name, part in zip(self.names, parts, strict=True) if abs(part) > self.rounding}


def score_probes(stack: RewardStack) -> ProbeScores:
    """Score the battery.

    Raises:
        UserError: a reward raised, or returned something else than a finite number for each completion.
    """
    columns = zip(*((probe.completion, probe.gold, probe.question) for probe in PROBES), strict=True)
    scores = stack.score(*map(list, columns))
    names = [name for name, weight in stack.weights.items() if weight]
    raw = np.array([scores[name] for name in names]).T
    return ProbeScores(names, raw, raw * [stack.weights[name] for name in names])
