"""Readable messages for what Hydra and OmegaConf refuse: the key, the value, the rule and what to type instead."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from grpo.config.groups import option_names
from grpo.config.hints import find_hint
from grpo.config.keys import list_settings, schema_keys
from grpo.config.overrides import BROKEN_INTERPOLATION, explain_unparsable, shell_argument
from grpo.config.schema import Config
from grpo.core.errors import UserError, shorten, suggest_name
from grpo.core.redact import hide_environment_values


@contextmanager
def translate_errors(schema: type[Any] = Config) -> Iterator[None]:
    """Turn what Hydra and OmegaConf refuse into a `UserError` that says what would work."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, schema)) from error
    except (ValueError, RuntimeError, OverflowError) as error:
        ours = ("Config group override", "too large to convert", "Unable to configure")
        # A log that cannot be opened is no mistake in the settings of logging.
        if not any(text in str(error) for text in ours) or isinstance(error.__cause__, OSError):
            raise
        raise UserError(explain(error, schema)) from error


def explain(error: Exception, schema: type[Any]) -> str:
    """What Hydra or OmegaConf refused, in one line: the key, the value, the rule, the known names."""
    text, cause = hide_environment_values(str(error)), hide_environment_values(str(error.__cause__ or ""))
    if isinstance(error, OverrideParseException):
        return explain_unparsable(error.override)
    if isinstance(error, MissingConfigException) and (match := re.search(r"primary config '([^']+)'", text)):
        return f"--config-name {match[1]}: there is no file {match[1]}.yaml in conf/ or in the folder of --config-dir."
    if match := re.search(r"Could not override '([^']+)'(?:.*\+([^\n]*))?", text, re.DOTALL):
        return no_such_setting(match[1], schema)
    if match := re.search(r"Could not (?:find|load) '((?:hydra/)?[^'/]+)/([^']*?)(?:\.yaml)?'", text):
        return _no_such_option(match[1], match[2], getattr(error, "options", None))
    if match := re.search(r"Key '([^']+)' not in '\w+'\s*full_key: (\S+)", text + cause):
        return no_such_setting(match[2], schema)
    if match := re.search(r"Interpolation key '([^']+)' not found\s*full_key: (\S+)", text):
        return f"{match[2]}=${{{match[1]}}}: there is no setting {match[1]} to take a value from."
    if match := re.search(r"Unsupported interpolation type (\S+)\s*full_key: (\S+)", text):
        return f"{match[2]}=${{{match[1]}:...}}: there is no resolver {match[1]}."
    if match := re.search(r"Environment variable '(\w+)' not found.*full_key: (\S+)", text, re.DOTALL):
        return (
            f"{match[2]}: the environment variable {match[1]} is not set; set it, or give a default, "
            f"${{oc.env:{match[1]},DEFAULT}}."
        )
    if match := re.search(
        r"raised while resolving interpolation:.*positional argument.*full_key: (\S+)", text, re.DOTALL
    ):
        return f"{match[1]}: a resolver in ${{...}} has too few or too many arguments."
    if match := re.search(r"missing \d+ required positional arguments?: ([^\n]+)", text):
        return f"{match[1]}: removed or missing; every setting needs a value, null where that is possible."
    if match := re.search(r"raised while resolving interpolation: (.*)\n\s*full_key: (\S+)", text):
        return f"{match[2]}: {match[1]}."
    if match := re.search(r"too large to convert to float\s*full_key: (\S+)", text):
        return f"{match[1]}: a number of hundreds of digits is too large for any setting."
    if match := re.search(r"Error merging override (.+)", text, re.DOTALL):
        given = shorten(match[1])
        if "is not a ListConfig" in cause:
            key, _, value = match[1].partition("=")
            return f"{given}: a list is written in brackets, {key}=[{shorten(value)}]."
        if "is not Optional" in cause:
            return f"{given}: it needs a value."
        if rule := type_rule(cause):
            return f"{given}: {rule}."
        if isinstance(error.__cause__, GrammarParseError):
            return f"{given}: {BROKEN_INTERPOLATION}."
        return f"{given}: {shorten(cause.splitlines()[0]).rstrip('.')}."
    if (rule := type_rule(text)) and (
        match := re.search(r"(?:Value|to string:) '(.*)'.*full_key: (\S+)", text, re.DOTALL)
    ):
        value = re.sub(r"' (?:of type|is not a valid|to string).*", "", match[1], flags=re.DOTALL)
        return f"{match[2]}={shorten(value)}: {rule}."
    if match := re.search(r"Multiple values for (\w+)", text):
        return f"+{match[1]}=...: {match[1]} has a place in the defaults already; leave out the plus."
    if match := re.search(r"Ambiguous value for argument '(.+)'\n1\.", text, re.DOTALL):
        return _several_values(match[1], schema)
    if match := re.search(r"Sweep parameters '(.+)' requires --multirun", text, re.DOTALL):
        return _several_values(match[1], schema)
    if "Unable to configure" in text:
        why = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
        return f"hydra/job_logging, hydra/hydra_logging: logging cannot be set up so{why}; leave these settings out."
    if "Config group override" in text:
        return f"{text.rstrip('.')}; a group takes the name of one of its files, as in model=tiny."
    if match := re.search(r"Could not (?:delete from config|append to config)[^']*'?([\w.@/]+)", text):
        return f"{match[1]}: {text.splitlines()[0]}"
    return " ".join(text.split())


