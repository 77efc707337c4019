"""`Forecast`: what the completions of an untrained policy say about its training, as numbers.

`grpo.preflight` makes one; the rules of the verdict, the tables and the page read it. It knows no sampler and no file.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from grpo.config.schema import PreflightConfig
from grpo.core.metric_names import ACCURACY_STRICT, GROUPS_PREFIX, evaluated_score
from grpo.core.statistics import Floats, Interval, bootstrap_intervals, wilson_interval
from grpo.evaluation.evaluation import BINARY_FIGURES, Evaluation
from grpo.forecast.costs import Costs
from grpo.forecast.first_steps import StepSettings, simulate_first_steps
from grpo.forecast.group_shares import group_shares
from grpo.forecast.setup import SetupFacts
from grpo.rewards.completion_scores import CompletionScores
from grpo.rewards.estimators import get_estimator

GROUP_SIZES = (2, 4, 8, 16, 32)
SOLVE_RATE_BINS = ("none right", "up to 1/4", "up to 1/2", "up to 3/4", "below all", "all right")
SHOWN_COMPLETIONS = 3
NO_FOLDER = "data.difficulty=FOLDER/difficulty.jsonl"


class Estimate(NamedTuple):
    """An expected value with the bounds that contain it, or its value in one step, with 95% probability."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupForecast:
    """The expected shares of groups of `k` completions: with right and wrong ones, with a difference in the total, and
    without an advantage; and groups with right and wrong completions per 1,000 tokens of prompts and completions."""

    k: int
    mixed: Estimate
    none_right: Estimate
    all_right: Estimate
    differing: Estimate
    silent: Estimate
    mixed_per_1000_tokens: float


def share_intervals(shares: Floats) -> list[Interval]:
    """Intervals of the row means of `shares` (figures, E), over E problems, by bootstrap.

    Where all problems have the same share, resampling shows no uncertainty; Wilson's interval of E problems does.
    """
    n = shares.shape[1]
    return [
        wilson_interval(round(n * float(row[0])), n) if row.min() == row.max() else interval
        for row, interval in zip(shares, bootstrap_intervals(shares), strict=True)
    ]


