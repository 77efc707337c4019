"""Overrides as the user types them, `NAME=VALUE`: parsing, quoting, and the number of jobs of a sweep.

The grammar is Hydra's. This module knows no setting of this project.
"""

import json
import math
import re
import shlex
from collections.abc import Collection, Sequence
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import grammar_parser as interpolations
from omegaconf.errors import GrammarParseError

from grpo.config.limits import MAX_JOBS
from grpo.core.errors import UserError, first_line, shorten
from grpo.core.paths import path_fault
from grpo.core.text import ESCAPE_CANDIDATES

MAX_EXACT_COUNT = 10**12  # larger numbers of values are not counted exactly
FOLDER_SETTINGS = ("hydra.run.dir", "hydra.sweep.dir")
BROKEN_INTERPOLATION = r"${ starts a name, as in ${seed}; for the characters themselves, write \${ within quotes"
_KEY = re.compile(r"[~+]*[\w./@:$-]+")
_DELETION = re.compile(r"~[a-zA-Z_][\w./@-]*")
_SPACED = re.compile(r"(\+{0,2}[a-zA-Z_][\w./@-]*)(?: ?[=:] ?| )([^\s=:].*)")


def quote_value(text: str) -> str:
    """`text` as the value of an override, in Hydra's quotes if Hydra would otherwise read another value."""
    needs_no_quotes = re.fullmatch(r"[\w./-]+", text, re.ASCII) and _parse_value(f"key={text}") == text
    return text if needs_no_quotes else QuotedString(text, Quote.double).with_quotes()


