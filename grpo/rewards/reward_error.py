"""Messages about an exception that a reward raised: the reward, the line, a hint and the completion.

Used by grpo/rewards/scoring.py and async_scoring.py, which call rewards. It knows no scores.
"""

import linecache
import re
import traceback
from collections.abc import Sequence
from typing import Any

from grpo.core.errors import UserError
from grpo.core.signals import StoppedBySignal
from grpo.rewards.binding import UnknownValue
from grpo.rewards.calls import describe_completion
from grpo.rewards.reward_files import REWARD_SOURCES
from grpo.rewards.signature import TRL_ONLY, Reward
from grpo.rewards.user_file import describe_error
from grpo.tasks.example import Example


class RewardErrors:
    """A context that turns an exception of a reward into a `UserError`.

    It is a class, because it is entered for every completion. Without `index` the call is for all `completions`.
    """

    def __init__(self, reward: Reward, completions: Sequence[str], index: int | None = None) -> None:
        self.reward, self.completions, self.index = reward, completions, index

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        # The timeouts of some libraries are not an `Exception`.
        if error is not None and not isinstance(error, KeyboardInterrupt | StoppedBySignal | UnknownValue):
            raise reward_error(self.reward, error, self.completions, self.index) from error


def reward_error(reward: Reward, error: BaseException, completions: Sequence[str], index: int | None) -> UserError:
    """The error of a reward that raised `error` for the completion `index`; None: for the batch."""
    file = REWARD_SOURCES.get(reward.name)
    what = describe_error(error, file.folder if file else None)
    return UserError(
        f"reward '{reward.name}' raised {what}. {_hint(reward, error)}{describe_completion(completions, index)}"
    )


def _hint(reward: Reward, error: BaseException) -> str:
    """What to change, if the error tells: a missing column, or texts that are taken for messages, or the reverse."""
    if isinstance(error, KeyError):
        return _columns_hint(error)
    if isinstance(error, TypeError | AttributeError):
        if reward.form == "trl" and reward.messages and _concerns(error, list, dict):
            return "Its completions are lists of messages; for texts, write completions: list[str]. "
        if not reward.messages and _concerns(error, str):
            return "Its completions are texts; for messages, write @reward(messages=True). "
    return ""


def _concerns(error: TypeError | AttributeError, *types: type) -> bool:
    """Whether the value at fault has one of the `types`, as far as the error tells."""
    if isinstance(error, AttributeError):
        return isinstance(error.obj, types)
    return any(re.search(rf"\b{kind.__name__}(ing)?\b", str(error)) for kind in types)


def _columns_hint(error: KeyError) -> str:
    """The keys of `**kwargs`, or the columns of the problem, if the line that raised `error` looks for one there."""
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    line = linecache.getline(frame.f_code.co_filename, number)
    for name, value in frame.f_locals.items():
        if not re.search(rf"\b{re.escape(name)}\b", line):
            continue
        if isinstance(value, Example):
            return f"Its columns: {', '.join(value.columns) or 'none'}. "
        if isinstance(value, dict) and value.keys() & TRL_ONLY:
            return f"{name} has {', '.join(value)}. "
    return ""
