"""The rewards of a run with their weights: `RewardStack`, and `build_rewards`, which makes one from the configuration.

Called by the trainer, the evaluation and `grpo.audit`, which all score with the same functions. It knows nothing of
advantages and training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grpo.config.limits import MAX_WEIGHT
from grpo.config.weights import Weight, WeightSchedule, format_weight, format_weights, parse_weight
from grpo.core.errors import UserError, suggest_name
from grpo.rewards.registry import REWARDS
from grpo.rewards.reward_files import REWARD_SOURCES, load_reward_files
from grpo.rewards.scoring import score_reward
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.tasks.answer_type import AnswerType
from grpo.tasks.answer_types import ANSWER_TYPES


@dataclass(frozen=True)
class RewardStack:
    """The rewards of a run and their weights in the total; a reward with weight 0 is measured only.

    Attributes:
        weights: reward -> weight; if the weight has a schedule, its value at the end of the schedule.
        answer_type: what counts as a right answer, data.answer.
        correct_by: the reward whose positive value means that a completion is right.
        schedules: reward -> schedule, of the rewards whose weight changes during training.
    """

    weights: dict[str, float]
    answer_type: AnswerType = ANSWER_TYPES["number"]
    correct_by: str = "correctness"
    schedules: dict[str, WeightSchedule] = field(default_factory=dict)

    @property
    def trained(self) -> list[str]:
        """The rewards that have a weight other than 0 at some step of training."""
        return [
            name
            for name, weight in self.weights.items()
            if weight or (name in self.schedules and self.schedules[name].start)
        ]

    def weights_at(self, step: int, last_step: int) -> dict[str, float]:
        """The weights in force after `step` of `last_step` optimizer steps; they depend on nothing else."""
        return self.weights | {name: schedule.at(step, last_step) for name, schedule in self.schedules.items()}

    def with_weights(self, weights: dict[str, float]) -> "RewardStack":
        """The same rewards with constant weights."""
        return replace(self, weights=weights, schedules={})

    def stages(self) -> dict[str, "RewardStack"]:
        """The stack itself; with schedules, the stacks of constant weights at their start and their end, by title."""
        if not self.schedules:
            return {"": self}
        stages = {
            "at the start of training": self.with_weights(self.weights_at(0, 1)),
            "at the end of the schedules": self.with_weights(self.weights),
        }
        return {title: stack for title, stack in stages.items() if stack.trained}

    def describe_weights(self) -> str:
        """The weights for people: `correctness 1, xmlcount 1 to 0 until 0.5`."""
        return format_weights(self.weights | self.schedules)

    def score(self, batch: ScoringBatch) -> dict[str, list[float]]:
        """The raw, unweighted scores: `{reward: [score of each completion]}`."""
        return {name: self.score_one(name, batch) for name in self.weights}

    def score_one(self, name: str, batch: ScoringBatch) -> list[float]:
        """The raw scores of one reward, which need not be in the stack."""
        return score_reward(name, batch, self.answer_type)

    def total(self, scores: dict[str, list[float]]) -> list[float]:
        """The sum of `scores`, weighted with `weights`, for each completion."""
        columns = [[weight * value for value in scores[name]] for name, weight in self.weights.items()]
        return [math.fsum(row) for row in zip(*columns, strict=True)]


def build_rewards(
    weights: Mapping[str, Any],
    files: Sequence[str] = (),
    answer_type: str = "number",
    correct_by: str = "correctness",
) -> RewardStack:
    """The rewards of a run, after loading `files`. `correct_by` is measured in any case.

    Args:
        weights: the settings `rewards`: reward -> a number, or the mapping of a schedule.

    Raises:
        UserError: a reward is unknown, a weight is not finite or too large, all weights are always zero, or a package
            that the answer type needs is not installed.
    """
    ANSWER_TYPES[answer_type].check_package()
    load_reward_files(files)
    parsed = {name: parse_weight(setting) for name, setting in weights.items()}
    for name, weight in parsed.items():
        _check_reward(name, weight)
    if correct_by not in REWARDS:
        raise UserError(
            f"correct_by={correct_by}: there is no reward '{correct_by}'.{suggest_name(correct_by, REWARDS)}"
        )
    schedules = {name: weight for name, weight in parsed.items() if isinstance(weight, WeightSchedule)}
    final = {name: weight.end if isinstance(weight, WeightSchedule) else weight for name, weight in parsed.items()}
    measured = {**final, correct_by: final.get(correct_by, 0.0)}
    stack = RewardStack(measured, ANSWER_TYPES[answer_type], correct_by, schedules)
    if not stack.trained:
        raise UserError(
            "rewards: every weight is 0, so there is nothing to train on; give at least one reward a weight."
        )
    return stack


def _check_reward(name: str, weight: Weight) -> None:
    """
    Raises:
        UserError: there is no such reward, or its weight is not finite or too large.
    """
    if name not in REWARDS:
        for file in REWARD_SOURCES.values():
            if name in file.functions():
                raise UserError(f"rewards.{name}: in {file.path}, {name} has no decorator; write @reward above it.")
        raise UserError(f"rewards.{name}: there is no reward '{name}'.{suggest_name(name, REWARDS)}")
    values = [weight.start, weight.end] if isinstance(weight, WeightSchedule) else [weight]
    if not all(abs(value) <= MAX_WEIGHT for value in values):
        raise UserError(
            f"rewards.{name}={format_weight(weight)}: a weight is a finite number between -{MAX_WEIGHT:g} and "
            f"{MAX_WEIGHT:g}."
        )