def _parse_value(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def shell_argument(key: str, value: Any) -> str:
    """The argument to type in a shell that sets `key` to `value`."""
    if isinstance(value, str):
        return shlex.quote(f"{key}={quote_value(value)}")
    return shlex.quote(f"{key}={json.dumps(value, default=str)}")  # Hydra reads numbers, booleans and null as JSON


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """The arguments, parsed by Hydra.

    Raises:
        UserError: one of them cannot be parsed.
    """
    parsed = []
    for argument in arguments:
        try:
            (override,) = OverridesParser.create().parse_overrides([argument])
        except HydraException as error:
            raise UserError(explain_unparsable(argument)) from error
        except ValueError as error:  # a number with more digits than Python parses
            raise UserError(f"{shorten(argument)}: {first_line(error)}.") from error
        if not override.key_or_group:
            raise UserError(explain_unparsable(argument))
        parsed.append(override)
    return parsed


def is_parsable(override: str) -> bool:
    try:
        parse_overrides([override])
        return True
    except UserError:
        return False


def explain_unparsable(override: str) -> str:
    """The message about an override that Hydra cannot parse: what is wrong, and what to type instead."""
    key, equals, value = override.partition("=")
    if not equals or not _KEY.fullmatch(key):
        return f"{shorten(override) or repr('')}: not a setting; write NAME=VALUE."
    shortened = shorten(_in_one_line(override))
    is_list = value.startswith("[") and value.endswith("]")
    elements = [element.strip().strip("'\"") for element in value[1:-1].split(",")] if is_list else [value]
    if fault := _unquotable(key, elements):
        return f"{shortened}: {fault}."
    if is_list:
        quoted_list = ",".join(quote_value(_expand_user(element)) for element in elements)
        return f"{shortened}: write {shlex.quote(f'{key}=[{quoted_list}]')}"
    if value.startswith("~"):
        return f"{shortened}: write {shell_argument(key, _expand_user(value))}"
    if settings := _mapping(value):
        commands = " ".join(shell_argument(f"{key}.{name}", inner) for name, inner in settings.items())
        return f"{shortened}: set the settings of a group one by one: {commands}"
    return f"{shortened}: this value needs quotes within quotes: {shell_argument(key, value)}"


def _unquotable(key: str, values: Sequence[str]) -> str | None:
    """Why these values are wrong even with quotes; None if quotes are enough."""
    broken = any(not _can_be_resolved(value) for value in values)
    if key in FOLDER_SETTINGS and (broken or "${" not in values[0]):
        return folder_fault(values[0])
    if broken:
        return BROKEN_INTERPOLATION
    return next((fault for value in values if value.startswith("~") and (fault := path_fault(value))), None)


def _can_be_resolved(text: str) -> bool:
    try:
        interpolations.parse(text)
        return True
    except GrammarParseError:
        return False


def folder_fault(folder: str) -> str | None:
    """Why Hydra cannot create this folder, or why its name cannot be typed in a command; None if there is no fault."""
    if fault := path_fault(folder):
        return fault
    if ESCAPE_CANDIDATES.search(folder) or re.search(r"[\t\n]", folder):
        return "the name of a folder can have printable characters only"
    if folder.startswith("~"):
        return "write the path in full; ~ is not expanded here"
    if "${" in folder:
        return "the name of a folder cannot have ${, which refers to a setting"
    return None


def _in_one_line(text: str) -> str:
    return text.replace("\n", r"\n").replace("\t", r"\t")


def _may_continue_value(word: str) -> bool:
    return "=" not in word.lstrip("=") and not _DELETION.fullmatch(word)


def explain_spaces(words: Sequence[str], texts: Collection[str]) -> str | None:
    """The message about a setting with spaces, as in `max_steps = 10`; None if there is none.

    Args:
        words: the arguments, without flags.
        texts: the settings whose values are texts, which may contain spaces.
    """
    for start, word in enumerate(words):
        following = list(takewhile(_may_continue_value, words[start + 1 :]))
        key, equals, value = word.partition("=")
        if value.startswith("{") and not value.endswith("}") and following:
            end = next((i for i, part in enumerate(following, 1) if part.endswith("}")), len(following))
            arguments = " ".join([word, *following[:end]])
            return f"{shorten(arguments)}: a value with spaces needs quotes: {shlex.quote(arguments)}"
        if equals and value and following and key in texts:
            arguments = " ".join([word, *following])
            quoted = shell_argument(key, " ".join([value, *following]))
            return f"{shorten(arguments)}: a value with spaces needs quotes: {quoted}"
        count = 2 if following[:1] in (["="], [":"]) else 1
        arguments = " ".join([word, *following[:count]])
        if "=" in word.rstrip("=") or not (match := _SPACED.fullmatch(arguments)):
            continue
        key, value = match.groups()
        override = f"{key}={value}"
        corrected = shlex.quote(override) if is_parsable(override) else shell_argument(key, value)
        return f"{shorten(arguments)}: a setting is written NAME=VALUE, with no spaces around =: {corrected}"
    return None


def _mapping(text: str) -> dict[Any, Any] | None:
    """The settings in a value in braces, `{name: value}`; None if `text` is not such a value."""
    if not text.startswith("{"):
        return None
    try:
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return None
    return settings if isinstance(settings, dict) and None not in settings.values() else None


def _expand_user(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # there is no such user
        return path


def count_values(override: Override) -> int:
    """Number of values of a setting in a sweep, counted without listing them; 1 if it is not swept.

    Raises:
        UserError: a range without a finite start and end, or with a step of 0.
    """
    value = override.value()
    if not override.is_discrete_sweep():
        return 1
    if not isinstance(value, RangeSweep):
        return len(list(override.sweep_iterator()))
    # In Decimal, as Hydra steps through a range of floats.
    start, stop, step = (Decimal(number or 0) for number in (value.start, value.stop, value.step))
    if not step or not all(number.is_finite() for number in (start, stop, step)):
        raise UserError(f"{override.input_line}: a range has a finite start and end, and a step other than 0.")
    return max(0, math.ceil(min((stop - start) / step, Decimal(MAX_EXACT_COUNT))))


def refuse_too_many_jobs(overrides: Sequence[Override]) -> None:
    """Check the number of jobs of a sweep.

    Raises:
        UserError: there are more than `MAX_JOBS` combinations of values.
    """
    counts = {override.get_key_element(): count_values(override) for override in overrides}
    if (jobs := math.prod(counts.values())) > MAX_JOBS:
        factors = " x ".join(f"{key} ({_format_count(count)})" for key, count in counts.items() if count > 1)
        raise UserError(
            f"{factors}: a sweep of {_format_count(jobs)} jobs; at most {MAX_JOBS:,} are possible. List fewer values."
        )


def _format_count(count: int) -> str:
    return f"{count:,}" if count < MAX_EXACT_COUNT else f"{MAX_EXACT_COUNT:,} or more"
