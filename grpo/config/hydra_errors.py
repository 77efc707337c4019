"""Readable messages for what Hydra and OmegaConf refuse: the key, the value, the rule and what to type instead.

Called wherever settings are composed. The table `EXPLANATIONS` matches the texts of hydra-core 1.3 and omegaconf 2.3.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from grpo.config.keys import list_settings, schema_keys
from grpo.config.overrides import BROKEN_INTERPOLATION, explain_unparsable, shell_argument
from grpo.config.rules import FORMAT_RULES
from grpo.config.schema import Config
from grpo.config.unknown_settings import no_such_option, no_such_setting
from grpo.core.environment_values import hide_environment_values
from grpo.core.errors import UserError, shorten


@contextmanager
def translate_errors(schema: type[Any] = Config) -> Iterator[None]:
    """Turn an error of Hydra or OmegaConf about settings into a `UserError` that says what to type instead.

    Args:
        schema: the dataclass of the command, whose names are suggested.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, schema)) from error
    except (ValueError, RuntimeError, OverflowError) as error:
        about_settings = ("Config group override", "too large to convert", "Unable to configure")
        # A log file that cannot be opened is not a mistake in the settings of logging.
        if not any(text in str(error) for text in about_settings) or isinstance(error.__cause__, OSError):
            raise
        raise UserError(explain(error, schema)) from error


@dataclass(frozen=True)
class Refusal:
    """An error of Hydra or OmegaConf; `text` and `cause` show values from the environment as interpolations."""

    error: Exception
    schema: type[Any]
    text: str
    cause: str


@dataclass(frozen=True)
class Explanation:
    """The message for errors whose text contains `pattern`.

    Args:
        message: a template for the groups of the match, as `re.Match.expand` takes it, or a function, which may return
            None: then the next explanation that matches is used.
        search_cause: search in the text of the error's cause, too.
    """

    pattern: str
    message: str | Callable[[re.Match[str], Refusal], str | None]
    search_cause: bool = False


def explain(error: Exception, schema: type[Any]) -> str:
    """One line about what Hydra or OmegaConf refused: the key, the value, the rule, the known names."""
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        if key in FORMAT_RULES:  # no value there needs quotes
            return f"{key}={shorten(value)}: {FORMAT_RULES[key][1]}."
        return explain_unparsable(error.override)
    text, cause = hide_environment_values(str(error)), hide_environment_values(str(error.__cause__ or ""))
    refusal = Refusal(error, schema, text, cause)
    for explanation in EXPLANATIONS:
        if match := re.search(explanation.pattern, text + cause * explanation.search_cause):
            message = (
                match.expand(explanation.message)
                if isinstance(explanation.message, str)
                else explanation.message(match, refusal)
            )
            if message is not None:
                return message
    return " ".join(text.split())


TYPE_RULES = {
    "could not be converted to Integer": "must be a whole number",
    "could not be converted to Float": "must be a number",
    "is not a valid bool": "must be true or false",
    "to string": "must be a text",
    "Cannot merge DictConfig with ListConfig": "must be a list, in brackets",
}


def type_rule(refusal: str) -> str | None:
    """The rule that a value breaks, from OmegaConf's message about its type; None if it is not about a type."""
    return next((rule for part, rule in TYPE_RULES.items() if part in refusal), None)


def _no_config_file(match: re.Match[str], refusal: Refusal) -> str | None:
    if not isinstance(refusal.error, MissingConfigException):
        return None
    return f"--config-name {match[1]}: there is no file {match[1]}.yaml in conf/ or in the folder of --config-dir."


def _refused_override(match: re.Match[str], refusal: Refusal) -> str:
    """The message for an override that cannot be merged; the reason is the error's cause."""
    override = shorten(match[1])
    if "is not a ListConfig" in refusal.cause:
        key, _, value = match[1].partition("=")
        return f"{override}: a list is written in brackets, {key}=[{shorten(value)}]."
    if "is incompatible with (str)" in refusal.cause:
        return f"{override}: the names in braces must be texts, as in {{name: 1}}."
    if "is not Optional" in refusal.cause:
        return f"{override}: it needs a value."
    if "DictConfig with ListConfig" in refusal.cause and match[1].partition("=")[2].startswith("["):
        return f"{override}: must be a mapping, in braces."
    if rule := type_rule(refusal.cause):
        return f"{override}: {rule}."
    if isinstance(refusal.error.__cause__, GrammarParseError):
        return f"{override}: {BROKEN_INTERPOLATION}."
    return f"{override}: {shorten(refusal.cause.splitlines()[0]).rstrip('.')}."


