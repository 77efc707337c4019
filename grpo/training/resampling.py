"""Dynamic sampling: groups without advantages are replaced by groups of further prompts, in at most
`algorithm.resample` rounds (DAPO, Yu et al. 2025, arXiv 2503.14476, section 3.2).

Wraps methods of `GRPOTrainer` (TRL 1.16); with `algorithm.resample=0` they are unchanged:

- `_generate_and_score_completions` samples and scores a batch. Ours first samples, scores and replaces groups, then
  calls TRL's with the resulting batch.
- `_generate_single_turn` and `_calculate_rewards` are thereby called a second time. They then return the completions
  and scores of that batch, so TRL computes masks, log-probabilities, advantages and metrics as for any other.

The completions of a group may be split over processes. Scores are gathered, so all processes find the same groups
without advantages and draw the same further prompts. Each process samples an equal part of the further completions, as
engines need; these are gathered, and each process takes those that belong to its part of the batch. This module does
not know how completions are sampled, scored, or made into advantages.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grpo.core import distributed
from grpo.core.metric_names import CORRECT, GROUPS_DISCARDED, GROUPS_DRAWN, PROMPTS_CONSUMED, RESAMPLING_ROUNDS
from grpo.rewards.estimators import Bools
from grpo.training.checkpointing import CheckpointingMixin
from grpo.training.prompt_order import PromptOrder
from grpo.training.reward_adapter import ScoringMixin
from grpo.training.sampling_adapter import SamplingMixin


@dataclass(frozen=True)
class ScoredCompletion:
    """A completion as it passes between processes.

    Attributes:
        row: the row of TRL's dataset.
        token_ids: its tokens.
        logps: their log-probabilities in an engine that reports them.
        columns: what rewards have logged about it.
    """

    row: dict[str, Any]
    token_ids: list[int]
    logps: list[float] | None
    columns: dict[str, Any]


class ResamplingMixin(SamplingMixin, ScoringMixin, CheckpointingMixin):
    """The part of `Trainer` that replaces groups without advantages."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._further_prompts = PromptOrder(len(self.train_dataset), self.args.seed)
        self._prompts_consumed = 0
        # The completions of this process and the scores (N, R) of all processes, while TRL makes a batch of them.
        self._resampled: tuple[list[ScoredCompletion], Tensor] | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.recorder.config.algorithm.resample or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        with self._without_metrics():
            self._set_reward_weights()
            completions, scores = self._sample(inputs)
            correct, rounds = self._replace_groups(completions, scores)
        for column in {name for completion in completions for name in completion.columns}:
            self._pending_extra_logs[column].extend(completion.columns.get(column) for completion in completions)
        self._resampled = completions, scores
        try:
            batch = super()._generate_and_score_completions([completion.row for completion in completions])
        finally:
            self._resampled = None
        metrics = self._metrics["train"]
        drawn, trained = len(correct) // self.num_generations, len(scores) // self.num_generations  # groups
        self._prompts_consumed += drawn
        metrics[RESAMPLING_ROUNDS].append(rounds)
        metrics[GROUPS_DRAWN].append(drawn)
        metrics[GROUPS_DISCARDED].append(drawn - trained)
        metrics[PROMPTS_CONSUMED] = [self._prompts_consumed]
        if not self._has_nonfinite_score:
            # Of all groups drawn: those that are trained on are selected, and would not show how good the policy is.
            metrics[CORRECT][-1] = float(correct.mean())
        return batch

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], list | None]:
        if self._resampled is None:
            return super()._generate_single_turn(*args, **kwargs)
        completions, _ = self._resampled
        logps = [completion.logps for completion in completions]
        return [completion.token_ids for completion in completions], None if logps[0] is None else logps

    def _score(self, *args: Any) -> Tensor:
        return super()._score(*args) if self._resampled is None else self._resampled[1]

    @contextmanager
    def _without_metrics(self) -> Iterator[None]:
        """Discards what TRL logs of a sample; TRL logs the batch once it is complete."""
        metrics, tokens = self._metrics["train"], self.state.num_input_tokens_seen
        self._metrics["train"] = type(metrics)(list)
        try:
            yield
        finally:
            self._metrics["train"], self.state.num_input_tokens_seen = metrics, tokens

    def _sample(self, inputs: list[dict[str, Any]]) -> tuple[list[ScoredCompletion], Tensor]:
        """A completion for each row of this process, and the scores (N, R) of those of all processes."""
        prompts = [row["prompt"] for row in inputs]
        _, token_ids, _, texts, logps, *_ = self._generate(prompts)
        scores = self._score(inputs, prompts, texts, token_ids)
        logged = self._pending_extra_logs
        columns = [{name: values[i] for name, values in logged.items()} for i in range(len(inputs))]
        logged.clear()
        completions = map(ScoredCompletion, inputs, token_ids, logps or [None] * len(inputs), columns)
        return list(completions), scores

    def _replace_groups(self, completions: list[ScoredCompletion], scores: Tensor) -> tuple[Bools, int]:
        """Replace, in place, groups without advantages by groups with advantages, as long as there are prompts.

        Args:
            completions: those of this process.
            scores: (N, R) those of all processes.

        Returns:
            Whether each completion that was drawn is right, and the number of rounds.
        """
        k, first = self.num_generations, self.accelerator.process_index * len(completions)
        of_processes = distributed.gather_objects([completion.row["row"] for completion in completions])
        tried = {row for rows in of_processes for row in rows}
        correct, rounds = [self._are_correct(scores)], 0
        while rounds < self.recorder.config.algorithm.resample and (replaced := self._lack_advantages(scores)).any():
            prompts = self._draw_prompts(int(replaced.sum()), tried)
            if not prompts:
                break
            tried.update(prompts)
            new, new_scores = self._sample_together(prompts)
            rounds += 1
            correct.append(self._are_correct(new_scores))
            retained = torch.as_tensor(np.repeat(~replaced, k), device=scores.device)
            new_lack_advantages = self._lack_advantages(torch.cat((scores[retained], new_scores)))[-len(prompts) :]
            # If more groups were drawn than are replaced, those without advantages are left out first.
            order = np.argsort(new_lack_advantages, kind="stable")
            for old_row, new_row in zip(_rows(np.flatnonzero(replaced), k), _rows(order, k), strict=False):
                scores[old_row] = new_scores[new_row]
                if 0 <= old_row - first < len(completions):
                    completions[old_row - first] = new[new_row]
            if new_scores.isinf().any():  # a score is not finite: the step is skipped, even if its group is left out
                scores.fill_(torch.inf)
        return np.concatenate(correct), rounds

    def _lack_advantages(self, scores: Tensor) -> Bools:
        """Which groups (G,) have no advantage; none if a score is not finite, because the step is then skipped."""
        if scores.isinf().any():
            return np.zeros(len(scores) // self.num_generations, dtype=bool)
        return self._attribute(scores).zero_std[:, -1]

    def _draw_prompts(self, groups: int, tried: set[int]) -> list[int]:
        """Prompts for at least `groups` groups, or for fewer if not enough prompts are untried.

        Their number is such that every process samples the same number of completions.
        """
        processes = self.accelerator.num_processes
        multiple = processes // gcd(self.num_generations, processes)
        excluded = set(tried)
        if self.curriculum is not None:
            excluded |= self.curriculum.outside(self.state.global_step, self.state.max_steps)
        untried = self._further_prompts.count - len(excluded)
        return self._further_prompts.take(min(ceil(groups / multiple), untried // multiple) * multiple, excluded)

    def _sample_together(self, prompts: list[int]) -> tuple[list[ScoredCompletion], Tensor]:
        """A group of completions for each prompt, sampled in equal parts by all processes, and their scores (N, R)."""
        rows = [row for prompt in prompts for row in [self.train_dataset[prompt]] * self.num_generations]
        share = len(rows) // self.accelerator.num_processes
        first = self.accelerator.process_index * share
        of_process, scores = self._sample(rows[first : first + share])
        return [completion for part in distributed.gather_objects(of_process) for completion in part], scores

    # Checkpoints

    def _run_state(self) -> dict[str, Any]:
        further = {"position": self._further_prompts.position, "consumed": self._prompts_consumed}
        return super()._run_state() | {"further_prompts": further}

    def _restore_run_state(self, state: dict[str, Any]) -> None:
        super()._restore_run_state(state)
        if further := state.get("further_prompts"):  # older checkpoints have none
            self._further_prompts.position, self._prompts_consumed = further["position"], further["consumed"]


def _rows(groups: Iterable[int], k: int) -> list[int]:
    """The indices of the completions of groups of k."""
    return [int(group) * k + i for group in groups for i in range(k)]