class Forecast:
    """The forecast of a run from completions of E problems.

    Attributes:
        evaluation: the completions, with their scores under the weights of the first step.
        prompt_tokens: (E,) the length of each prompt.
        samples: the number of completions of each problem.
        setup, costs: what else was found out; no costs: they were not measured.
        difficulty_setting: the argument that names the file of the solve rates.
    """

    def __init__(
        self,
        config: PreflightConfig,
        evaluation: Evaluation,
        prompt_tokens: Sequence[int],
        setup: SetupFacts | None = None,
        costs: Costs | None = None,
        difficulty_setting: str = NO_FOLDER,
    ) -> None:
        self.config, self.evaluation = config, evaluation
        self.setup, self.costs = setup or SetupFacts(), costs
        self.difficulty_setting = difficulty_setting
        self.prompt_tokens = np.array(prompt_tokens, np.float64)
        (self.samples,) = set(evaluation.counts)

    @property
    def problems(self) -> int:
        return len(self.evaluation.examples)

    @property
    def completions(self) -> int:
        return self.problems * self.samples

    @cached_property
    def texts(self) -> list[str]:
        """The completions; those of one problem are adjacent."""
        return [completion.text for samples in self.evaluation.completions for completion in samples]

    @cached_property
    def scores(self) -> CompletionScores:
        """The completions as `grpo.audit completions=FILE` scores them."""
        stack, n, m = self.evaluation.rewards, self.problems, self.samples
        raw = np.column_stack([self.evaluation.values[evaluated_score(name)] for name in stack.weights])
        groups = [list(range(m * problem, m * (problem + 1))) for problem in range(n)]
        questions = [example.question for example in self.evaluation.examples]
        return CompletionScores(self.texts, stack, raw, groups, questions, failures={})

    def share(self, figure: str) -> Estimate:
        """A figure of the evaluation, with the interval of its mean over problems."""
        return Estimate(self.evaluation.figures[figure], *self.intervals[figure])

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Of each figure but pass@k and maj@k."""
        figures = {name: values for name, values in self.evaluation.by_problem.items() if "@" not in name}
        shares = {name: values for name, values in figures.items() if name in BINARY_FIGURES}
        others = {name: values for name, values in figures.items() if name not in shares}
        return dict(zip(shares, share_intervals(np.stack([*shares.values()])), strict=True)) | dict(
            zip(others, bootstrap_intervals(np.stack([*others.values()])), strict=True)
        )

    @cached_property
    def solve_rates(self) -> Floats:
        """(E,) the share of right completions of each problem, by `correct_by`."""
        return self.evaluation.by_problem[ACCURACY_STRICT]

    @cached_property
    def histogram(self) -> dict[str, int]:
        """The number of problems by the share of right completions; a bin includes its upper bound."""
        numbers = np.searchsorted([0.0, 0.25, 0.5, 0.75, 1.0 - 1e-9], self.solve_rates)
        return {name: int((numbers == number).sum()) for number, name in enumerate(SOLVE_RATE_BINS)}

    @cached_property
    def groups(self) -> dict[int, GroupForecast]:
        """K -> the forecast for groups of K; K = num_generations is one of them."""
        sizes = sorted({*GROUP_SIZES, self.config.num_generations})
        return {k: self._group_forecast(k) for k in sizes if k <= self.samples}

    @property
    def missing_k(self) -> list[int]:
        """The sizes of groups that have more completions than a problem has samples."""
        return [k for k in GROUP_SIZES if k > self.samples]

    @property
    def group(self) -> GroupForecast:
        """The forecast for the groups of the run."""
        return self.groups[self.config.num_generations]

    @property
    def cheapest_k(self) -> int | None:
        """The K with the most groups with right and wrong completions per token; None if no such group is expected."""
        best = max(self.groups, key=lambda k: self.groups[k].mixed_per_1000_tokens)
        return best if self.groups[best].mixed.value else None

    def _group_forecast(self, k: int) -> GroupForecast:
        totals = self.scores.totals.reshape(self.problems, self.samples)
        correct = self.scores.is_correct.reshape(self.problems, self.samples)
        shares = group_shares(totals, correct, k, self.config.algorithm.gate)
        columns = np.stack([shares.mixed, shares.none_right, shares.all_right, shares.differing, 1.0 - shares.learning])
        mixed, none_right, all_right, differing, silent = (
            Estimate(float(values.mean()), *interval)
            for values, interval in zip(columns, share_intervals(columns), strict=True)
        )
        prompts = 1 if self.config.share_prompts else k
        tokens = float(prompts * self.prompt_tokens.mean() + k * self.tokens.mean())
        return GroupForecast(k, mixed, none_right, all_right, differing, silent, 1000 * mixed.value / tokens)

    @cached_property
    def tokens(self) -> Floats:
        """(N,) the tokens of each completion."""
        return np.array([each.tokens for samples in self.evaluation.completions for each in samples], np.float64)

    @cached_property
    def step(self) -> dict[str, Estimate]:
        """The metrics that training logs at its first step, with the range of 95% of first steps.

        A share of groups has the range of the beta-binomial distribution, with Jeffreys' prior: of groups that were
        not sampled, draws from the sample would say that there are none.
        """
        stack, algorithm = self.evaluation.rewards, self.config.algorithm
        settings = StepSettings(
            list(stack.weights),
            self.scores.weights,
            stack.correct_by,
            self.config.num_generations,
            self.config.prompts_per_step,
            get_estimator(algorithm.advantage_estimator, algorithm.pass_k),
            algorithm.gate,
        )
        shape = self.problems, self.samples
        simulated = simulate_first_steps(
            self.scores.raw.reshape(*shape, -1), self.scores.is_correct.reshape(shape), settings
        )
        step = {
            name: Estimate(float(np.nanmean(values)), *map(float, np.nanpercentile(values, [2.5, 97.5])))
            for name, values in simulated.items()
        }
        return {
            name: Estimate(each.value, *self._range_of_groups(each.value)) if name.startswith(GROUPS_PREFIX) else each
            for name, each in step.items()
        }

    def _range_of_groups(self, share: float) -> Interval:
        """The share of the groups of a step, in 95% of steps, if it is `share` of the groups of the problems."""
        from scipy.stats import betabinom

        n, prompts = self.problems, self.config.prompts_per_step
        low, high = betabinom.ppf([0.025, 0.975], prompts, n * share + 0.5, n * (1 - share) + 0.5) / prompts
        return float(low), float(high)

    def mean_score(self, reward: str) -> float | None:
        """The mean raw score of a reward, without abstentions; None if it always abstains."""
        column = self.scores.raw[:, self.scores.names.index(reward)]
        return None if np.isnan(column).all() else float(np.nanmean(column))

    def abstentions(self, reward: str) -> float:
        """The share of completions for which a reward abstains."""
        return float(np.isnan(self.scores.raw[:, self.scores.names.index(reward)]).mean())

    @cached_property
    def frequent_answers(self) -> list[tuple[str, int]]:
        """The answers in the format, and how often each is given, the most frequent first; "" for none."""
        return Counter(answer or "" for answer in self.evaluation.answers["strict"]).most_common()

    @cached_property
    def best_rows(self) -> list[int]:
        """The rows of the completions with the highest totals, of different problems."""
        best: dict[int, int] = {}
        for row in np.argsort(-np.nan_to_num(self.scores.totals), kind="stable").tolist():
            best.setdefault(row // self.samples, row)
        return list(best.values())[:SHOWN_COMPLETIONS]

    @cached_property
    def typical_rows(self) -> list[int]:
        """The rows of completions with the total of the first quarter, the half and the third quarter."""
        order = np.argsort(np.nan_to_num(self.scores.totals), kind="stable").tolist()
        return [order[(len(order) - 1) * quarter // 4] for quarter in (1, 2, 3)]