TYPE_RULES = {
    "could not be converted to Integer": "must be a whole number",
    "could not be converted to Float": "must be a number",
    "is not a valid bool": "must be true or false",
    "to string": "must be a text",
    "Cannot merge DictConfig with ListConfig": "must be a list, in brackets",
}


def type_rule(refusal: str) -> str | None:
    """What OmegaConf's `refusal` of a value's type means; None where it says something else."""
    return next((rule for part, rule in TYPE_RULES.items() if part in refusal), None)


def _no_such_option(group: str, name: str, known: Sequence[str] | None) -> str:
    """`known`: the options that Hydra finds in conf/, in its own package and in the user's folders."""
    other = " For any other policy: model.path=HUB_ID_OR_FOLDER." if group == "model" else ""
    names = option_names(group) if known is None else known
    return f"{group}={name}: {group} has no option '{name}'.{suggest_name(name, names)}{other}"


def _several_values(override: str, schema: type[Any]) -> str:
    """The message for several values of a setting outside a sweep; it depends on the type of the setting."""
    key, _, value = override.lstrip("+").partition("=")
    kind = schema_keys(schema).get(key)
    given = shorten(override)
    if kind in (str, str | None) and not re.match(r"\w+\(", value):
        return (
            f"{given}: a text with a comma needs quotes within quotes, {shell_argument(key, value)}; a sweep needs -m."
        )
    if key in list_settings(schema):
        return f"{given}: a list is written in brackets, {key}=[{shorten(value)}]; a sweep needs -m."
    return f"{given}: several values are a sweep, which needs -m."


def no_such_setting(key: str, schema: type[Any]) -> str:
    """The message for an unknown `key`, with the names that it may mean."""
    if "@" in key or key.partition(".")[0] == "experiment":
        own = _experiment_typed() or key
        return f"{own}: a file of the group experiment starts with the line `# @package _global_`; add it."
    if key.startswith("rewards."):
        return f"{key}: the composed stack has no such reward; add one with +{key}=WEIGHT."
    if is_dataclass(group := {item.name: item.type for item in fields(schema)}.get(key)):
        own = ", ".join(f"{key}.{item.name}" for item in fields(group))
        return f"{key}: this command has no group {key}, only {own}."
    return f"{key}: there is no such setting.{suggestion(key, schema)}"


def _experiment_typed() -> Path | None:
    """The file of `experiment=NAME` in the folder of --config-dir, as this process was started."""
    folders = [after for before, after in pairwise(sys.argv) if before in ("--config-dir", "-cd")]
    folders += [word.partition("=")[2] for word in sys.argv if word.startswith("--config-dir=")]
    names = [word.partition("=")[2] for word in sys.argv if word.lstrip("+").startswith("experiment=")]
    files = (Path(folder) / "experiment" / f"{name}.yaml" for folder in folders for name in names)
    return next((file for file in files if file.is_file()), None)


def suggestion(key: str, schema: type[Any]) -> str:
    """The end of a message about an unknown setting: similar names, or all names of its level if none is similar."""
    settings = schema_keys(schema)
    leaf = key.rpartition(".")[2]
    same = [name for name in settings if name.rpartition(".")[2] == leaf]
    if 0 < len(same) <= 3:
        return f" Did you mean {_either(same)}?"
    # A command that does not train suggests only settings that it has.
    if (known := find_hint(key)) and (issubclass(schema, Config) or known.ours.partition("=")[0] in settings):
        if known.ours:
            return f" Here it is {known.ours}{f' ({known.note})' if known.note else ''}."
        return f" It has no counterpart here: {known.note}."
    if key.startswith("hydra."):
        return " Those of Hydra, its sweeper and its launcher stand in conf/hydra/."
    close = get_close_matches(key, settings, n=1, cutoff=0.7) or [
        name for name in settings if get_close_matches(leaf, [name.rpartition(".")[2]], cutoff=0.8)
    ]
    if 0 < len(close) <= 3:
        return f" Did you mean {_either(close)}?"
    group = key.partition(".")[0] + "."
    level = [name.removeprefix(group) for name in settings if "." in key and name.startswith(group)]
    top = [name for name in settings if "." not in name] + ["experiment"] * issubclass(schema, Config)
    return f" Known: {', '.join(sorted(level or top))}."


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)
