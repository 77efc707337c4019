"""Awaits the calls of an `async def` reward on the event loop, and turns failures into messages about a completion.

Called by grpo/rewards/scoring.py, which checks the values. It knows nothing of seeds and the state of the process.
"""

from collections.abc import Callable, Sequence
from typing import Any

from grpo.core.errors import UserError
from grpo.rewards.binding import UnknownValue
from grpo.rewards.calls import OVERDUE, CallFailed, TimeLimit, describe_completion
from grpo.rewards.event_loop import BlockedLoop, Call, RewardEventLoop
from grpo.rewards.reward_error import reward_error
from grpo.rewards.signature import Reward

# (reward, calls, completions) -> the values that the calls return
AwaitValues = Callable[[Reward, Sequence[Call], Sequence[str]], list[Any]]


def await_values(
    event_loop: RewardEventLoop,
    limit: TimeLimit,
    reward: Reward,
    calls: Sequence[Call],
    completions: Sequence[str],
) -> list[Any]:
    """The values that coroutines return: one for each completion in the single form, else one for the batch.

    An overdue call has the value `on_timeout` of the reward; a batch has it for each completion, as a list.

    Raises:
        UserError: a coroutine raised, is overdue and the run stops, or blocks the event loop.
        UnknownValue: it reads a value that is not known.
    """
    single = reward.form == "single"
    try:
        values = event_loop.run(calls, limit.stops(reward.on_timeout))
    except BlockedLoop:
        raise UserError(
            f"reward '{reward.name}' is async and blocks the event loop for longer than reward_timeout="
            f"{limit.seconds:g} seconds: it must await what takes long. Written without async, it runs in a process "
            f"that can be killed. {describe_completion(completions, None)}"
        ) from None
    except CallFailed as failed:
        index = failed.index if single else None
        if failed.error is None:
            raise limit.error(reward.name, reward.on_timeout, completions, index) from None
        if isinstance(failed.error, UnknownValue):
            raise failed.error from None
        raise reward_error(reward, failed.error, completions, index) from failed.error
    if single:
        limit.replace_overdue(reward.name, reward.on_timeout, values, completions)
    elif values[0] is OVERDUE:
        values = [[OVERDUE] * len(completions)]
        limit.replace_overdue(reward.name, reward.on_timeout, values[0], completions)
    return values
