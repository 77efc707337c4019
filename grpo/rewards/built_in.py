"""The five rewards of the default stack (conf/rewards/default.yaml), each a small function of one completion.

Importing this module registers them. What a format is, grpo/tasks/answer_format.py knows; they know nothing of weights.
"""

from grpo.rewards.registry import reward
from grpo.tasks.answer_format import AnswerFormat
from grpo.tasks.answer_type import AnswerType
from grpo.tasks.example import Example
from grpo.tasks.numbers import INTEGER


@reward
def correctness(completion: str, example: Example, answer_type: AnswerType) -> float:
    """2.0 if the answer in the requested format is right by `answer_type`, the type of data.answer."""
    answer = answer_type.extract(completion)
    return 2.0 if answer is not None and answer_type.matches(answer, example) else 0.0


@reward
def int_(completion: str, answer_format: AnswerFormat) -> float:
    """0.5 if the answer in the requested format is an integer in ASCII digits; thousands commas are allowed."""
    answer = answer_format.extract_answer(completion)
    return 0.5 if answer is not None and INTEGER.fullmatch(answer) else 0.0


@reward
def strict_format(completion: str, answer_format: AnswerFormat) -> float:
    """0.5 if the completion is exactly the format: each tag once and on its own line, and no block is blank."""
    return 0.5 if answer_format.is_exact(completion) else 0.0


@reward
def soft_format(completion: str, answer_format: AnswerFormat) -> float:
    """0.5 if reasoning is followed by an answer anywhere, and neither is blank."""
    return 0.5 if answer_format.has_reasoning_and_answer(completion) else 0.0


@reward
def xmlcount(completion: str, answer_format: AnswerFormat) -> float:
    """0.5 if each tag occurs once and on its own line, or that share of it, minus 0.001 per character after the answer.

    One line break after the answer is free.
    """
    charged = len(answer_format.text_after(completion).removeprefix("\n"))
    return max(0.0, 0.5 * answer_format.share_of_tags(completion) - 0.001 * charged)
