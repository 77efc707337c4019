"""The registry of rewards: `REWARDS`, and the decorator that adds a function to it.

Used by grpo/rewards/built_in.py and verbatim.py, and by reward files, which import it as `from grpo.rewards import
reward`. It knows nothing of weights, scores or files.

Add a reward without touching this package: decorate a function in your own Python file with `@reward`, name the
file in `reward_files=[my_rewards.py]` and give it a weight, `+rewards.<function name>=0.1`.
"""

import inspect
from collections.abc import Callable
from typing import Any

from grpo.core.errors import UserError

RewardFunction = Callable[..., Any]
REWARDS: dict[str, RewardFunction] = {}
ARGUMENTS = ("completion", "gold", "question", "example")
ANSWER_TYPE_ARGUMENT = "answer_type"  # the argument that gives a reward the type of answers, data.answer


def reward(function: RewardFunction) -> RewardFunction:
    """Register `function` as a reward under its own name, without a trailing underscore (`int_` -> `int`).

    It takes any of `completion`, `gold`, `question`, `example` and returns a number. Or it scores a batch: it takes any
    of `completions`, `golds`, `questions`, `examples` and returns a list with one number for each completion; the
    completions of the same prompt are adjacent. Both kinds may also take `answer_type`, an `AnswerType` of
    grpo/tasks/answer_types.py.

    Raises:
        UserError: the name is taken, or the function takes other arguments.
    """
    name = function.__name__.removesuffix("_")
    if name in REWARDS:
        raise UserError(f"reward '{name}' is defined twice; the name is taken. Give the function another name.")
    parameters = inspect.signature(function).parameters
    single, batched = set(ARGUMENTS), {f"{argument}s" for argument in ARGUMENTS}
    inputs = parameters.keys() - {ANSWER_TYPE_ARGUMENT}
    if not inputs or not (inputs <= single or inputs <= batched):
        raise UserError(
            f"reward '{name}' takes ({', '.join(parameters)}); a reward takes any of ({', '.join(ARGUMENTS)}), "
            f"or any of ({', '.join(f'{argument}s' for argument in ARGUMENTS)}) for a batch."
        )
    REWARDS[name] = function
    return function
