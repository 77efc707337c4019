"""The state of rewards that remember something: reading it for checkpoints, restoring it, and leaving it unchanged.

A reward has a state if it is an object, or a function, with `state_dict()` and `load_state_dict(state)`, as in PyTorch.
Called by the trainer's checkpoints, and by evaluations, which must not change what training remembers. It knows nothing
of files and imports no torch.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

from grpo.core.errors import UserError
from grpo.core.signals import StoppedBySignal
from grpo.rewards.process_state import restored_process_state
from grpo.rewards.registry import REWARDS
from grpo.rewards.reward_files import REWARD_SOURCES
from grpo.rewards.user_file import describe_error

METHODS = ("state_dict", "load_state_dict")


def is_stateful(name: str) -> bool:
    """Whether the reward has a state that checkpoints store."""
    return all(callable(getattr(_owner(name), method, None)) for method in METHODS)


def state_notes(names: Iterable[str]) -> list[str]:
    """A warning for each reward that is an object without `state_dict`: what it remembers is lost on a resume.

    Raises:
        UserError: a reward has only one of the two methods.
    """
    notes = []
    for name in names:
        owner = _owner(name)
        missing = [method for method in METHODS if not callable(getattr(owner, method, None))]
        if len(missing) == 1:
            given = next(method for method in METHODS if method not in missing)
            raise UserError(f"reward '{name}' has {given} and no {missing[0]}; checkpoints need both.")
        if missing and not inspect.isroutine(owner):
            notes.append(
                f"reward '{name}' is an object without state_dict and load_state_dict: what it remembers is not in "
                "checkpoints, so a resumed run may differ (docs/rewards.md)."
            )
    return notes


def reward_states(names: Iterable[str]) -> dict[str, Any]:
    """A copy of the state of each reward that has one.

    Raises:
        UserError: `state_dict` raised, or returned something that cannot be copied.
    """
    states = {}
    for name in filter(is_stateful, names):
        with _running(name, "state_dict"):
            states[name] = deepcopy(_owner(name).state_dict())
    return states


def restore_reward_states(states: Mapping[str, Any]) -> None:
    """Hand each reward its state in `states`.

    Raises:
        UserError: a reward has no state any more, or `load_state_dict` raised.
    """
    for name, state in states.items():
        if name not in REWARDS or not is_stateful(name):
            raise UserError(f"reward '{name}' had a state_dict when the checkpoint was written, and has none here.")
        with _running(name, "load_state_dict"):
            _owner(name).load_state_dict(state)


@contextmanager
def unchanged_reward_states(names: Iterable[str]) -> Iterator[None]:
    """A context for an evaluation: afterwards each reward has the state that it had before."""
    states = reward_states(names)
    try:
        yield
    finally:
        restore_reward_states(states)


def _owner(name: str) -> Any:
    """The function or object of a reward; the object of a bound method."""
    function = REWARDS[name].function
    return function.__self__ if inspect.ismethod(function) else function


@contextmanager
def _running(name: str, method: str) -> Iterator[None]:
    """A context for code of the user's; an exception becomes a `UserError` that names the reward and the line."""
    file = REWARD_SOURCES.get(name)
    try:
        with restored_process_state(seed=0), file.imports() if file else nullcontext():
            yield
    except (KeyboardInterrupt, StoppedBySignal):
        raise
    except BaseException as error:
        raise UserError(
            f"reward '{name}': {method} raised {describe_error(error, file.folder if file else None)}"
        ) from error
