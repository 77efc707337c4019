"""Scoring inside TRL's trainer: our rewards as TRL calls them, and what each contributes to the advantages.

Wraps two methods of `GRPOTrainer` (TRL 1.16):

- `_calculate_rewards` gathers the scores of all processes. Ours also logs how the advantages split among the rewards
  (`grpo.rewards.advantages`), and rejects a rollout with a score that is not finite. A score of nan is an abstention
  there, which TRL leaves out of the total.
- `_generate_and_score_completions` returns the batch of this process. Ours replaces its advantages if TRL lacks the
  estimator, with a gate, and with a placebo.

This module knows no formula of advantages, and does not know how completions are sampled.
"""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from logging import LogRecord, getLogger
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trl.trainer.utils import nanstd

from grpo.core import distributed
from grpo.core.console import say
from grpo.core.metric_names import abstained, reward_mean, reward_seconds, reward_std, reward_weight
from grpo.core.statistics import Floats
from grpo.rewards.advantages import Attribution, attribute, attribution_metrics, gate_rewards
from grpo.rewards.estimators import Bools, get_estimator
from grpo.rewards.placebo import permute_within_groups
from grpo.rewards.reward_files import SHIPPED_REWARDS
from grpo.rewards.reward_log import ROW
from grpo.rewards.scoring import NonFiniteReward
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack
from grpo.tasks.example import Example
from grpo.training.arguments import TRL_ESTIMATORS
from grpo.training.nonfinite import NonFiniteMixin


class TrlReward:
    """The reward `name` as TRL calls it: (completions, rows of the problems) -> one score for each completion.

    If a score is not finite, all scores are infinite, so that every process sees it where TRL gathers them, and `fault`
    says which score was wrong. With `log_rows`, TRL's log of completions receives the rows. `seconds` is how long the
    calls took since it was set to 0.
    """

    def __init__(
        self,
        name: str,
        rewards: RewardStack,
        examples: Sequence[Example],
        end_token_ids: Collection[int],
        log_rows: bool,
    ) -> None:
        self.__name__, self.rewards, self.examples, self.log_rows = name, rewards, examples, log_rows
        self.end_token_ids = set(end_token_ids)
        self.fault, self.seconds = "", 0.0

    def __call__(
        self,
        completions: list[Any],
        completion_ids: list[list[int]],
        row: list[int],
        trainer_state: Any,
        log_metric: Any,
        log_extra: Any,
        **_: Any,
    ) -> list[float]:
        if self.log_rows:
            log_extra(ROW, row)
        batch = ScoringBatch(
            [messages[0]["content"] for messages in completions],
            [self.examples[index] for index in row],
            completion_ids,
            completion_tokens=[len(ids) for ids in completion_ids],
            truncated=[not ids or ids[-1] not in self.end_token_ids for ids in completion_ids],
            step=trainer_state.global_step + 1,
            max_steps=trainer_state.max_steps,
            trainer_state=trainer_state,
            log_metric=log_metric,
            log_extra=log_extra,
        )
        started = time.perf_counter()
        try:
            self.fault = ""
            return self.rewards.score_one(self.__name__, batch)
        except NonFiniteReward as error:
            self.fault = str(error)
            return [math.inf] * len(completions)
        finally:
            self.seconds += time.perf_counter() - started


def _is_not_about_abstentions(record: LogRecord) -> bool:
    return not record.getMessage().startswith("All reward functions returned None")


@contextmanager
def _without_trl_warning() -> Iterator[None]:
    """Leaves out TRL's warning, of several lines, about rows without a score; `ScoringMixin` prints one line."""
    logger = getLogger("trl.trainer.grpo_trainer")
    logger.addFilter(_is_not_about_abstentions)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_about_abstentions)


