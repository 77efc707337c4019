"""Calls one reward on a batch of completions, and checks what it returns.

Called by grpo/rewards/stack.py, the trainer and the evaluation. While a reward from a file runs, the modules of its
file are importable; afterwards the state of this process is restored. An exception of a reward becomes a `UserError`
that names the reward, the line and the completion. It knows nothing of weights and advantages.
"""

import inspect
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, Sized
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from functools import partial
from numbers import Real
from typing import Any

from grpo.core.errors import UserError, one_line
from grpo.rewards.async_scoring import AwaitValues
from grpo.rewards.binding import BoundArguments, RewardSettings, bind_arguments
from grpo.rewards.process_state import restored_process_state, seed_generators
from grpo.rewards.registry import REWARDS
from grpo.rewards.reward_error import RewardErrors
from grpo.rewards.reward_files import REWARD_SOURCES, SHIPPED_REWARDS
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.signature import Reward


class NonFiniteReward(UserError):
    """A score is nan, infinite, or too large for float32."""


# Collections that cannot be a list of scores, or have no order.
NOT_SCORE_LISTS = (Mapping, Set, str, bytes, bytearray, memoryview)
# Advantages are computed in float32, and a standard deviation squares weighted scores: (MAX_SCORE * MAX_WEIGHT)^2, with
# the limit of weights in grpo/config/limits.py, leaves room for the sum over a batch.
MAX_SCORE = 1e12
AWAIT = "await it, in an async def"


def score_reward(
    name: str,
    batch: ScoringBatch,
    settings: RewardSettings,
    await_values: AwaitValues | None = None,
    seed: int | None = None,
) -> list[float]:
    """Score the completions of a batch with one reward; nan is the score of a completion for which it abstains.

    For a reward from a file, the state of this process is restored afterwards, and random numbers are seeded with the
    completions: a repeated or resumed run gets the same scores.

    Args:
        await_values: awaits the calls of the reward; None if it is not async.
        seed: of random numbers; None: `batch_seed`. In the single form, completion i has `seed` + i.

    Raises:
        UserError: the reward raised, or returned the wrong number of scores, or a value that is not a number.
        NonFiniteReward: a score is nan, infinite or too large.
        UnknownValue: it reads a value in **kwargs that is not known for these completions.
    """
    if name in SHIPPED_REWARDS:
        return _call_reward(name, batch, settings, await_values)
    seed = batch_seed(batch) if seed is None else seed
    with _process_of_reward(name, seed):
        return _call_reward(name, batch, settings, await_values, seed)


def score_rows(name: str, batch: ScoringBatch, settings: RewardSettings, seed: int) -> Iterator[float]:
    """The scores of a reward from a file in the single form, each as soon as it is computed; see `score_reward`."""
    reward = REWARDS[name]
    with _process_of_reward(name, seed):
        yield from _score_one_by_one(reward, bind_arguments(reward, batch, settings), batch.completions, seed)


@contextmanager
def _process_of_reward(name: str, seed: int) -> Iterator[None]:
    """A context for a reward from a file: its modules are importable, and the state of the process is restored."""
    file = REWARD_SOURCES.get(name)
    try:
        with restored_process_state(seed), file.imports() if file else nullcontext():
            yield
    except OSError as error:
        raise UserError(f"reward '{name}' changed this process, which cannot be restored: {error}.") from error


def batch_seed(batch: ScoringBatch) -> int:
    """The seed of random numbers in rewards that score `batch`."""
    return zlib.crc32("\0".join(batch.completions).encode("utf-8", "replace"))


def _call_reward(
    name: str, batch: ScoringBatch, settings: RewardSettings, await_values: AwaitValues | None, seed: int | None = None
) -> list[float]:
    """Call a reward with the values that it takes by name: once per completion, or once for the batch."""
    reward, completions = REWARDS[name], batch.completions
    arguments = bind_arguments(reward, batch, settings)
    if reward.form == "single" and not reward.is_async:
        return list(_score_one_by_one(reward, arguments, completions, seed))
    if reward.form == "single":
        assert await_values is not None
        values = await_values(reward, [call or _abstain for call in _calls(reward, arguments)], completions)
    else:
        values = _score_batch(reward, arguments, completions, await_values)
    return [_to_score(reward, value, completion) for value, completion in zip(values, completions, strict=True)]


