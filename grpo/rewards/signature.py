"""How a reward is called: `Reward`, a function with what its parameters mean, read from its signature once.

Made by the decorator in grpo/rewards/registry.py; grpo/rewards/binding.py gives the parameters their values. It knows
no batch and no scores.

Three forms of functions are rewards. The single form scores one completion (`completion`, `gold`, ...), the batch form
a list of them (`completions`, `golds`, ...), and TRL's form is a reward function as TRL 1.16 calls it.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from grpo.core.errors import UserError, shorten, suggest_name

RewardFunction = Callable[..., Any]
Form = Literal["single", "batch", "trl"]

# Values of each completion. The batch form has those of the first row in the plural.
SINGULAR = ("completion", "gold", "question", "example")
PLURAL = tuple(f"{name}s" for name in SINGULAR)
OF_COMPLETIONS = ("completion_tokens", "truncated")  # under these names in all forms
# Values that are the same for all completions of a run, and of a batch.
OF_SETTINGS = ("answer_type", "answer_format", "max_completion_length")
OF_BATCH = ("step", "max_steps")
# A function with one of these, or with **kwargs, has TRL's form.
TRL_ONLY = ("prompts", "completion_ids", "trainer_state", "log_metric", "log_extra")
RESERVED = frozenset((*SINGULAR, *PLURAL, *OF_COMPLETIONS, *OF_SETTINGS, *OF_BATCH, *TRL_ONLY))
# A reward takes at least one of these, or **kwargs.
SUBJECTS = frozenset((*SINGULAR, *PLURAL, *OF_COMPLETIONS, "completion_ids"))
TEXTS = re.compile(r"\bstr\b")
MESSAGES = re.compile(r"dict|mapping|message|list\[\s*list", re.IGNORECASE)


class NotStated(Enum):
    """The type of `NOT_STATED`."""

    NOT_STATED = "not stated"


NOT_STATED = NotStated.NOT_STATED
# The score of an overdue completion: a number, None for an abstention, or none is stated.
TimeoutScore = float | None | NotStated


@dataclass(frozen=True)
class Reward:
    """A function that scores completions, and the meaning of its parameters.

    Attributes:
        form: how it is called: once per completion, or once for a batch.
        inputs: the parameters that take a value of the framework, such as `gold`.
        required: the other parameters without default: columns of the dataset, or values of reward_args.
        defaults: the parameters with a default, inputs among them.
        types: parameter -> the types of its values, if the default or the annotation tells.
        messages: whether completions are lists of chat messages, as TRL has them, or texts.
        takes_rest: whether it has **kwargs.
        on_timeout: the score of a completion for which it takes longer than reward_timeout.
    """

    name: str
    function: RewardFunction
    form: Form
    inputs: tuple[str, ...]
    required: tuple[str, ...]
    defaults: Mapping[str, Any]
    types: Mapping[str, tuple[type, ...]]
    messages: bool
    takes_rest: bool
    on_timeout: TimeoutScore = NOT_STATED

    @property
    def is_async(self) -> bool:
        """Whether it is written as `async def`."""
        return _is_any(self.function, inspect.iscoroutinefunction)

    @property
    def options(self) -> list[str]:
        """The parameters that reward_args may set."""
        return [*self.required, *(name for name in self.defaults if name not in self.inputs)]

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Check values for parameters of this reward, `reward_args.NAME`.

        Raises:
            UserError: there is no such parameter, or the value has another type.
        """
        for parameter, value in arguments.items():
            key = f"reward_args.{self.name}.{parameter}"
            if parameter in self.inputs:
                raise UserError(f"{key}: the reward receives {parameter} from the framework; it cannot be set.")
            if parameter not in self.options:
                parameters = suggest_name(parameter, self.options) if self.options else " It has none to set."
                raise UserError(f"{key}: the reward '{self.name}' has no such parameter.{parameters}")
            kinds = self.types.get(parameter)
            if kinds and not any(_has_type(value, kind) for kind in kinds):
                raise UserError(f"{key}={shorten(value)}: must be {' or '.join(TYPE_NAMES[kind] for kind in kinds)}.")


TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    NoneType: "null",
}


def read_signature(
    name: str, function: RewardFunction, messages: bool | None = None, on_timeout: TimeoutScore = NOT_STATED
) -> Reward:
    """The reward `name`. `messages` says whether it takes chat messages; None: the annotation tells, or the form.

    Raises:
        UserError: the parameters are not those of a reward, or it is a generator.
    """
    parameters = _parameters(function)
    named = {key: item for key, item in parameters.items() if item.kind != inspect.Parameter.VAR_KEYWORD}
    takes_rest = len(named) < len(parameters)
    form: Form = "single"
    if takes_rest or any(key in TRL_ONLY for key in named):
        form = "trl"
    elif any(key in PLURAL for key in named):
        form = "batch"
    _check_parameters(name, form, named, takes_rest)
    defaults = {key: item.default for key, item in named.items() if item.default is not inspect.Parameter.empty}
    if _is_any(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        advice = "return it" if form == "single" else "return a list with one score for each completion"
        raise UserError(f"reward '{name}' contains yield, so a call returns a generator and no score; {advice}.")
    if messages is None:
        item = named.get("completion") or named.get("completions")
        messages = _takes_messages(item.annotation if item else None, default=form == "trl")
    return Reward(
        name=name,
        function=function,
        form=form,
        inputs=tuple(key for key in named if key in RESERVED),
        required=tuple(key for key in named if key not in RESERVED and key not in defaults),
        defaults=defaults,
        types={key: kinds for key, item in named.items() if (kinds := _value_types(item))},
        messages=messages,
        takes_rest=takes_rest,
        on_timeout=on_timeout,
    )


def _parameters(function: RewardFunction) -> Mapping[str, inspect.Parameter]:
    """The parameters with their annotations, which are texts if they cannot be evaluated."""
    try:
        return inspect.signature(function, eval_str=True).parameters
    except Exception:  # an annotation is any expression
        return inspect.signature(function).parameters


def _is_any(function: RewardFunction, *kinds: Callable[[Any], bool]) -> bool:
    """Whether a function, or the `__call__` of an object, is of one of the `kinds`."""
    call = getattr(function, "__call__", None)  # noqa: B004
    return any(kind(function) or kind(call) for kind in kinds)


def _check_parameters(name: str, form: Form, named: Mapping[str, inspect.Parameter], takes_rest: bool) -> None:
    takes = f"reward '{name}' takes ({', '.join([*named, *['**kwargs'] * takes_rest])})"
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    if any(item.kind in by_position for item in named.values()):
        raise UserError(f"{takes}; values are passed by name, so *args and parameters before / are not possible.")
    if not takes_rest and not SUBJECTS & named.keys():
        raise UserError(
            f"{takes}; a reward takes any of ({', '.join(SINGULAR)}), or any of ({', '.join(PLURAL)}) for a batch, "
            "and columns of the dataset by name."
        )
    if form != "single" and "completion" in named:
        raise UserError(f"{takes}; a function that scores a batch takes completions, a list, not completion.")
    if form == "batch" and (singular := [key for key in SINGULAR if key in named]):
        raise UserError(f"{takes}; a function that scores a batch takes {singular[0]}s, a list, not {singular[0]}.")


def _takes_messages(annotation: Any, default: bool) -> bool:
    """Whether an annotation such as `list[list[dict]]` means chat messages; `list[str]` means texts."""
    if annotation is None or annotation is inspect.Parameter.empty:
        return default
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    if "any" in text.lower():
        return default
    if MESSAGES.search(text):
        return True
    return False if TEXTS.search(text) else default


def _value_types(parameter: inspect.Parameter) -> tuple[type, ...]:
    """The types of a parameter's values by its annotation, else by its default; none if neither tells."""
    is_annotated = parameter.annotation is not inspect.Parameter.empty
    kind = parameter.annotation if is_annotated else type(parameter.default)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    are_named = all(isinstance(item, type) and item in TYPE_NAMES for item in kinds)
    return kinds if are_named and kinds != (NoneType,) else ()  # others, as `list[str]`, are not checked


def _has_type(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind
