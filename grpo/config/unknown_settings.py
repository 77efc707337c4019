"""Messages about unknown settings and options, with the names that the user may have meant.

Called where a composed or typed name is looked up, and by `hydra_errors.py`. It knows names only, not values.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from grpo.config.groups import option_names
from grpo.config.hints import find_hint
from grpo.config.keys import schema_keys
from grpo.config.schema import Config
from grpo.config.weights import SCHEDULE_EXAMPLE
from grpo.core.errors import suggest_name


def no_such_option(group: str, name: str, options: Sequence[str] | None) -> str:
    """The message for an unknown option `name` of a config group.

    Args:
        options: those that Hydra found in `conf/`, in its own package and in the user's folders; None for `conf/`.
    """
    advice = {
        "model": " For any other policy: model.path=HUB_ID_OR_FOLDER.",
        "rewards": " A reward of your own is added with reward_files=[FILE.py] +rewards.NAME=1.",
    }.get(group, "")
    names = option_names(group) if options is None else options
    return f"{group}={name}: {group} has no option '{name}'.{suggest_name(name, names)}{advice}"


def no_such_setting(key: str, schema: type[Any]) -> str:
    """The message for an unknown setting `key`, with the names that the user may have meant."""
    if key == "experiment" and not issubclass(schema, Config):
        return f"{key}: this command takes no experiment; give it the settings, as in rewards=NAME."
    if "@" in key or key.partition(".")[0] == "experiment":
        file = _experiment_file() or key
        return f"{file}: a file of the group experiment starts with the line `# @package _global_`; add it."
    if key.startswith("rewards.") and (name := key.rpartition(".")[0]) != "rewards":
        return f"{key}: {name} has no such key; write '{name}={SCHEDULE_EXAMPLE}'."
    if key.startswith("rewards."):
        return f"{key}: the composed stack has no such reward; add one with +{key}=WEIGHT."
    if is_dataclass(group := {item.name: item.type for item in fields(schema)}.get(key)):
        settings = ", ".join(f"{key}.{item.name}" for item in fields(group))
        return f"{key}: this command has no group {key}, only {settings}."
    return f"{key}: there is no such setting.{suggestion(key, schema)}"


def _experiment_file() -> Path | None:
    """The file of `experiment=NAME` in the folder of --config-dir, according to the arguments of this process."""
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
    if (hint := find_hint(key)) and (issubclass(schema, Config) or hint.setting.partition("=")[0] in settings):
        if hint.setting:
            return f" Here it is {hint.setting}{f' ({hint.note})' if hint.note else ''}."
        return f" It has no counterpart here: {hint.note}."
    if key.startswith("hydra."):
        return " Those of Hydra, its sweeper and its launcher are in conf/hydra/."
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
