"""Scoring of completions: figures of held-out problems, by the functions that also train the policy.

Called by training runs and `grpo.evaluate`. It must not import torch: completions from elsewhere are scored without a
policy.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from grpo.core.errors import UserError
from grpo.core.metric_format import format_accuracies
from grpo.core.metric_names import (
    ACCURACY_FLEXIBLE,
    ACCURACY_STRICT,
    MEAN_COMPLETION_TOKENS,
    REWARD,
    SOFT_FORMAT,
    STRICT_FORMAT,
    TRUNCATED,
    abstained,
    evaluated_score,
)
from grpo.core.progress import progress
from grpo.core.statistics import (
    MAX_SAMPLES,
    Floats,
    Interval,
    bootstrap_intervals,
    maj_at_k,
    pass_at_k,
    wilson_interval,
)
from grpo.evaluation.completion import Completion, CompletionBatch, scoring_batch
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack
from grpo.tasks.answer_types import accuracy_labels
from grpo.tasks.example import Example

# Figures that are 0 or 1 for each completion.
BINARY_FIGURES = (ACCURACY_STRICT, ACCURACY_FLEXIBLE, STRICT_FORMAT, SOFT_FORMAT, TRUNCATED)


def evaluate_completions(
    examples: Sequence[Example],
    batches: Iterable[CompletionBatch],
    rewards: RewardStack,
    k: Sequence[int] | None = None,
    on_answered: Callable[[int, str], None] = lambda count, text: None,
) -> "Evaluation":
    """Score completions of `examples`; `on_answered` gets the number of new ones, and the accuracies so far as text."""
    completions: list[dict[int, Completion]] = [{} for _ in examples]
    labels = accuracy_labels(rewards.answer_type, rewards.correct_by)
    right, total = dict.fromkeys(labels, 0), 0
    for batch in batches:
        if batch:
            new = scoring_batch(list(batch.values()), [examples[i] for i, _ in batch])
            right[ACCURACY_STRICT] += sum(score > 0 for score in rewards.score_one(rewards.correct_by, new))
            right[ACCURACY_FLEXIBLE] += sum(_match(_extract_anywhere(new, rewards), new, rewards))
        total += len(batch)
        for (i, sample), completion in batch.items():
            completions[i][sample] = completion if rewards.may_read_ids else replace(completion, ids=None)
        shares = {name: count / max(1, total) for name, count in right.items()}
        on_answered(len(batch), format_accuracies(shares, labels))
    in_order = [[samples[number] for number in sorted(samples)] for samples in completions]
    return Evaluation(list(examples), in_order, rewards, k)


def _extract_anywhere(batch: ScoringBatch, rewards: RewardStack) -> list[str | None]:
    """The answer of each completion, whatever its format."""
    return [rewards.answer_type.extract_anywhere(text) for text in batch.completions]


def _match(answers: Sequence[str | None], batch: ScoringBatch, rewards: RewardStack) -> list[bool]:
    """Whether each of the answers to the problems of `batch` is right."""
    return [
        answer is not None and rewards.answer_type.matches(answer, example)
        for answer, example in zip(answers, batch.examples, strict=True)
    ]


class Evaluation:
    """The completions of every problem, and their scores.

    Attributes:
        values: name -> its value (N,) for each completion; those of one problem are adjacent.
        by_problem: figure -> its mean (E,) for each of the E problems, or its estimate.
        figures: figure -> its mean over the problems: `accuracy_strict` (the reward `correct_by` is above 0),
            `accuracy_flexible` (the answer is right, whatever its format), `strict_format`, `soft_format` and
            `truncated` as shares, `mean_completion_tokens`, `reward` (the weighted total) and `rewards/<name>` as raw
            scores, both without abstentions, and their share, `abstained/<name>`, if there are any; with several
            completions per problem also `pass@k` and `maj@k`, of strict answers, and `/flexible`.
    """

    def __init__(
        self,
        examples: list[Example],
        completions: list[list[Completion]],
        rewards: RewardStack,
        k: Sequence[int] | None = None,
    ) -> None:
        assert all(completions) and len(completions) == len(examples) > 0
        self.examples, self.completions, self.rewards = examples, completions, rewards
        self.counts = [len(samples) for samples in completions]
        flat = [completion for samples in completions for completion in samples]
        of_samples = [example for example, count in zip(examples, self.counts, strict=True) for _ in range(count)]
        batch, answer_type = scoring_batch(flat, of_samples), rewards.answer_type
        texts = batch.completions
        scores = rewards.score(batch)
        self.answers = {
            "strict": [answer_type.extract(text) for text in texts],
            "flexible": _extract_anywhere(batch, rewards),
        }
        self.right = {
            "strict": [score > 0 for score in scores[rewards.correct_by]],
            "flexible": _match(self.answers["flexible"], batch, rewards),
        }
        values: dict[str, list[Any]] = {
            ACCURACY_STRICT: self.right["strict"],
            ACCURACY_FLEXIBLE: self.right["flexible"],
            STRICT_FORMAT: [score > 0 for score in rewards.score_one("strict_format", batch)],
            SOFT_FORMAT: [score > 0 for score in rewards.score_one("soft_format", batch)],
            TRUNCATED: [completion.truncated for completion in flat],
            MEAN_COMPLETION_TOKENS: [completion.tokens for completion in flat],
            REWARD: rewards.total(scores),
            **{evaluated_score(name): column for name, column in scores.items()},
        }
        values |= {
            abstained(name): [math.isnan(score) for score in column]
            for name, column in scores.items()
            if any(map(math.isnan, column))
        }
        self.values = {
            name: np.array(column, dtype=np.float64) for name, column in values.items() if None not in column
        }
        self.starts = np.cumsum([0, *self.counts[:-1]])
        self.by_problem = {
            name: self._mean_of_problems(column) for name, column in self.values.items() if not np.isnan(column).all()
        }
        self.has_single_samples = max(self.counts) == 1
        # Figures that are a single 0 or 1 for each problem.
        self.binary = [name for name in self.by_problem if self.has_single_samples and name in BINARY_FIGURES]
        self._add_at_k(list(k or []))
        self.figures = {name: float(np.nanmean(column)) for name, column in self.by_problem.items()}

    def _mean_of_problems(self, column: Floats) -> Floats:
        """The mean (E,) of the values (N,) of each problem without abstentions, nan; nan if there are only those."""
        known = ~np.isnan(column)
        sums, counts = (np.add.reduceat(values, self.starts) for values in (np.where(known, column, 0.0), known * 1.0))
        return np.divide(sums, counts, out=np.full_like(sums, math.nan), where=counts > 0)

    def _add_at_k(self, requested: list[int]) -> None:
        fewest, most = min(self.counts), max(self.counts)
        if requested and max(requested) > fewest:
            raise UserError(f"k={requested}: a problem has only {fewest} completions; k must not exceed that.")
        if most > MAX_SAMPLES:
            raise UserError(
                f"a problem has {most:,} completions; pass@k and maj@k are computed for at most {MAX_SAMPLES:,}."
            )
        if self.has_single_samples:
            return
        sizes = sorted({*requested, *(2**i for i in range(fewest.bit_length()))})
        with progress("pass@k and maj@k", 2 * len(sizes), lasting=False) as advance:
            for kind, suffix in (("strict", ""), ("flexible", "/flexible")):
                right, wrong = self._votes(kind)
                for k in sizes:
                    passed = [pass_at_k(n, c, k) for n, c in zip(self.counts, right, strict=True)]
                    voted = [maj_at_k(n, c, w, k) for n, c, w in zip(self.counts, right, wrong, strict=True)]
                    self.by_problem[f"pass@{k}{suffix}"] = np.array(passed)
                    self.by_problem[f"maj@{k}{suffix}"] = np.array(voted)
                    if k == most:
                        self.binary.append(f"pass@{k}{suffix}")
                    advance(1, "")

    def _votes(self, kind: str) -> tuple[list[int], list[tuple[int, ...]]]:
        """For each problem, the number of right completions, and the number that agree on each wrong answer."""
        right_counts, wrong_counts = [], []
        for start, count in zip(self.starts, self.counts, strict=True):
            right = self.right[kind][start : start + count]
            answers = zip(right, self.answers[kind][start : start + count], strict=True)
            wrong = [answer for is_right, answer in answers if not is_right and answer is not None]
            votes = Counter(map(self.rewards.answer_type.voting_key, wrong))
            right_counts.append(sum(right))
            wrong_counts.append(tuple(sorted(votes.values())))
        return right_counts, wrong_counts

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95% intervals: Wilson's for figures that are 0 or 1 for each problem, else by bootstrap over the problems."""
        n = len(self.examples)
        by_wilson = {name: wilson_interval(round(float(self.by_problem[name].sum())), n) for name in self.binary}
        others = [name for name in self.by_problem if name not in by_wilson]
        return by_wilson | dict(
            zip(others, bootstrap_intervals(np.stack([self.by_problem[name] for name in others])), strict=True)
        )

    def with_at_k(self, sampled: "Evaluation") -> "Evaluation":
        """This evaluation with pass@k and maj@k of `sampled`, several completions of each of the same problems."""
        combined, at_k = copy(self), [name for name in sampled.by_problem if "@" in name]
        combined.__dict__.pop("intervals", None)  # cached
        combined.by_problem = self.by_problem | {name: sampled.by_problem[name] for name in at_k}
        combined.figures = self.figures | {name: sampled.figures[name] for name in at_k}
        combined.binary = self.binary + [name for name in sampled.binary if name in at_k]
        return combined

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the two accuracies in tables."""
        return accuracy_labels(self.rewards.answer_type, self.rewards.correct_by)

    def as_json(self) -> dict[str, Any]:
        intervals = {name: list(interval) for name, interval in self.intervals.items()}
        return {"n": len(self.examples), **self.figures, "intervals": intervals}

    def as_metrics(self, prefix: str) -> dict[str, float]:
        """Each figure and the bounds of its interval, after `prefix`: `eval/reward`, `eval/reward_low`."""
        low = {f"{prefix}{name}_low": interval[0] for name, interval in self.intervals.items()}
        high = {f"{prefix}{name}_high": interval[1] for name, interval in self.intervals.items()}
        return {f"{prefix}{name}": value for name, value in self.figures.items()} | low | high

    def row_examples(self) -> list[Example]:
        """The problem of each row of `columns`."""
        return [example for example, count in zip(self.examples, self.counts, strict=True) for _ in range(count)]

    def columns(self) -> dict[str, list[Any]]:
        """The columns of a table with a row for each completion."""
        rows = [
            (i, number, example, completion)
            for i, (example, samples) in enumerate(zip(self.examples, self.completions, strict=True))
            for number, completion in enumerate(samples)
        ]
        ids = [completion.ids for *_, completion in rows]
        return {
            "problem": [i for i, _, _, _ in rows],
            "sample": [number for _, number, _, _ in rows],
            "question": [example.question for _, _, example, _ in rows],
            "gold": [example.gold for _, _, example, _ in rows],
            "completion": [completion.text for *_, completion in rows],
            "tokens": [completion.tokens for *_, completion in rows],
            "truncated": [completion.truncated for *_, completion in rows],
            **({"completion_ids": ids} if any(ids) else {}),
            "answer_strict": self.answers["strict"],
            "answer_flexible": self.answers["flexible"],
            **{
                name: column.astype(bool).tolist() if name in BINARY_FIGURES else column.tolist()
                for name, column in self.values.items()
                if name not in (TRUNCATED, MEAN_COMPLETION_TOKENS)
            },
        }