def _calls(reward: Reward, arguments: BoundArguments) -> Iterator[Callable[[], Any] | None]:
    """The call of a reward for each completion; None where an argument is not known."""
    names, columns = list(arguments.by_completion), list(arguments.by_completion.values())
    for index, row in enumerate(zip(*columns, strict=True)):
        call = partial(reward.function, **arguments.shared, **dict(zip(names, row, strict=True)))
        yield None if arguments.unknown[index] else call


async def _abstain() -> None:
    """The call of an async reward for which an argument is not known."""


def _score_one_by_one(
    reward: Reward, arguments: BoundArguments, completions: Sequence[str], seed: int | None
) -> Iterator[float]:
    """The score of each completion; nan where the reward abstains or an argument is not known."""
    for index, (call, completion) in enumerate(zip(_calls(reward, arguments), completions, strict=True)):
        if seed is not None:
            seed_generators(seed + index)
        with RewardErrors(reward, completions, index):
            value = call() if call else None
        yield _to_score(reward, value, completion)


def _score_batch(
    reward: Reward, arguments: BoundArguments, completions: Sequence[str], await_values: AwaitValues | None
) -> list[Any]:
    """The values that a reward returns for a batch, one for each completion; all None if an argument is not known."""
    if any(arguments.unknown):
        return [None] * len(completions)
    columns = {name: list(column) for name, column in arguments.by_completion.items()}
    call = partial(reward.function, **arguments.shared, **columns)
    values: list[Any] = []
    if reward.is_async:
        assert await_values is not None
        (returned,) = await_values(reward, [call], completions)
    else:
        with RewardErrors(reward, completions):
            returned = call()
    with RewardErrors(reward, completions):
        shape = getattr(returned, "shape", (None,))
        ordered = isinstance(returned, Sized) and not isinstance(returned, NOT_SCORE_LISTS)
        is_list = ordered and len(shape) == 1
        values.extend(returned if is_list else ())
    if not is_list or len(values) != len(completions):
        result = f"{len(values)} scores" if is_list else _describe_returned(returned)
        rule = AWAIT if inspect.iscoroutine(returned) else "return a list with one score for each completion"
        raise UserError(f"reward '{reward.name}' returned {result} for {len(completions)} completions; {rule}.")
    return values


def _to_score(reward: Reward, value: Any, completion: str) -> float:
    """What a reward returned as a score; nan for None.

    Raises:
        UserError: it is not a number.
        NonFiniteReward: it is nan, infinite or too large.
    """
    if value is None:
        return math.nan
    if type(value) is float:
        number: float | None = value
    else:
        with RewardErrors(reward, [completion]):
            number = _to_float(value)
    return _check_score(reward.name, number, value, completion)


def _to_float(value: Any) -> float | None:
    """A number of any type as a float, infinite if it is too large for a float; None if `value` is not a number."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = None if getattr(value, "mask", False) else value.item()  # a scalar of numpy or torch
    try:
        return float(value) if isinstance(value, Real | Decimal) else None
    except OverflowError:
        return math.inf


def _check_score(name: str, number: float | None, value: Any, completion: str) -> float:
    """The score `number`, which is the returned `value` as a float.

    Raises:
        UserError: `value` is not a number.
        NonFiniteReward: it is nan, infinite or too large.
    """
    if number is not None and abs(number) <= MAX_SCORE:
        return number
    rule = "a reward is a finite number, or None to abstain"
    if number is not None and math.isfinite(number):
        rule = f"a reward is between -{MAX_SCORE:g} and {MAX_SCORE:g}, otherwise float32 overflows in training"
    if inspect.iscoroutine(value):
        rule = AWAIT
    error = UserError if number is None else NonFiniteReward
    raise error(f"reward '{name}' returned {_describe_returned(value)}; {rule}. The completion: {completion!r}")


def _describe_returned(value: Any) -> str:
    """`repr(value)`, truncated; its type if `repr` fails, as for an integer of more than 4,300 digits."""
    if inspect.iscoroutine(value):
        value.close()  # Python warns of one that is never awaited
        return "a coroutine"
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return "a generator"
    try:
        text = one_line(repr(value))
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."
