"""Scoring inside TRL's trainer: our rewards as TRL calls them, and what each contributes to the advantages.

Wraps one method of `GRPOTrainer` (TRL 1.16): `_calculate_rewards` gathers the scores of all processes. Ours also logs
how the advantages split among the rewards (`grpo.rewards.advantages`), and rejects a rollout with a score that is not
finite: TRL would leave that reward out without a message.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grpo.core import distributed
from grpo.core.metric_names import reward_weight
from grpo.rewards.advantages import attribute, attribution_metrics
from grpo.rewards.scoring import NonFiniteReward
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack
from grpo.tasks.example import Example
from grpo.training.nonfinite import NonFiniteMixin


class TrlReward:
    """The reward `name` as TRL calls it: (completions, rows of the problems) -> one score for each completion.

    If a score is not finite, all scores are nan, so that every process sees it where TRL gathers them, and `fault` says
    which score was wrong. With `log_rows`, TRL's log of completions receives the rows.
    """

    def __init__(self, name: str, rewards: RewardStack, examples: Sequence[Example], log_rows: bool) -> None:
        self.__name__, self.rewards, self.examples, self.log_rows = name, rewards, examples, log_rows
        self.fault = ""

    def __call__(self, completions: list[Any], row: list[int], log_extra: Any, **_: Any) -> list[float]:
        if self.log_rows:
            log_extra("row", row)
        try:
            self.fault = ""
            texts = [messages[0]["content"] for messages in completions]
            batch = ScoringBatch(texts, [self.examples[index] for index in row])
            return self.rewards.score_one(self.__name__, batch)
        except NonFiniteReward as error:
            self.fault = str(error)
            return [math.nan] * len(completions)


class ScoringMixin(NonFiniteMixin):
    """The part of `Trainer` that scores completions."""

    def _calculate_rewards(self, *args: Any) -> Tensor:
        """The raw scores (N, R) of the N completions of all processes; nan throughout if one is not finite."""
        self.recorder.progress.show_phase("scoring")
        self._set_reward_weights()
        scores: Tensor = super()._calculate_rewards(*args)
        faults = [function.fault for function in self.reward_funcs if function.fault]
        self._has_nonfinite_score = bool(scores.isnan().any())
        if self._has_nonfinite_score:
            _, prompts, completions, *_ = args
            first, *_ = (fault for of_process in distributed.gather_objects(faults) for fault in of_process)
            self._skip_or_stop(first.rstrip("."), [], {"prompt": prompts, "completion": completions})
            return torch.full_like(scores, math.nan)
        if self.model.training:
            self._log_attribution(scores)
        return scores

    def _set_reward_weights(self) -> None:
        """Set TRL's weights (R,) to those of this step; they hold for the rollout that is scored now.

        TRL reads them once per rollout, after the scores. All processes are at the same step.
        """
        rewards = self.recorder.rewards
        if not rewards.schedules:
            return
        weights = rewards.weights_at(self.state.global_step, self.state.max_steps)
        self.recorder.completion_log.weights = weights
        self.reward_weights = torch.tensor(list(weights.values()), dtype=torch.float32)
        for name in rewards.schedules:
            self._metrics["train"][reward_weight(name)].append(weights[name])

    def _log_attribution(self, scores: Tensor) -> None:
        """Add the metrics of the advantages that `scores` (N, R) lead to; TRL logs their means over a step."""
        raw = scores.cpu().double().numpy()
        attribution = attribute(
            raw,
            self.reward_weights.double().cpu().numpy(),
            self.num_generations,
            self.scale_rewards,
            self.multi_objective_aggregation,
        )
        correct = raw[:, self.reward_func_names.index(self.recorder.rewards.correct_by)] > 0
        metrics = attribution_metrics(attribution, self.reward_func_names, correct, self.num_generations)
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
