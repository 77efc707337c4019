"""Calls one reward on a batch of completions, and checks what it returns.

Called by grpo/rewards/stack.py, the trainer and the evaluation. While a reward from a file runs, the modules of its
file are importable; afterwards the state of this process is restored. An exception of a reward becomes a `UserError`
that names the reward, the line and the completion. It knows nothing of weights and advantages.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set, Sized
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from functools import partial
from numbers import Real
from typing import Any

from grpo.core.errors import UserError
from grpo.core.signals import StoppedBySignal
from grpo.rewards.binding import BoundArguments, RewardSettings, bind_arguments
from grpo.rewards.process_state import restored_process_state
from grpo.rewards.registry import REWARDS
from grpo.rewards.reward_files import REWARD_SOURCES, SHIPPED_REWARDS
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.signature import Reward
from grpo.rewards.user_file import describe_error


class NonFiniteReward(UserError):
    """A score is nan, infinite, or too large for float32."""


# Collections that cannot be a list of scores, or have no order.
NOT_SCORE_LISTS = (Mapping, Set, str, bytes, bytearray, memoryview)
# Advantages are computed in float32, and a standard deviation squares weighted scores: (MAX_SCORE * MAX_WEIGHT)^2, with
# the limit of weights in grpo/config/limits.py, leaves room for the sum over a batch.
MAX_SCORE = 1e12


def score_reward(name: str, batch: ScoringBatch, settings: RewardSettings) -> list[float]:
    """Score the completions of a batch with one reward; nan is the score of a completion for which it abstains.

    For a reward from a file, the state of this process is restored afterwards, and random numbers are seeded with the
    completions: a repeated or resumed run gets the same scores.

    Raises:
        UserError: the reward raised, or returned the wrong number of scores, or a value that is not a number.
        NonFiniteReward: a score is nan, infinite or too large.
    """
    if name in SHIPPED_REWARDS:
        return _call_reward(name, batch, settings)
    file, seed = REWARD_SOURCES.get(name), zlib.crc32("\0".join(batch.completions).encode("utf-8", "replace"))
    try:
        with restored_process_state(seed), file.imports() if file else nullcontext():
            return _call_reward(name, batch, settings)
    except OSError as error:
        raise UserError(f"reward '{name}' changed this process, which cannot be restored: {error}.") from error


def _call_reward(name: str, batch: ScoringBatch, settings: RewardSettings) -> list[float]:
    """Call a reward with the values that it takes by name: once per completion, or once for the batch."""
    reward, completions = REWARDS[name], batch.completions
    arguments = bind_arguments(reward, batch, settings)
    score = _score_one_by_one if reward.form == "single" else _score_batch
    values = score(reward, arguments, completions)
    numbers: list[float | None] = []
    with _errors_named(reward, completions, numbers):
        for value in values:
            numbers.append(math.nan if value is None else _to_float(value))
    return [
        math.nan if value is None else _check_score(name, number, value, completion)
        for number, value, completion in zip(numbers, values, completions, strict=True)
    ]


def _score_one_by_one(reward: Reward, arguments: BoundArguments, completions: Sequence[str]) -> list[Any]:
    """The values that a reward returns for each completion; None where an argument is not known."""
    function = partial(reward.function, **arguments.shared) if arguments.shared else reward.function
    names, columns = list(arguments.by_completion), list(arguments.by_completion.values())
    values: list[Any] = []
    with _errors_named(reward, completions, values):
        for row in zip(*columns, strict=True):
            is_unknown = arguments.unknown is not None and arguments.unknown[len(values)]
            values.append(None if is_unknown else function(**dict(zip(names, row, strict=True))))
    return values


def _score_batch(reward: Reward, arguments: BoundArguments, completions: Sequence[str]) -> list[Any]:
    """The values that a reward returns for a batch, one for each completion; all None if an argument is not known."""
    if arguments.unknown is not None:
        return [None] * len(completions)
    values: list[Any] = []
    with _errors_named(reward, completions, values, f"first of {len(completions)} "):
        returned = reward.function(**arguments.shared, **{key: list(c) for key, c in arguments.by_completion.items()})
        shape = getattr(returned, "shape", (None,))
        ordered = isinstance(returned, Sized) and not isinstance(returned, NOT_SCORE_LISTS)
        is_list = ordered and len(shape) == 1
        values.extend(returned if is_list else ())
    if not is_list or len(values) != len(completions):
        result = f"{len(values)} scores" if is_list else _short_repr(returned)
        raise UserError(
            f"reward '{reward.name}' returned {result} for {len(completions)} completions; return a list with one "
            "score for each completion."
        )
    return values


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
    error = UserError if number is None else NonFiniteReward
    raise error(f"reward '{name}' returned {_short_repr(value)}; {rule}. The completion: {completion!r}")


@contextmanager
def _errors_named(reward: Reward, completions: Sequence[str], results: list[Any], which: str = "") -> Iterator[None]:
    """Turn an exception of user code into a `UserError` that names the reward, the line and the completion.

    `results` has one value for each completion that is scored; the completion at fault is the next one.
    """
    try:
        yield
    except (KeyboardInterrupt, StoppedBySignal):
        raise
    except BaseException as error:  # the timeouts of some libraries are not an `Exception`
        completion = completions[len(results)]
        raise UserError(
            f"reward '{reward.name}' raised {describe_error(error)}. {_hint(reward, error)}The {which}completion: "
            f"{completion!r}"
        ) from error


def _hint(reward: Reward, error: BaseException) -> str:
    """What to change if a function in TRL's form may have taken texts for messages, or a batch form the reverse."""
    if not isinstance(error, TypeError | AttributeError | KeyError):
        return ""
    if reward.form == "trl" and reward.messages:
        return "Its completions are lists of messages; for texts, write completions: list[str]. "
    if reward.form == "batch" and not reward.messages:
        return "Its completions are texts; for messages, write @reward(messages=True). "
    return ""


def _short_repr(value: Any) -> str:
    """`repr(value)`, truncated; its type if `repr` fails, as for an integer of more than 4,300 digits."""
    try:
        text = repr(value)
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."