class ScoringMixin(NonFiniteMixin):
    """The part of `Trainer` that scores completions."""

    _has_reported_unscored = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        config, rewards = self.recorder.config, self.recorder.rewards
        algorithm = config.algorithm
        self._estimator = get_estimator(algorithm.advantage_estimator, algorithm.pass_k)
        is_trls = algorithm.advantage_estimator in TRL_ESTIMATORS
        self._trl_computes_advantages = is_trls and algorithm.gate == "off" and not config.placebo
        self._is_shaping = np.array([name != rewards.correct_by for name in self.reward_func_names])
        self._rollout_advantages: Floats | None = None  # (N,) of the rollout that is scored, of all processes
        self._scores: Tensor | None = None  # (N, R) of that rollout, if TRL gets others

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rollout_advantages = self._scores = None
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self._rollout_advantages is not None and not self._trl_computes_advantages:
            advantages, count = batch["advantages"], len(inputs)
            first = self.accelerator.process_index * count
            batch["advantages"] = advantages.new_tensor(self._rollout_advantages[first : first + count])
            # TRL's log holds one rollout: these are its values in completions/.
            self._logs["advantages"].extend(self._rollout_advantages.tolist())
        if self._scores is not None:
            self._replace_logged_scores(self._scores)
        return batch

    def _replace_logged_scores(self, scores: Tensor) -> None:
        """Replace the scores of the rollout in TRL's log, and their means and standard deviations, by `scores` (N, R).

        TRL has nan for completions without a total, although a reward with weight 0 may have scored them.
        """
        metrics: Any = self._metrics["train"]
        logged: Any = self._logs["rewards"]
        for name, column in zip(self.reward_func_names, scores.T, strict=True):
            logged[name].extend(column.tolist())
            metrics[reward_mean(name)][-1] = torch.nanmean(column).item()
            metrics[reward_std(name)][-1] = nanstd(column).item()

    def _calculate_rewards(self, *args: Any) -> Tensor:
        """The raw scores (N, R) of the N completions of all processes; nan throughout if one is not finite.

        A completion for which every reward with a weight abstains has no score at all: TRL then leaves it out of its
        group. A reward that is only measured would otherwise make it one with a total of 0.
        """
        self._set_reward_weights()
        extra: Any = self._logs["extra"]
        for column, values in extra.items():
            if column != ROW:  # a reward need not log its columns on every step
                values.clear()
        scores = self._score(*args)
        own_seconds = [function.seconds for function in self.reward_funcs]
        for function in self.reward_funcs:
            function.seconds = 0.0
        faults = [function.fault for function in self.reward_funcs if function.fault]
        self._has_nonfinite_score = bool(scores.isinf().any())
        if self._has_nonfinite_score:
            _, prompts, completions, *_ = args
            first, *_ = (fault for of_process in distributed.gather_objects(faults) for fault in of_process)
            self._skip_or_stop(first.rstrip("."), [], {"prompt": prompts, "completion": completions})
            return torch.full_like(scores, math.nan)
        if not self.model.training:
            return scores
        self._log_attribution(scores)
        self._log_seconds_and_abstentions(own_seconds, scores)
        weighted = (self.reward_weights != 0).to(scores.device)
        has_no_total = scores[:, weighted].isnan().all(dim=1) & weighted.any()
        if has_no_total.any():
            self._scores = scores
            self._report_unscored(int(has_no_total.sum()), len(scores))
        return scores.masked_fill(has_no_total[:, None], math.nan)

    def _log_seconds_and_abstentions(self, own_seconds: list[float], scores: Tensor) -> None:
        """Log the seconds that each reward took in the slowest process, and the share of its abstentions.

        Args:
            own_seconds: (R,) of this process.
            scores: (N, R) of all processes.
        """
        metrics: Any = self._metrics["train"]
        seconds = distributed.gather_objects(own_seconds)
        for name, of_processes in zip(self.reward_func_names, zip(*seconds, strict=True), strict=True):
            metrics[reward_seconds(name)].append(max(of_processes))
        for name, column in zip(self.reward_func_names, scores.T, strict=True):
            if name not in SHIPPED_REWARDS:
                metrics[abstained(name)].append(column.isnan().float().mean().item())

    def _report_unscored(self, unscored: int, completions: int) -> None:
        """Print, once per run, how many completions of a step no reward with a weight has scored."""
        if self._has_reported_unscored:
            return
        self._has_reported_unscored = True
        say(
            f"Step {self.state.global_step + 1}: every reward with a weight abstains for {unscored} of {completions} "
            "completions; they have no advantage. Further steps are not reported."
        )

    def _score(self, *args: Any) -> Tensor:
        """The raw scores (N, R) of the N completions of all processes; TRL calls the rewards."""
        self.recorder.progress.show_phase("scoring")
        with _without_trl_warning():
            scores: Tensor = super()._calculate_rewards(*args)
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
        attribution, correct, config = self._attribute(scores), self._are_correct(scores), self.recorder.config
        if config.placebo:
            step = self.state.global_step
            attribution = permute_within_groups(attribution, self.num_generations, config.seed, step)
        self._rollout_advantages = attribution.advantages
        metrics = attribution_metrics(attribution, self.reward_func_names, correct, self.num_generations)
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def _attribute(self, scores: Tensor) -> Attribution:
        """The advantages that raw scores (N, R) lead to, and their parts."""
        correct, weights = self._are_correct(scores), self.reward_weights.double().cpu().numpy()
        gated = gate_rewards(self.recorder.config.algorithm.gate, correct, self.num_generations, self._is_shaping)
        return attribute(scores.cpu().double().numpy(), weights, self.num_generations, self._estimator, gated)

    def _are_correct(self, scores: Tensor) -> Bools:
        """Whether each completion (N,) is right, by raw scores (N, R)."""
        is_right: Bools = scores.cpu().numpy()[:, ~self._is_shaping][:, 0] > 0
        return is_right
