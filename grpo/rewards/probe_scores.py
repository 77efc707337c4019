"""The scores of the probes under a stack of rewards.

Called by `grpo.audit`; grpo/rewards/probe_rules.py judges them. It knows no finding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from time import perf_counter

import numpy as np

from grpo.core.statistics import Floats
from grpo.rewards.answer_probes import built_in_probes
from grpo.rewards.estimators import ROUNDING, Bools
from grpo.rewards.executed_code import is_of_completion, recorded_execution
from grpo.rewards.failures import AuditedScores, audit_scores, require_scores
from grpo.rewards.probe import Probe
from grpo.rewards.probe_templates import REFERENCE
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack
from grpo.tasks.answer_format import AnswerFormat, TagFormat
from grpo.tasks.answer_type import AnswerType

PROBES_NAMED = "a probe (probes=FILE takes your own)"  # in messages about columns
SECONDS_OF_TIMING = 0.2  # per reward; a reward that takes longer is timed on fewer probes


@dataclass(frozen=True)
class ProbeScores:
    """The scores of N probes under a stack.

    Attributes:
        probes: the N probes.
        names: the R rewards with a weight.
        raw: (N, R) the score of each probe by each reward; nan if it abstains.
        weighted: (N, R) the scores times the weights, 0 for an abstention; those of a probe sum to its total.
        correct_by: the reward whose positive value means that a completion is right.
        is_correct: (N,) whether it counts a probe as right.
        matches: (N,) whether the answer in the requested format is right by data.answer.
        seconds: reward -> the median time of one call.
        executed: reward -> the first probe of which it executes a part as Python code.
        failures: reward -> its scores, if it fails on a probe; the probe has no score then.
    """

    probes: tuple[Probe, ...]
    names: list[str]
    raw: Floats
    weighted: Floats
    correct_by: str
    is_correct: Bools
    matches: Bools
    seconds: dict[str, float]
    executed: dict[str, str]
    failures: dict[str, AuditedScores]

    @cached_property
    def index(self) -> dict[str, int]:
        """name of a probe -> its row."""
        return {probe.name: row for row, probe in enumerate(self.probes)}

    @cached_property
    def is_scored(self) -> Bools:
        """(N,) whether a probe has a total: a reward scores it, and none fails on it.

        A probe on which all rewards abstain has no advantage in training.
        """
        scored: Bools = np.asarray((~np.isnan(self.raw)).any(axis=1))
        for failed in self.failures.values():
            scored[list(failed.errors)] = False
        return scored

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
        return self.probes[int(np.argmax(self.totals >= self.totals.max() - self.rounding))]

    def probe(self, name: str) -> Probe:
        return self.probes[self.index[name]]

    def total(self, probe: str) -> float:
        return float(self.totals[self.index[probe]])

    def names_of_kind(self, *kinds: str) -> list[str]:
        return [probe.name for probe in self.probes if probe.kind in kinds]

    def change(self, before: str, after: str) -> tuple[float, dict[str, float]]:
        """The difference in total between two probes, and its parts: reward -> the difference that it causes."""
        parts = self.weighted[self.index[after]] - self.weighted[self.index[before]]
        return float(parts.sum()), self.nonzero_parts(parts)

    def nonzero_parts(self, parts: Floats) -> dict[str, float]:
        """reward -> its part (R,), without those that are zero up to rounding."""
        return {name: float(part) for name, part in zip(self.names, parts, strict=True) if abs(part) > self.rounding}


def score_probes(stack: RewardStack, probes: Sequence[Probe]) -> ProbeScores:
    """Score the probes.

    Raises:
        UserError: a reward fails on every probe, or takes a column that the probes do not have.
    """
    scores: dict[str, list[float]] = {}
    failures: dict[str, AuditedScores] = {}
    seconds: dict[str, float] = {}
    executed: dict[str, str] = {}
    stack.check_columns([probe.example for probe in probes], PROBES_NAMED)
    batch = _batch(probes)
    for name, weight in stack.weights.items():
        if not weight and name != stack.correct_by:
            continue
        with recorded_execution() as recorded:
            audited = require_scores(audit_scores(stack, name, batch))
        scores[name] = audited.scores
        if audited.errors:
            failures[name] = audited
        if weight:
            intact = [probe for row, probe in enumerate(probes) if row not in audited.errors]
            seconds[name] = _seconds_per_call(stack, name, intact)
        for source in recorded.sources:
            if probe := next((probe for probe in probes if is_of_completion(source, probe.completion)), None):
                executed.setdefault(name, probe.name)
    names = list(seconds)
    raw = np.array([scores[name] for name in names]).T
    weighted = np.nan_to_num(raw) * [stack.weights[name] for name in names]
    is_correct = np.array(scores[stack.correct_by]) > 0
    matches = np.array([_matches(stack.answer_type, probe) for probe in probes])
    return ProbeScores(
        tuple(probes), names, raw, weighted, stack.correct_by, is_correct, matches, seconds, executed, failures
    )


def _matches(answer_type: AnswerType, probe: Probe) -> bool:
    answer = answer_type.extract(probe.completion)
    return answer is not None and answer_type.matches(answer, probe.example)


def paid_format(stack: RewardStack) -> AnswerFormat:
    """The format for which the stack pays more: that of the run, or that of the tags `<think>` and `<answer>`.

    Raises:
        UserError: a reward takes a column that the probes do not have; or there are none for the type of answers.
    """
    formats = stack.answer_format, TagFormat("think")
    references = [
        next(probe for probe in built_in_probes(stack.answer_type.name, paid) if probe.name == REFERENCE)
        for paid in formats
    ]
    stack.check_columns([probe.example for probe in references], PROBES_NAMED)
    batch = _batch(references)
    asked, thinking = stack.total({name: audit_scores(stack, name, batch).scores for name in stack.weights})
    return formats[thinking > asked + ROUNDING * abs(asked)]


def _batch(probes: Sequence[Probe]) -> ScoringBatch:
    return ScoringBatch([probe.completion for probe in probes], [probe.example for probe in probes])


def _seconds_per_call(stack: RewardStack, name: str, probes: Sequence[Probe]) -> float:
    """The median time of scoring one probe, over as many probes as fit into `SECONDS_OF_TIMING`."""
    seconds: list[float] = []
    start = perf_counter()
    for probe in probes:
        before = perf_counter()
        stack.score_one(name, _batch([probe]))
        after = perf_counter()
        seconds.append(after - before)
        if after - start > SECONDS_OF_TIMING:
            break
    return median(seconds)
