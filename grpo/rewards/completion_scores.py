"""Completions of a file under a stack of rewards: their scores, correlations, and shares of the variance in a group.

Called by `grpo.audit completions=FILE`. It knows nothing of files; the caller reads them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from grpo.core.statistics import Floats
from grpo.rewards.advantages import ROUNDING, Attribution, attribute
from grpo.rewards.findings import Finding, format_score, join_with_and
from grpo.rewards.stack import RewardStack
from grpo.tasks.example import Example

SAME_SIGNAL = 0.95  # two rewards that correlate above this teach the same


@dataclass(frozen=True)
class CompletionScores:
    """Completions of a file under a stack.

    Attributes:
        completions: (N) texts.
        stack: R rewards, those of weight 0 included.
        scores: (N, R) raw.
        groups: the places of the completions of each group.
    """

    completions: list[str]
    stack: RewardStack
    scores: Floats
    groups: list[list[int]]

    @property
    def names(self) -> list[str]:
        return list(self.stack.weights)

    @property
    def weights(self) -> Floats:
        return np.array(list(self.stack.weights.values()))

    @property
    def totals(self) -> Floats:
        return self.scores @ self.weights

    @cached_property
    def attribution(self) -> Attribution:
        """The advantages of groups of two and more under `scale_rewards: none`, and their parts."""
        parts, spread = [np.zeros((0, len(self.names)))], [np.zeros((0, len(self.names) + 1), dtype=bool)]
        for size in sorted({len(group) for group in self.groups} - {1}):
            places = [place for group in self.groups if len(group) == size for place in group]
            of_size = attribute(self.scores[places], self.weights, size, scale_rewards="none")
            parts.append(of_size.parts)
            spread.append(of_size.zero_std)
        joined = np.concatenate(parts)
        return Attribution(joined.sum(axis=1), joined, np.concatenate(spread))

    def correlations(self) -> Floats:
        """Pearson's r (R + 1, R + 1) of the rewards and, last, the total; NaN where one does not vary."""
        columns = np.column_stack([self.scores, self.totals])
        centred = columns - columns.mean(axis=0)
        centred[:, np.abs(centred).max(axis=0) <= ROUNDING * np.abs(columns).max(axis=0)] = 0.0
        norms = np.sqrt((centred**2).sum(axis=0))
        products = np.outer(norms, norms)
        return np.divide(centred.T @ centred, products, out=np.full_like(products, np.nan), where=products > 0)

    def judge(self) -> Iterator[Finding]:
        """What is found, warnings first."""
        names, correlations, shares = self.names, self.correlations(), self.attribution.shares()
        paid = [k for k in range(len(names)) if self.weights[k]]
        if constant := [
            f"{names[k]} ({format_score(self.scores[0, k])})" for k in paid if np.isnan(correlations[k, k])
        ]:
            yield Finding("warning", f"The same score for every completion: {join_with_and(constant)}.")
        alone = all(len(group) == 1 for group in self.groups)
        if shares is not None:
            if against := [f"{names[k]} ({shares[k]:.1%})" for k in paid if shares[k] <= -0.0005]:
                text = f"Pulling against the total, with a negative share of its variance: {join_with_and(against)}."
                yield Finding("warning", text)
        elif not alone:
            yield Finding("warning", "The total does not vary within any group: no completion has an advantage.")
        for i, j in combinations(paid, 2):
            if correlations[i, j] > SAME_SIGNAL:
                yield Finding(
                    "note", f"{names[i]} and {names[j]} pay for the same: they correlate by {correlations[i, j]:.3f}."
                )
        if alone:
            yield Finding(
                "note",
                "Every group is a single completion, so nothing can be said of what moves a policy; give several "
                "completions of each question.",
            )


def score_completions(
    stack: RewardStack, examples: Sequence[Example], batch: Mapping[tuple[int, int], str]
) -> CompletionScores:
    """Score the completions (problem, sample) -> text of `examples`.

    Raises:
        UserError: a reward failed.
    """
    groups: list[list[int]] = [[] for _ in examples]
    places = sorted(batch)  # completions of one question next to each other, as in training
    for row, (problem, _) in enumerate(places):
        groups[problem].append(row)
    texts = [batch[place] for place in places]
    asked = [examples[problem] for problem, _ in places]
    scores = stack.score(texts, [example.gold for example in asked], [example.question for example in asked])
    return CompletionScores(texts, stack, np.array(list(scores.values())).T, groups)
