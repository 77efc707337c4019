"""Weights of rewards as settings: a number, or a schedule of the weight over training.

Composition converts typed and saved weights here; rewards, reports and protocols read them. It knows no reward.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from grpo.core.environment_values import to_interpolations
from grpo.core.errors import UserError, shorten

SCHEDULE_EXAMPLE = "{start: 1.0, end: 0.0, until: 0.5}"


@dataclass(frozen=True)
class WeightSchedule:
    """A weight that changes linearly and then stays constant.

    Attributes:
        start: the weight in the first optimizer step.
        end: the weight once the share `until` of the optimizer steps is done.
        until: a share of the optimizer steps, above 0 and at most 1.
    """

    start: float
    end: float
    until: float

    def at(self, step: int, last_step: int) -> float:
        """The weight after `step` of `last_step` optimizer steps: exactly `start` at step 0, and `end` from `until`."""
        progress = min(1.0, step / (self.until * last_step))
        return self.start * (1 - progress) + self.end * progress


Weight = float | WeightSchedule


def parse_weight(setting: Any) -> Weight:
    """The weight of a checked setting: a number, or a mapping with the keys of `WeightSchedule`; or a weight itself."""
    if isinstance(setting, WeightSchedule):
        return setting
    return WeightSchedule(**setting) if isinstance(setting, Mapping) else float(setting)


def format_weight(setting: Any) -> str:
    """A weight, or its setting, for people: `0.5`, `1 to 0 until 0.5`."""
    weight = parse_weight(setting)
    if isinstance(weight, WeightSchedule):
        return f"{weight.start:g} to {weight.end:g} until {weight.until:g}"
    return f"{weight:g}"


def format_weights(settings: Mapping[str, Any]) -> str:
    """The weights of a stack in one line: `correctness 1, xmlcount 1 to 0 until 0.5`."""
    return ", ".join(f"{name} {format_weight(setting)}" for name, setting in settings.items())


def to_weight_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `rewards` with every weight as a float, or as a dict of floats if it is a schedule.

    Raises:
        UserError: a weight is neither a number nor a complete schedule.
    """
    return {name: _to_setting(f"rewards.{name}", value) for name, value in settings.items()}


def _to_setting(key: str, value: Any) -> float | dict[str, float]:
    if not isinstance(value, Mapping):
        return _to_float(key, value, f"must be a number, or a schedule in quotes, '{key}={SCHEDULE_EXAMPLE}'")
    names = [item.name for item in fields(WeightSchedule)]
    for name in value:
        if name not in names:
            raise UserError(f"{key}.{name}: a schedule has only {', '.join(names)}: '{key}={SCHEDULE_EXAMPLE}'.")
    if missing := [name for name in names if name not in value]:
        raise UserError(f"{key}: its schedule lacks {', '.join(missing)}; write '{key}={SCHEDULE_EXAMPLE}'.")
    return asdict(WeightSchedule(*(_to_float(f"{key}.{name}", value[name], "must be a number") for name in names)))


def _to_float(key: str, value: Any, rule: str) -> float:
    # A text is accepted because an environment variable gives one.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    shown = "null" if value is None else shorten(to_interpolations(value))
    raise UserError(f"{key}={shown}: {rule}.")
