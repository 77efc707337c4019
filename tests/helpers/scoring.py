"""Scores of single rewards, and answers compared by a type of answers."""

from collections.abc import Sequence

from grpo.rewards.binding import RewardSettings
from grpo.rewards.scoring import score_reward
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.tasks.answer_format import DEFAULT_FORMAT, AnswerFormat
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.example import Example


def batch_of(completions: Sequence[str], golds: Sequence[str] = (), questions: Sequence[str] = ()) -> ScoringBatch:
    """A batch of completions; the gold answer is 1 and the question ? if none are given."""
    rows = zip(questions or ["?"] * len(completions), golds or ["1"] * len(completions), strict=True)
    return ScoringBatch(completions, [Example(question, gold) for question, gold in rows])


def score(
    name: str,
    completions: Sequence[str],
    golds: Sequence[str] = (),
    questions: Sequence[str] = (),
    answer: str = "number",
    answer_format: AnswerFormat = DEFAULT_FORMAT,
) -> list[float]:
    """The scores of one reward."""
    settings = RewardSettings(ANSWER_TYPES[answer].in_format(answer_format))
    return score_reward(name, batch_of(completions, golds, questions), settings)


def is_right(answer: str, gold: str, answer_type: str = "number") -> bool:
    """Whether an answer is right under a type of answers."""
    return ANSWER_TYPES[answer_type].matches(answer, Example("?", gold))
