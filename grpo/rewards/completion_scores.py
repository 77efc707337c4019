"""Scores of completions under a stack of rewards, and the findings about the stack: correlations and shares.

Called by `grpo.audit completions=FILE`. It knows nothing of files; the caller reads them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby
from operator import itemgetter

import numpy as np

from grpo.core.errors import shorten
from grpo.core.statistics import Floats
from grpo.rewards.advantages import Attribution, attribute
from grpo.rewards.estimators import ROUNDING, Bools, no_scaling
from grpo.rewards.failures import THEN, AuditedScores, audit_scores, require_scores
from grpo.rewards.finding import Finding, format_score, join_with_and
from grpo.rewards.inverted_pairs import InvertedPairs, find_inverted_pairs
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack

SAME_SIGNAL = 0.95  # two rewards that correlate more than this give the policy the same signal


@dataclass(frozen=True)
class CompletionScores:
    """The scores of N completions under a stack.

    Attributes:
        completions: the N texts.
        stack: the R rewards, including those with weight 0.
        raw: (N, R) the score of each completion by each reward; nan if it abstains.
        groups: the rows of the completions of each group.
        questions: the question of each group.
        failures: reward -> its scores, if it fails on a completion; the completion has no total then.
    """

    completions: list[str]
    stack: RewardStack
    raw: Floats
    groups: list[list[int]]
    questions: list[str]
    failures: dict[str, AuditedScores]

    @property
    def names(self) -> list[str]:
        return list(self.stack.weights)

    @property
    def weights(self) -> Floats:
        return np.array(list(self.stack.weights.values()))

    @cached_property
    def weighted(self) -> Floats:
        """(N, R) the scores times the weights, 0 for an abstention."""
        return np.nan_to_num(self.raw) * self.weights

    @cached_property
    def totals(self) -> Floats:
        """(N,) the sum of the weighted scores; nan if all rewards with a weight abstain, or one fails."""
        unscored: Bools = np.asarray(np.isnan(self.raw[:, self.weights != 0]).all(axis=1))
        for failed in self.failures.values():
            unscored[list(failed.errors)] = True
        return np.where(unscored, np.nan, self.weighted.sum(axis=1))

    @cached_property
    def is_correct(self) -> Bools:
        """(N,) whether the reward `correct_by` counts a completion as right."""
        return self.raw[:, self.names.index(self.stack.correct_by)] > 0

    @cached_property
    def inverted_pairs(self) -> InvertedPairs:
        rounding = ROUNDING * float(np.abs(self.weighted).max())
        return find_inverted_pairs(self.totals, self.is_correct, self.groups, rounding)

    @cached_property
    def attribution(self) -> Attribution:
        """The advantages and their parts in groups of at least two, without scaling."""
        parts, zero_std = [np.zeros((0, len(self.names)))], [np.zeros((0, len(self.names) + 1), dtype=bool)]
        for size in sorted({len(group) for group in self.groups} - {1}):
            rows = [row for group in self.groups if len(group) == size for row in group]
            attribution = attribute(self.raw[rows], self.weights, size, no_scaling)
            assert attribution.parts is not None
            parts.append(attribution.parts)
            zero_std.append(attribution.zero_std)
        joined = np.concatenate(parts)
        return Attribution(joined.sum(axis=1), joined, np.concatenate(zero_std))

    @cached_property
    def spreads(self) -> Floats:
        """(R,) the standard deviation of the weighted scores within the groups."""
        deviations = [self.weighted[rows] - self.weighted[rows].mean(axis=0) for rows in self.groups]
        return np.sqrt((np.concatenate(deviations) ** 2).mean(axis=0))

    def correlations(self) -> Floats:
        """Pearson correlations (R + 1, R + 1) of the rewards and, last, the total; NaN if one of a pair is constant."""
        columns = np.column_stack([self.raw, self.totals])
        known = ~np.isnan(columns)
        means = np.where(known, columns, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        columns = np.where(known, columns, means)  # an abstention adds nothing to a covariance
        centered = columns - means
        centered[:, np.abs(centered).max(axis=0) <= ROUNDING * np.abs(columns).max(axis=0)] = 0.0
        norms = np.sqrt((centered**2).sum(axis=0))
        products = np.outer(norms, norms)
        return np.divide(centered.T @ centered, products, out=np.full_like(products, np.nan), where=products > 0)


def score_completions(stack: RewardStack, batch: ScoringBatch, problems: Sequence[int]) -> CompletionScores:
    """Score N completions; `problems` (N,) are the numbers of the problems that they answer, from 0, in order.

    Raises:
        UserError: a reward fails on every completion.
    """
    groups = [[row for row, _ in rows] for _, rows in groupby(enumerate(problems), key=itemgetter(1))]
    audited = {name: require_scores(audit_scores(stack, name, batch)) for name in stack.weights}
    failures = {name: each for name, each in audited.items() if each.errors}
    raw = np.array([each.scores for each in audited.values()]).T
    questions = [batch.examples[rows[0]].question for rows in groups]
    return CompletionScores(list(batch.completions), stack, raw, groups, questions, failures)


def _constant_score(column: Floats) -> str:
    known = column[~np.isnan(column)]
    return format_score(known[0]) if len(known) else "it abstains"


def judge_completions(scores: CompletionScores) -> Iterator[Finding]:
    """All findings, warnings first."""
    names, correlations, shares = scores.names, scores.correlations(), scores.attribution.shares()
    weighted = [k for k in range(len(names)) if scores.weights[k]]
    for reward, failed in scores.failures.items():
        first = shorten(repr(scores.completions[next(iter(failed.errors))]))
        of_all = f"{len(failed.errors):,} of {len(scores.completions):,} completions"
        text = f"{reward} fails on {of_all}: {failed.describe_first(reward)}. The first: {first}. {THEN}"
        yield Finding("warning", text)
    pairs = scores.inverted_pairs
    if pairs.inverted:
        count = f"{pairs.inverted:,} of {pairs.comparable:,} pairs ({pairs.inverted / pairs.comparable:.1%})"
        text = f"Wrong outscores right in {count} of completions of the same question; {scores.stack.correct_by} says "
        yield Finding("warning", f"{text}which is right.")
    constant = [k for k in weighted if np.isnan(correlations[k, k])]
    if constant:
        listing = join_with_and(f"{names[k]} ({_constant_score(scores.raw[:, k])})" for k in constant)
        yield Finding("warning", f"The same score for every completion: {listing}.")
    all_single = all(len(group) == 1 for group in scores.groups)
    if shares is not None:
        if negative := [f"{names[k]} ({shares[k]:.1%})" for k in weighted if shares[k] <= -0.0005]:
            text = f"Acting against the total, with a negative share of its variance: {join_with_and(negative)}."
            yield Finding("warning", text)
    elif not all_single:
        yield Finding("warning", "The total does not vary within any group: no completion has an advantage.")
    for i, j in combinations(weighted, 2):
        if correlations[i, j] > SAME_SIGNAL:
            text = f"{names[i]} and {names[j]} pay for the same: their correlation is {correlations[i, j]:.3f}."
            yield Finding("note", text)
    if all_single:
        yield Finding(
            "note",
            "Every group is a single completion, which has no advantage, so the shares of the rewards are unknown; "
            "give several completions of each question.",
        )
