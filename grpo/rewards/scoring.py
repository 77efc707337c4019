"""Calls one reward on a batch of completions, and checks what it returns.

Called by grpo/rewards/stack.py and the trainer. Rewards from files run inside the user's modules and leave this process
unchanged; what they raise becomes a `UserError` that names the reward, the line and the completion. It knows nothing of
weights and advantages.
"""

import inspect
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
from grpo.rewards.process_state import restored_process_state
from grpo.rewards.registry import ANSWER_MATCH_ARGUMENT, ARGUMENTS, REWARDS
from grpo.rewards.reward_files import REWARD_SOURCES, SHIPPED_REWARDS
from grpo.rewards.user_file import describe_error


class NonFiniteReward(UserError):
    """A reward is nan, infinite, or too large for float32."""


# Collections that hold no scores, or hold them in no order.
NOT_SCORE_LISTS = (Mapping, Set, str, bytes, bytearray, memoryview)
# Advantages are computed in float32, which squares weighted scores: 1e12 * 1e4 leaves room for the sum of a batch.
MAX_SCORE, MAX_WEIGHT = 1e12, 1e4


def score_reward(
    name: str,
    completions: Sequence[str],
    golds: Sequence[str],
    questions: Sequence[str],
    answer_match: str = "number",
) -> list[float]:
    """One reward's score of every completion.

    A reward from a file leaves this process unchanged, and draws its random numbers from the completions:
    a run that is repeated or resumed gets the same scores.

    Raises:
        UserError: the reward raised, or returned the wrong count, or something that is not a finite number.
    """
    columns = {"completion": completions, "gold": golds, "question": questions}
    if name in SHIPPED_REWARDS:
        return _call_reward(name, columns, answer_match)
    file, seed = REWARD_SOURCES.get(name), zlib.crc32("\0".join(completions).encode("utf-8", "replace"))
    try:
        with restored_process_state(seed), file.imports() if file else nullcontext():
            return _call_reward(name, columns, answer_match)
    except OSError as error:
        raise UserError(f"reward '{name}' changed this process, which cannot be restored: {error}.") from error


def _call_reward(name: str, columns: dict[str, Sequence[str]], answer_match: str) -> list[float]:
    function, completions = REWARDS[name], columns["completion"]
    taken = inspect.signature(function).parameters
    wanted = [argument for argument in taken if argument != ANSWER_MATCH_ARGUMENT]
    if ANSWER_MATCH_ARGUMENT in taken:
        function = partial(function, answer_match=answer_match)
    values: list[Any] = []
    if any(argument in wanted for argument in ARGUMENTS):
        with _errors_named(name, completions, values):
            for row in zip(*(columns[argument] for argument in wanted), strict=True):
                values.append(function(**dict(zip(wanted, row, strict=True))))
    else:
        with _errors_named(name, completions, values, f"first of {len(completions)} "):
            returned = function(**{argument: list(columns[argument[:-1]]) for argument in wanted})
            shape = getattr(returned, "shape", (None,))
            ordered = isinstance(returned, Sized) and not isinstance(returned, NOT_SCORE_LISTS)
            listed = ordered and len(shape) == 1
            values.extend(returned if listed else ())
        if not listed or len(values) != len(completions):
            got = f"{len(values)} scores" if listed else _short_repr(returned)
            raise UserError(
                f"reward '{name}' returned {got} for {len(completions)} completions; return a list with one for each."
            )
    numbers: list[float | None] = []
    with _errors_named(name, completions, numbers):
        for value in values:
            numbers.append(_to_float(value))
    return [_check_score(name, *each) for each in zip(numbers, values, completions, strict=True)]


def _to_float(value: Any) -> float | None:
    """A number of any type as a float, infinite if it is too large for one; None if `value` is not a number."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = None if getattr(value, "mask", False) else value.item()  # of numpy or torch; a masked one has no value
    try:
        return float(value) if isinstance(value, Real | Decimal) else None
    except OverflowError:
        return math.inf


def _check_score(name: str, number: float | None, value: Any, completion: str) -> float:
    """The score `number`, made from `value`.

    Raises:
        UserError: it is not a number.
        NotFinite: it is nan, infinite or too large.
    """
    if number is not None and abs(number) <= MAX_SCORE:
        return number
    rule = "a reward is a finite number"
    if number is not None and math.isfinite(number):
        rule = f"a reward lies within -{MAX_SCORE:g} and {MAX_SCORE:g}, or float32 overflows in training"
    kind = UserError if number is None else NonFiniteReward
    raise kind(f"reward '{name}' returned {_short_repr(value)}; {rule}. The completion: {completion!r}")


@contextmanager
def _errors_named(name: str, completions: Sequence[str], done: list[Any], which: str = "") -> Iterator[None]:
    """Name the reward, the line and the completion in what user code raises, after so many completions were `done`."""
    try:
        yield
    except (KeyboardInterrupt, StoppedBySignal):
        raise
    except BaseException as error:  # timeouts of some libraries are not an `Exception`
        completion = completions[len(done)]
        raise UserError(
            f"reward '{name}' raised {describe_error(error)}. The {which}completion: {completion!r}"
        ) from error


def _short_repr(value: Any) -> str:
    """`repr(value)`, shortened; its type if `repr` fails, as for an integer of more than 4,300 digits."""
    try:
        text = repr(value)
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."