def _value_of_another_type(match: re.Match[str], refusal: Refusal) -> str | None:
    if (rule := type_rule(refusal.text)) is None:
        return None
    value = re.sub(r"' (?:of type|is not a valid|to string).*", "", match[1], flags=re.DOTALL)
    return f"{match[2]}={shorten(value)}: {rule}."


def _broken_logging(_: re.Match[str], refusal: Refusal) -> str:
    cause = refusal.error.__cause__
    reason = f" ({str(cause).splitlines()[0]})" if cause else ""
    return (
        f"hydra/job_logging, hydra/hydra_logging: logging cannot be set up this way{reason}; leave these settings out."
    )


def _several_values(match: re.Match[str], refusal: Refusal) -> str:
    """The message for several values of a setting without -m; it depends on the type of the setting."""
    override = match[1]
    key, _, value = override.lstrip("+").partition("=")
    kind = schema_keys(refusal.schema).get(key)
    shortened = shorten(override)
    if kind in (str, str | None) and not re.match(r"\w+\(", value):
        quoted = shell_argument(key, value)
        return f"{shortened}: a text with a comma needs quotes within quotes, {quoted}; a sweep needs -m."
    if key in list_settings(refusal.schema):
        return f"{shortened}: a list is written in brackets, {key}=[{shorten(value)}]; a sweep needs -m."
    return f"{shortened}: several values are a sweep, which needs -m."


# The first one that matches is used, so a special case precedes the general one.
EXPLANATIONS = (
    Explanation(r"primary config '([^']+)'", _no_config_file),
    Explanation(
        r"(?s)Could not override '([^']+)'(?:.*\+([^\n]*))?",
        lambda match, refusal: no_such_setting(match[1], refusal.schema),
    ),
    Explanation(
        r"Could not (?:find|load) '((?:hydra/)?[^'/]+)/([^']*?)(?:\.yaml)?'",
        lambda match, refusal: no_such_option(match[1], match[2], getattr(refusal.error, "options", None)),
    ),
    Explanation(
        r"Key '([^']+)' not in '\w+'\s*full_key: (\S+)",
        lambda match, refusal: no_such_setting(match[2], refusal.schema),
        search_cause=True,
    ),
    Explanation(
        r"Interpolation key '([^']+)' not found\s*full_key: (\S+)",
        r"\2=${\1}: there is no setting \1 to take a value from.",
    ),
    Explanation(
        r"Unsupported interpolation type (\S+)\s*full_key: (\S+)",
        r"\2=${\1:...}: there is no resolver \1.",
    ),
    Explanation(
        r"(?s)Environment variable '(\w+)' not found.*full_key: (\S+)",
        r"\2: the environment variable \1 is not set; set it, or give a default, ${oc.env:\1,DEFAULT}.",
    ),
    Explanation(
        r"(?s)raised while resolving interpolation:.*positional argument.*full_key: (\S+)",
        r"\1: a resolver in ${...} has too few or too many arguments.",
    ),
    Explanation(
        r"missing \d+ required positional arguments?: ([^\n]+)",
        r"\1: removed or missing; every setting needs a value, null where that is possible.",
    ),
    Explanation(r"raised while resolving interpolation: (.*)\n\s*full_key: (\S+)", r"\2: \1."),
    Explanation(
        r"too large to convert to float\s*full_key: (\S+)",
        r"\1: a number of hundreds of digits is too large for any setting.",
    ),
    Explanation(r"(?s)Error merging override (.+)", _refused_override),
    Explanation(r"(?s)(?:Value|to string:) '(.*)'.*full_key: (\S+)", _value_of_another_type),
    Explanation(
        r"Multiple values for (\w+)",
        r"+\1=...: the defaults have \1 already; leave out the plus.",
    ),
    Explanation(r"(?s)Ambiguous value for argument '(.+)'\n1\.", _several_values),
    Explanation(r"(?s)Sweep parameters '(.+)' requires --multirun", _several_values),
    Explanation(r"Unable to configure", _broken_logging),
    Explanation(
        r"Config group override",
        lambda _, refusal: f"{refusal.text.rstrip('.')}; a group takes the name of one of its files, as in model=tiny.",
    ),
    Explanation(
        r"Could not (?:delete from config|append to config)[^']*'?([\w.@/]+)",
        lambda match, refusal: f"{match[1]}: {refusal.text.splitlines()[0]}",
    ),
)
