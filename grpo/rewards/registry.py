"""The table of rewards, and the decorator that enters a function into it.

Called by grpo/rewards/built_in.py and verbatim.py, and by reward files, which import it as `from grpo.rewards import
reward`. It knows nothing of weights, scores or files.

Add a reward without touching this package: decorate a function in a Python file of your own with `@reward`, name the
file in `reward_files=[my_rewards.py]` and give it a weight, `+rewards.<function name>=0.1`.
"""

import inspect
from collections.abc import Callable
from typing import Any

from grpo.core.errors import UserError

RewardFunction = Callable[..., Any]
REWARDS: dict[str, RewardFunction] = {}
ARGUMENTS = ("completion", "gold", "question")
ANSWER_MATCH_ARGUMENT = "answer_match"  # the argument that tells a reward how answers are compared


def reward(function: RewardFunction) -> RewardFunction:
    """Enter `function` into the table of rewards under its own name, a trailing underscore aside (`int_`).

    It takes any of `completion`, `gold`, `question` and returns a number; or, to see a whole batch at once, any of
    `completions`, `golds`, `questions` and returns as many numbers. Equal prompts stand next to each other in a batch.
    Either may also take `answer_match`, the rule that `grpo.tasks.answers.answers_match` compares answers by.
    """
    name = function.__name__.removesuffix("_")
    if name in REWARDS:
        raise UserError(f"reward '{name}' is defined twice; the name is taken. Give the function another name.")
    names = inspect.signature(function).parameters
    single, batched = set(ARGUMENTS), {f"{argument}s" for argument in ARGUMENTS}
    read = names.keys() - {ANSWER_MATCH_ARGUMENT}
    if not read or not (read <= single or read <= batched):
        raise UserError(
            f"reward '{name}' takes ({', '.join(names)}); a reward takes any of ({', '.join(ARGUMENTS)}), "
            f"or any of ({', '.join(f'{argument}s' for argument in ARGUMENTS)}) for a whole batch."
        )
    REWARDS[name] = function
    return function
