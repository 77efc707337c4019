"""Messages about an exception that a reward raised: the reward, the line, a hint and the completion.

Used by grpo/rewards/scoring.py and async_scoring.py, which call rewards. It knows no scores.
"""

from collections.abc import Sequence
from typing import Any

from grpo.core.errors import UserError
from grpo.core.signals import StoppedBySignal
from grpo.rewards.calls import describe_completion
from grpo.rewards.signature import Reward
from grpo.rewards.user_file import describe_error


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
        if error is not None and not isinstance(error, KeyboardInterrupt | StoppedBySignal):
            raise reward_error(self.reward, error, self.completions, self.index) from error


def reward_error(reward: Reward, error: BaseException, completions: Sequence[str], index: int | None) -> UserError:
    """The error of a reward that raised `error` for the completion `index`; None: for the batch."""
    at_fault = describe_completion(completions, index)
    return UserError(f"reward '{reward.name}' raised {describe_error(error)}. {_hint(reward, error)}{at_fault}")


def _hint(reward: Reward, error: BaseException) -> str:
    """What to change if a function in TRL's form may have taken texts for messages, or a batch form the reverse."""
    if not isinstance(error, TypeError | AttributeError | KeyError):
        return ""
    if reward.form == "trl" and reward.messages:
        return "Its completions are lists of messages; for texts, write completions: list[str]. "
    if reward.form == "batch" and not reward.messages:
        return "Its completions are texts; for messages, write @reward(messages=True). "
    return ""
