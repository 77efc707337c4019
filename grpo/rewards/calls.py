"""The results of calls of rewards that can take long: a value, `OVERDUE`, or `CallFailed`; and their time limit.

Used by grpo/rewards/event_loop.py and worker_pool.py, which make the calls, and by scoring.py and execution.py. It
starts nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from grpo.core.console import say
from grpo.core.errors import UserError
from grpo.rewards.signature import NOT_STATED, TimeoutScore


class Overdue(Enum):
    """The result of a call that took longer than reward_timeout, and was ended."""

    OVERDUE = "overdue"


OVERDUE = Overdue.OVERDUE

# Seconds that a cancelled coroutine has to finish, and a thread or process to end.
GRACE_SECONDS = 2.0


class CallFailed(Exception):
    """Call number `index` raised `error`; if that is None, the call is overdue."""

    def __init__(self, index: int, error: BaseException | None) -> None:
        super().__init__(index, error)
        self.index, self.error = index, error


@dataclass(frozen=True)
class TimeLimit:
    """How long a call of a reward may take, and what happens then.

    Attributes:
        seconds: reward_timeout, for one completion, or for the batch if the reward scores a batch; None: no limit.
        on_overdue: on_reward_timeout. `score` gives the completion the reward's own score for this case, if it has one;
            `stop` stops the run.
    """

    seconds: float | None = None
    on_overdue: str = "score"

    def stops(self, score: TimeoutScore) -> bool:
        """Whether the run stops when a reward whose score for this case is `score` is overdue."""
        return score is NOT_STATED or self.on_overdue == "stop"

    def error(self, name: str, score: TimeoutScore, completions: Sequence[str], index: int | None) -> UserError:
        """The error of an overdue reward; `index` is that of the completion, None for a batch."""
        advice = "Set a higher reward_timeout, or give the reward a score for this case: @reward(on_timeout=0.0)"
        if score is not NOT_STATED:
            advice = "Set a higher reward_timeout, or on_reward_timeout=score"
        return UserError(
            f"reward '{name}' took longer than reward_timeout={self.seconds:g} seconds. {advice}. "
            f"{describe_completion(completions, index)}"
        )

    def replace_overdue(self, name: str, score: TimeoutScore, values: list[Any], completions: Sequence[str]) -> None:
        """Replace `OVERDUE` in `values`, which belong to `completions`, by the reward's score for this case."""
        overdue = [completion for value, completion in zip(values, completions, strict=True) if value is OVERDUE]
        if not overdue:
            return
        values[:] = [score if value is OVERDUE else value for value in values]
        say(
            f"reward '{name}': {len(overdue)} of {len(completions)} completions took longer than "
            f"reward_timeout={self.seconds:g} seconds and {'have no score' if score is None else f'got {score:g}'}. "
            f"The first: {overdue[0]!r}"
        )


def without_completion(name: str, error: UserError) -> str:
    """What the reward `name` did: the message of an error of a single completion, without both of them."""
    what, _, _ = str(error).removeprefix(f"reward '{name}'").partition(" The completion: ")
    return what.strip(" :.")


def describe_completion(completions: Sequence[str], index: int | None) -> str:
    """The completion at fault as a sentence; without `index`, the first one of the batch."""
    if index is not None or len(completions) == 1:
        return f"The completion: {completions[index or 0]!r}"
    return f"The first of {len(completions)} completions: {completions[0]!r}"
