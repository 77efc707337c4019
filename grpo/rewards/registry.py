"""The registry of rewards: `REWARDS`, and the decorator that adds a function to it.

Used by grpo/rewards/built_in.py and verbatim.py, and by reward files, which import it as `from grpo.rewards import
reward`. It knows nothing of weights, scores or files.

Add a reward without touching this package: decorate a function in your own Python file with `@reward`, name the
file in `reward_files=[my_rewards.py]` and give it a weight, `+rewards.<function name>=0.1`.
"""

import math
from collections.abc import Callable
from typing import TypeVar, overload

from grpo.core.errors import UserError, shorten
from grpo.rewards.signature import NOT_STATED, NotStated, Reward, RewardFunction, TimeoutScore, read_signature

Function = TypeVar("Function", bound=RewardFunction)
REWARDS: dict[str, Reward] = {}


@overload
def reward(function: Function) -> Function: ...


@overload
def reward(
    *, messages: bool | None = None, on_timeout: TimeoutScore = NOT_STATED
) -> Callable[[Function], Function]: ...


def reward(
    function: Function | None = None, *, messages: bool | None = None, on_timeout: TimeoutScore = NOT_STATED
) -> Function | Callable[[Function], Function]:
    """Register a function as a reward under its own name, without a trailing underscore (`int_` -> `int`).

    Written as `@reward` or as `@reward(messages=True)`. The parameters of the function say what it receives: docs/
    rewards.md lists them. It returns a number, or None to abstain; a function of a batch returns a list with one of
    these for each completion.

    Args:
        messages: whether completions are lists of chat messages or texts. By default the annotation of `completions`
            tells (`list[str]` or `list[list[dict]]`); without one, functions in TRL's form receive messages, others
            texts.
        on_timeout: the score of a completion for which the function takes longer than reward_timeout; None: it
            abstains. Without one, the run stops.

    Raises:
        UserError: the name is taken, the parameters are not those of a reward, or `on_timeout` is no score.
    """
    if function is None:
        return lambda decorated: _register(decorated, messages, on_timeout)
    return _register(function, messages, on_timeout)


def _register(function: Function, messages: bool | None, on_timeout: TimeoutScore) -> Function:
    name = getattr(function, "__name__", type(function).__name__).removesuffix("_")
    if isinstance(function, type):
        raise UserError(f"reward '{name}' is a class; register an object of it, {name} = reward({name}()).")
    if name in REWARDS:
        raise UserError(f"reward '{name}' is defined twice; the name is taken. Give the function another name.")
    if name == "phantom":
        raise UserError(f"reward '{name}': advantage_share/{name} is another metric. Give the function another name.")
    is_number = isinstance(on_timeout, int | float) and math.isfinite(on_timeout)
    if not (is_number or on_timeout is None or isinstance(on_timeout, NotStated)):
        raise UserError(
            f"reward '{name}': on_timeout={shorten(on_timeout)}: must be a finite number, a score, or None to abstain."
        )
    REWARDS[name] = read_signature(name, function, messages, on_timeout)
    return function
