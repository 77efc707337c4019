"""Rewards inside TRL's trainer: our rewards as TRL calls them, and the parts of the advantages as metrics.

Replaces, in TRL 1.16: `GRPOTrainer._calculate_rewards`, wrapped, to log what each reward adds to the advantages and to
keep scores that are not finite away from the loss.
"""

import math
from typing import Any

import torch
from torch import Tensor

from grpo.core import distributed
from grpo.rewards.advantages import attribute, measure
from grpo.rewards.scoring import NotFinite, score
from grpo.training.nonfinite import NonFiniteGuard


class RewardFunction:
    """Our reward `name` as TRL calls it, by the rule `answer_match`; with `log_columns` it also hands question and gold
    to TRL's table.

    Scores that are not finite are nan throughout, so that all processes come to know of them where TRL gathers them;
    `trouble` says what was wrong with them.
    """

    def __init__(self, name: str, answer_match: str, log_columns: bool) -> None:
        self.__name__, self.answer_match, self.log_columns = name, answer_match, log_columns
        self.trouble = ""

    def __call__(
        self, completions: list[Any], gold: list[str], question: list[str], log_extra: Any, **_: Any
    ) -> list[float]:
        if self.log_columns:
            log_extra("question", question)
            log_extra("gold", gold)
        try:
            self.trouble = ""
            texts = [messages[0]["content"] for messages in completions]
            return score(self.__name__, texts, gold, question, self.answer_match)
        except NotFinite as error:
            self.trouble = str(error)
            return [math.nan] * len(completions)


class ScoringMixin(NonFiniteGuard):
    """The part of `Trainer` that scores completions."""

    def _calculate_rewards(self, *args: Any) -> Tensor:
        """The raw scores (N, R) of all ranks' completions; logs what their advantages are made of."""
        self.recorder.progress.show_phase("scoring")
        scores: Tensor = super()._calculate_rewards(*args)
        troubles = [function.trouble for function in self.reward_funcs if function.trouble]
        self._unscored = bool(scores.isnan().any())
        if self._unscored:
            _, prompts, completions, *_ = args
            first, *_ = (each for of_rank in distributed.gather_objects(troubles) for each in of_rank)
            self._not_finite(first.rstrip("."), [], {"prompt": prompts, "completion": completions})
            return torch.full_like(scores, math.nan)  # TRL would take the others for the whole
        if self.model.training:
            raw = scores.cpu().double().numpy()
            split = attribute(
                raw,
                self.reward_weights.double().cpu().numpy(),
                self.num_generations,
                self.scale_rewards,
                self.multi_objective_aggregation,
            )
            correct = raw[:, self.reward_func_names.index("correctness")] > 0
            figures = measure(split, self.reward_func_names, correct, self.num_generations)
            for name, value in figures.items():
                self._metrics["train"][name].append(value)
        return scores
