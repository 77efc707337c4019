"""From composed or saved settings to a checked, typed config with absolute paths.

Called by every command, once it has its settings, and by scripts and tests that compose a run themselves. It must not
know what a command does with the config.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from grpo.config.data_settings import FILE_DATASETS
from grpo.config.groups import CONF
from grpo.config.hydra_errors import translate_errors, type_rule
from grpo.config.keys import flatten, list_settings, schema_keys
from grpo.config.overrides import parse_overrides, quote_value
from grpo.config.rules import SWEEPER_RULES
from grpo.config.schema import TRL_SCALES, AnyConfig, AuditConfig, CommonConfig, Config, ModelConfig, SweeperConfig
from grpo.config.unknown_settings import no_such_setting
from grpo.config.validation import check_config, check_lists_and_paths, check_value
from grpo.config.weights import to_weight_settings
from grpo.core.environment_values import (
    absolute_with_source,
    mark_environment_values,
    to_interpolations,
    unset_variables,
)
from grpo.core.errors import UserError, first_line, shorten

Schema = TypeVar("Schema", bound=AnyConfig)


def load_config(composed: DictConfig | ListConfig, schema: type[Schema]) -> Schema:
    """The composed settings as a dataclass of type `schema`, checked, with absolute paths.

    Raises:
        UserError: an unknown key, a value out of its range, or two values that exclude each other.
    """
    config = to_dataclass(composed, schema)
    check_config(config)
    return with_absolute_paths(config)


def to_dataclass(composed: DictConfig | ListConfig, schema: type[Schema]) -> Schema:
    """The composed settings as a dataclass of type `schema`; names, types and paths are checked, but no other values.

    Raises:
        UserError: an unknown key, or a value of another type.
    """
    with translate_errors(schema):
        _refuse_unknown_keys(composed, schema, "")
        resolved = OmegaConf.to_object(composed)
    config = mark_environment_values(resolved, OmegaConf.to_container(composed, resolve=False))
    assert isinstance(config, schema)
    config.rewards = to_weight_settings(config.rewards)
    check_lists_and_paths(config)
    return config


def with_absolute_paths(config: Schema) -> Schema:
    """The config with absolute paths, which mean the same from any working directory; it is changed in place."""
    config.reward_files = [absolute_path(file) for file in config.reward_files]
    if isinstance(config, CommonConfig):
        if config.data.difficulty is not None:
            config.data.difficulty = absolute_path(config.data.difficulty)
        # Any other path that does not exist is a dataset or a policy of the hub, or an embedded policy.
        if config.data.path is not None:
            path = absolute_path(config.data.path)
            if config.data.name in FILE_DATASETS or os.path.exists(path):
                config.data.path = path
        if os.path.exists(folder := absolute_path(config.model.path)):
            config.model.path = folder
        _complete_model_settings(config.model)
    return config


def _complete_model_settings(model: ModelConfig) -> None:
    """Make the other paths of the policy absolute; the rank of an adapter that is trained further becomes lora_rank."""
    if model.gguf is not None and not os.path.exists(os.path.join(model.path, model.gguf)):
        file = absolute_path(model.gguf)
        model.gguf = file if os.path.exists(file) else model.gguf  # otherwise it is a file of the hub
    if model.tokenizer is not None and os.path.exists(folder := absolute_path(model.tokenizer)):
        model.tokenizer = folder
    if model.adapter is None:
        return
    model.adapter = absolute_path(model.adapter)
    if model.lora_rank == 0 and not model.merge_adapter:
        with suppress(OSError, ValueError, KeyError, TypeError):  # grpo/policy/adapters.py has the message
            model.lora_rank = int(json.loads(Path(model.adapter, "adapter_config.json").read_text())["r"])


def absolute_path(path: str) -> str:
    """The absolute form of `path`; what came from an environment variable is still stored as its interpolation."""
    return absolute_with_source(path, os.path.abspath(Path(path).expanduser()))


def _refuse_unknown_keys(node: Any, schema: Any, prefix: str) -> None:
    """Hydra refuses an unknown `key=` by itself, but accepts `+key=`."""
    known_keys = schema_keys(schema)
    for key in node:
        if f"{prefix}{key}" not in known_keys:
            raise UserError(no_such_setting(f"{prefix}{key}", schema))
        if is_dataclass(known_keys[f"{prefix}{key}"]):
            _refuse_unknown_keys(node[key], schema, f"{prefix}{key}.")


Sweeper = TypeVar("Sweeper", bound=SweeperConfig)


def load_sweeper(composed: DictConfig, schema: type[Sweeper]) -> Sweeper:
    """The settings of a sweeper as a dataclass of type `schema`, checked.

    Raises:
        UserError: a value of another type, or out of its range.
    """
    settings = OmegaConf.structured(schema)
    for item in fields(schema):
        value: Any = composed[item.name]
        try:
            settings[item.name] = value
        except OmegaConfBaseException as error:
            raise UserError(
                f"hydra.sweeper.{item.name}={shorten(value)}: {type_rule(str(error)) or first_line(error)}."
            ) from error
        if item.name in SWEEPER_RULES:
            check_value(f"hydra.sweeper.{item.name}", settings[item.name], *SWEEPER_RULES[item.name])
    loaded = OmegaConf.to_object(settings)
    assert isinstance(loaded, schema)
    for name in list_settings(schema):
        if not all(isinstance(item, str) for item in getattr(loaded, name)):
            raise UserError(f"hydra.sweeper.{name}={shorten(getattr(loaded, name))}: must be a list of text.")
    return loaded


@contextmanager
def config_search_path() -> Iterator[None]:
    """Let `compose` find `conf/`; inside a Hydra app of this project it already does, inside another it does not."""
    hydra = GlobalHydra.instance().hydra
    if hydra and any(
        (element.path or "").removeprefix("file://") == str(CONF)
        for element in hydra.config_loader.get_search_path().get_path()
    ):
        yield
        return
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            yield
    finally:
        GlobalHydra.instance().hydra = hydra


def compose(overrides: Sequence[str] = ()) -> Config:
    """The config of `python -m grpo.train <overrides>`: every setting, checked, with absolute paths.

    Args:
        overrides: the settings to change and the groups to choose, as `["num_generations=8", "data=gsm8k"]`.

    Raises:
        UserError: an override of an unknown setting, or a value that is not allowed.
    """
    if isinstance(overrides, str):
        raise UserError(f"{shorten(overrides)}: overrides are a list, [{shorten(overrides)!r}].")
    overrides = list(map(str, overrides))
    parse_overrides(overrides)
    with config_search_path(), translate_errors():
        config = load_config(hydra_compose("config", overrides), Config)
    if hydra := [override for override in overrides if override.lstrip("+~").startswith("hydra")]:
        raise UserError(f"{shorten(hydra[0])}: a setting of Hydra itself, which only commands have.")
    _set_origin(config, overrides)
    return config


def _set_origin(config: Config, overrides: Sequence[str]) -> None:
    # Not a field, because it is no setting.
    vars(config)["origin"] = list(overrides), flatten(asdict(config))


def overrides_of(config: Config) -> list[str]:
    """The overrides from which `config` was composed, then one for each setting that was changed since."""
    overrides, composed = vars(config).get("origin") or vars(compose())["origin"]
    settings = flatten(asdict(config))
    changed = [
        f"{'' if key in composed else '+'}{key}={_override_value(to_interpolations(value))}"
        for key, value in settings.items()
        if key not in composed or composed[key] != value
    ]
    return [*overrides, *changed, *(f"~{key}" for key in composed if key not in settings)]


def _override_value(value: Any) -> str:
    return quote_value(value) if isinstance(value, str) else json.dumps(value, default=str)


def checked_copy(config: Config) -> Config:
    """A copy of a config that Python code may have changed, checked again.

    Raises:
        UserError: a value that is not allowed.
    """
    return config_from_saved(to_interpolations(asdict(config)), Config)


def compose_audit(overrides: Sequence[str], folder: Path | None = None) -> AuditConfig:
    """The config of `python -m grpo.audit <overrides>`; `folder` has config groups of the user's own.

    Raises:
        UserError: an override of an unknown setting, or a value that is not allowed.
    """
    if folder is not None:
        overrides = [*overrides, f"hydra.searchpath=[{quote_value(f'file://{folder.absolute()}')}]"]
    with config_search_path(), translate_errors(AuditConfig):
        return load_config(hydra_compose("audit", list(overrides)), AuditConfig)


def _complete_older_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The saved settings, with those that older runs named otherwise or lack and that have no default in the schema."""
    completed = dict(settings)
    data, rollout, algorithm = (settings.get(name) for name in ("data", "rollout", "algorithm"))
    if isinstance(data, dict) and "answer_match" in data:  # with `gold`, in place of `answer`
        completed["data"] = {name: value for name, value in data.items() if name not in ("gold", "answer_match")} | {
            "answer": data["answer_match"]
        }
    if isinstance(rollout, dict) and rollout.get("name") == "fast":
        completed["rollout"] = {"kernels": "torch"} | rollout
    if isinstance(algorithm, dict) and "estimator" not in algorithm and algorithm.get("scale_rewards") in TRL_SCALES:
        completed["algorithm"] = algorithm | {
            "estimator": TRL_SCALES[algorithm["scale_rewards"]],
            "scale_rewards": None,
        }
    return completed


