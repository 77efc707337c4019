"""Which settings a resumed run uses: its own, except for the few that may change.

Called by the launch of a run and by sweeps that start again. It changes nothing in the run directory.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from grpo.config.keys import flatten
from grpo.config.schema import Config
from grpo.config.validation import check_config
from grpo.core.environment_values import to_interpolations
from grpo.core.errors import UserError
from grpo.core.paths import display_path
from grpo.core.text import format_setting
from grpo.runs.settings import override_key, read_config, read_overrides

# The settings and groups that can be changed when a run is resumed. A run that a slow reward has stopped resumes with
# another limit of time. `watch` changes nothing but the terminal.
RESUMABLE_SETTINGS = (
    "max_steps.",
    "num_train_epochs.",
    "tracking.",
    "watch.",
    "reward_timeout.",
    "on_reward_timeout.",
    "reward_workers.",
    "reward_concurrency.",
)
COMMAND_ONLY_SETTINGS = ("resume", "trust_run")  # belong to one command: a run does not save them


def is_resumable_setting(key: str) -> bool:
    """Whether a setting or a group can be changed when a run is resumed."""
    return f"{key}.".startswith(RESUMABLE_SETTINGS)


def resumed_config(folder: Path, composed: Config, overrides: Sequence[str]) -> Config:
    """The settings of a resumed run: its saved ones, with those of `RESUMABLE_SETTINGS` that were typed.

    Args:
        composed: the defaults with `overrides`.
        overrides: those of the command line.

    Raises:
        UserError: another setting was typed, or the saved settings cannot be read.
    """
    config = read_config(folder)
    here, saved = flatten(asdict(composed)), flatten(asdict(config))
    scalars: dict[str, Any] = {}
    tracking: dict[str, Any] = {}
    for override in overrides:
        key = override_key(override)
        names = [name for name in here | saved if f"{name}.".startswith(f"{key}.")]
        if is_resumable_setting(key):
            scalars |= {name: here[name] for name in names if "." not in name}
            tracking |= {name.partition(".")[2]: here[name] for name in names if "." in name}
            continue
        changed = next((name for name in names if here.get(name) != saved.get(name)), None)
        if key not in COMMAND_ONLY_SETTINGS and (changed or not names):
            name = "" if changed == key else f"{changed}="
            value = f"{name}{format_setting(to_interpolations(saved[changed]))}" if changed in saved else None
            saved_as = "" if value is None else f" (here {value})"
            raise UserError(
                f"{override}: a run that is resumed keeps its settings{saved_as}; only "
                f"{', '.join(RESUMABLE_SETTINGS).replace('.', '')} can be changed. For other settings, start a new run."
            )
    config = replace(config, tracking=replace(config.tracking, **tracking), **scalars, resume=None, trust_run=False)
    check_config(config)
    if "num_train_epochs" in scalars and config.max_steps is not None:
        raise UserError(
            f"num_train_epochs={config.num_train_epochs}: max_steps={config.max_steps} comes first; add max_steps=null."
        )
    return config


def resumed_overrides(folder: Path, overrides: Sequence[str]) -> list[str]:
    """The saved overrides of the run in `folder`, with those that are typed to resume it."""
    new_overrides = [override for override in overrides if override_key(override) not in COMMAND_ONLY_SETTINGS]
    keys = tuple(f"{override_key(override)}." for override in new_overrides)
    return [
        override for override in read_overrides(folder) if not f"{override_key(override)}.".startswith(keys)
    ] + new_overrides


def require_same_job(folder: Path, composed: Config) -> Config:
    """The settings `composed` of a job, in whose folder an earlier start of the same sweep ran the same job.

    Raises:
        UserError: the folder holds another job.
    """
    saved, here = (flatten(asdict(settings)) for settings in (read_config(folder), composed))
    for key in here.keys() | saved.keys():
        if saved.get(key) != here.get(key):
            raise UserError(
                f"{display_path(folder)} holds a job of another sweep: {key} is {to_interpolations(saved.get(key))} "
                f"there "
                f"and {to_interpolations(here.get(key))} here. Give this sweep another folder, hydra.sweep.dir=FOLDER."
            )
    return composed
