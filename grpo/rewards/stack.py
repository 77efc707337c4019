"""The rewards of a run with their weights: `RewardStack`, and `build_rewards`, which makes one from the configuration.

Called by the trainer, the evaluation and `grpo.audit`, which all score with the same functions. It knows nothing of
advantages and training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grpo.config.limits import MAX_WEIGHT
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
        weights: reward -> weight.
        answer_type: what counts as a right answer, data.answer.
        correct_by: the reward whose positive value means that a completion is right.
    """

    weights: dict[str, float]
    answer_type: AnswerType
    correct_by: str

    def score(self, batch: ScoringBatch) -> dict[str, list[float]]:
        """The raw, unweighted scores: `{reward: [score of each completion]}`."""
        return {name: self.score_one(name, batch) for name in self.weights}

    def score_one(self, name: str, batch: ScoringBatch) -> list[float]:
        """The raw scores of one reward, which need not be in the stack."""
        return score_reward(name, batch, self.answer_type)

    def total(self, scores: dict[str, list[float]]) -> list[float]:
        """The weighted sum of `scores` for each completion."""
        columns = [[weight * value for value in scores[name]] for name, weight in self.weights.items()]
        return [math.fsum(row) for row in zip(*columns, strict=True)]


def build_rewards(
    weights: dict[str, float],
    files: Sequence[str] = (),
    answer_type: str = "number",
    correct_by: str = "correctness",
) -> RewardStack:
    """The rewards of a run, after loading `files`. `correct_by` is measured in any case.

    Raises:
        UserError: a reward is unknown, a weight is not finite or too large, all weights are zero, or a package that the
            answer type needs is not installed.
    """
    ANSWER_TYPES[answer_type].check_package()
    load_reward_files(files)
    for name, weight in weights.items():
        if name not in REWARDS:
            for file in REWARD_SOURCES.values():
                if name in file.functions():
                    raise UserError(f"rewards.{name}: in {file.path}, {name} has no decorator; write @reward above it.")
            raise UserError(f"rewards.{name}: there is no reward '{name}'.{suggest_name(name, REWARDS)}")
        if not abs(weight) <= MAX_WEIGHT:
            raise UserError(
                f"rewards.{name}={weight}: a weight is a finite number between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}."
            )
    if not any(weights.values()):
        raise UserError(
            "rewards: every weight is 0, so there is nothing to train on; give at least one reward a weight."
        )
    if correct_by not in REWARDS:
        raise UserError(
            f"correct_by={correct_by}: there is no reward '{correct_by}'.{suggest_name(correct_by, REWARDS)}"
        )
    return RewardStack({**weights, correct_by: weights.get(correct_by, 0.0)}, ANSWER_TYPES[answer_type], correct_by)