def _default(item: Field[Any]) -> Any:
    """The value of a setting that older runs did not save; MISSING if every run has saved it."""
    if item.default_factory is not NO_DEFAULT:
        return item.default_factory()
    return MISSING if item.default is NO_DEFAULT else item.default


class UnsetVariable(UserError):
    """Saved settings refer to an environment variable that is not set."""


def config_from_saved(settings: dict[str, Any], schema: type[Schema]) -> Schema:
    """The saved settings that belong to `schema`, as a dataclass of that type, checked.

    Raises:
        UserError: a setting is missing, or its value is not allowed in this version.
        UnsetVariable: an environment variable of the settings is not set.
    """
    settings = _complete_older_settings(settings)
    shared = {item.name: settings.get(item.name, _default(item)) for item in fields(schema)}
    if missing := [name for name, value in shared.items() if value == MISSING]:
        raise UserError(f"there is no {', '.join(missing)}.")
    if unset := unset_variables(shared):
        raise UnsetVariable(
            f"the run takes settings from the environment variable {', '.join(unset)}, which is not set; set it."
        )
    with translate_errors(schema):
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), shared))
    config = mark_environment_values(merged, shared)
    assert isinstance(config, schema)
    config.rewards = to_weight_settings(config.rewards)
    check_lists_and_paths(config)
    check_config(config)
    return with_absolute_paths(config)
