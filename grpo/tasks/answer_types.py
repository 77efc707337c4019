"""The types of answers: the values of data.answer, each an object that says what counts as right.

Called by rewards, evaluations and datasets. A new type is a class in a file of its own, and a row in `ANSWER_TYPES`.
This module knows no rule of any type.
"""

from collections.abc import Mapping

from grpo.config.rules import ANSWER_TYPE_NAMES
from grpo.config.schema import DEFAULT_CORRECT_BY, CommonConfig
from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.tasks.answer_format import answer_format_of
from grpo.tasks.answer_type import AnswerType
from grpo.tasks.choice_answer import ChoiceAnswer
from grpo.tasks.equation_answer import EquationAnswer
from grpo.tasks.math_answer import MathAnswer
from grpo.tasks.number_answer import NumberAnswer, StrictAnswer
from grpo.tasks.reasoning_gym import ReasoningGymAnswer
from grpo.tasks.text_answer import TextAnswer

ANSWER_TYPES: dict[str, AnswerType] = {
    answer_type.name: answer_type
    for answer_type in (
        NumberAnswer(),
        StrictAnswer(),
        TextAnswer(),
        ChoiceAnswer(),
        MathAnswer(),
        EquationAnswer(),
        ReasoningGymAnswer(),
    )
}


def accuracy_labels(answer_type: AnswerType, correct_by: str) -> dict[str, str]:
    """The labels of the two accuracies in tables, for an answer type and the reward that says what is right."""
    strict = answer_type.label if correct_by == DEFAULT_CORRECT_BY else f"by the reward {correct_by}"
    return {ACCURACY_STRICT: f"right {strict}", ACCURACY_FLEXIBLE: f"right as {answer_type.anywhere_label}"}


def describe_correctness(strict: bool, flexible: bool, labels: Mapping[str, str]) -> str:
    """Whether one answer is right, in words; `labels` are those of the two accuracies, which count it."""
    requested = labels[ACCURACY_STRICT].removeprefix("right ")
    return "right" if strict else f"right, but not {requested}" if flexible else "wrong"


def accuracy_labels_of(config: CommonConfig) -> dict[str, str]:
    """The labels of the two accuracies of a run or an evaluation with these settings."""
    return accuracy_labels(
        ANSWER_TYPES[config.data.answer].in_format(answer_format_of(config.format)), config.correct_by
    )


assert set(ANSWER_TYPES) == set(ANSWER_TYPE_NAMES)
