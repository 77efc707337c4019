"""Overrides as they are typed, `key=value`: how to quote a value, and how many jobs a sweep over them has.

The grammar is Hydra's; this module knows no setting.
"""

import json
import math
import re
import shlex
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from grpo.errors import UserError, first_line, shortened
from grpo.files import path_fault

MOST_JOBS = 10_000  # of a sweep
COUNTED = 10**12  # larger counts are not exact
_KEY = re.compile(r"[~+]*[\w./@:$-]+")


def quoted(text: str) -> str:
    """`text` as the value of an override: as it is where Hydra reads it so, else in Hydra's quotes."""
    plain = re.fullmatch(r"[\w./-]+", text, re.ASCII) and _value(f"key={text}") == text
    return text if plain else QuotedString(text, Quote.double).with_quotes()


def _value(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def typed_in_shell(key: str, value: Any) -> str:
    """The word to type in a shell so that the setting `key` gets `value`."""
    if isinstance(value, str):
        return shlex.quote(f"{key}={quoted(value)}")
    return shlex.quote(f"{key}={json.dumps(value, default=str)}")  # as Hydra writes numbers, booleans and null


def parse(arguments: Sequence[str]) -> list[Override]:
    """The overrides that `arguments` are.

    Raises:
        UserError: one of them cannot be parsed.
    """
    parsed = []
    for each in arguments:
        try:
            (override,) = OverridesParser.create().parse_overrides([each])
        except HydraException as error:
            raise UserError(unreadable(each)) from error
        except ValueError as error:  # a number of more digits than Python reads
            raise UserError(f"{shortened(each)}: {first_line(error)}.") from error
        if not override.key_or_group:
            raise UserError(unreadable(each))
        parsed.append(override)
    return parsed


def is_readable(override: str) -> bool:
    try:
        parse([override])
        return True
    except UserError:
        return False


def unreadable(override: str) -> str:
    """What is wrong with an override that Hydra's grammar refuses, and what to type instead."""
    key, equals, value = override.partition("=")
    if not equals or not _KEY.fullmatch(key):
        return f"{shortened(override) or repr('')}: not a setting; write key=value."
    given = shortened(override)
    if value.startswith("~"):
        fault = path_fault(value)
        return f"{given}: {fault}." if fault else f"{given}: write {typed_in_shell(key, _expanded(value))}"
    if isinstance(mapping := _from_yaml(value), dict) and mapping:
        each = " ".join(typed_in_shell(f"{key}.{name}", inner) for name, inner in mapping.items())
        return f"{given}: the settings of a group are given one by one: {each}"
    if value.startswith("[") and value.endswith("]"):
        elements = [_expanded(element.strip().strip("'\"")) for element in value[1:-1].split(",")]
        listed = ",".join(map(quoted, elements))
        return f"{given}: write {shlex.quote(f'{key}=[{listed}]')}"
    return f"{given}: this value needs quotes within quotes: {typed_in_shell(key, value)}"


def _expanded(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # there is no such user
        return path


def _from_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return None


def values_of(override: Override) -> int:
    """How many values are typed, counted without listing them; a value that is not a list counts as one.

    Raises:
        UserError: a range that has no end.
    """
    value = override.value()
    if not override.is_discrete_sweep():
        return 1
    if not isinstance(value, RangeSweep):
        return len(list(override.sweep_iterator()))
    # In Decimal, as Hydra steps through a range of floats.
    start, stop, step = (Decimal(each or 0) for each in (value.start, value.stop, value.step))
    if not step or not all(each.is_finite() for each in (start, stop, step)):
        raise UserError(f"{override.input_line}: a range has a finite start and end, and a step other than 0.")
    return max(0, math.ceil(min((stop - start) / step, Decimal(COUNTED))))


def refuse_too_many_jobs(overrides: Sequence[Override]) -> None:
    """
    Raises:
        UserError: the combinations of values are more than `MOST_JOBS`.
    """
    counts = {each.get_key_element(): values_of(each) for each in overrides}
    if (jobs := math.prod(counts.values())) > MOST_JOBS:
        factors = " x ".join(f"{key} ({_counted(count)})" for key, count in counts.items() if count > 1)
        raise UserError(
            f"{factors}: a sweep of {_counted(jobs)} jobs; at most {MOST_JOBS:,} are possible. List fewer values."
        )


def _counted(count: int) -> str:
    return f"{count:,}" if count < COUNTED else f"{COUNTED:,} or more"
