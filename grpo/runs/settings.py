"""The settings of a run in `.hydra/` of its directory: saving them and reading them.

Called when a run starts, and by every command that reads a run. It must not know why they are read.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from grpo.config.composition import UnsetVariable, config_from_saved
from grpo.config.samplers import evaluation_rollout
from grpo.config.schema import CommonConfig, Config, ModelConfig
from grpo.core.errors import UserError, shorten
from grpo.core.files import atomic_write, parse_file, parse_yaml
from grpo.core.redact import mask_overrides, redacted
from grpo.runs.run_dir import RunDir, SweepDir
from grpo.runs.signature import sign


def save_settings(folder: Path, config: Config, overrides: Sequence[str], hydra: DictConfig | None = None) -> None:
    """Write `.hydra/`: the settings, the overrides, Hydra's own settings, and a signature of settings that run code."""
    run = RunDir(folder)
    run.hydra.mkdir(exist_ok=True)
    settings = redacted(asdict(config))
    sign(folder, settings)
    for path, content in (
        (run.hydra_yaml, hydra_settings_to_store(hydra)),
        (run.overrides_yaml, mask_overrides(overrides)),
        (run.settings_yaml, settings),
    ):
        if content is not None:
            with atomic_write(path) as partial:
                OmegaConf.save(OmegaConf.create(content), partial)


def hydra_settings_to_store(hydra: DictConfig | None) -> Any:
    """Hydra's own settings as they are stored: with interpolations unresolved, and without secrets."""
    return None if hydra is None else redacted(OmegaConf.to_container(hydra, resolve=False))


def read_overrides(folder: Path) -> list[str]:
    """The overrides that the run was started with.

    Raises:
        UserError: the folder is not a run directory, or they are damaged.
    """
    path = RunDir(folder).overrides_yaml
    try:
        listed: Any = parse_file(path, lambda text: OmegaConf.to_container(parse_yaml(text)))
        overrides = [str(item) for item in listed]
        parsed_overrides = OverridesParser.create().parse_overrides(overrides)
    except OSError as error:
        if SweepDir(folder).is_used():
            raise UserError(
                f"{folder} is the folder of a sweep: type the sweep's command again with "
                f"hydra.sweep.dir={folder}; it runs the jobs that are missing."
            ) from error
        RunDir(folder).require_run()
        raise UserError(f"{path} is missing.") from error
    except OverrideParseException as error:
        raise UserError(f"{path} is damaged: {shorten(error.override)} is not a setting.") from error
    except (TypeError, HydraException) as error:
        raise UserError(f"{path} is damaged: it holds no list of settings.") from error
    for override, parsed in zip(overrides, parsed_overrides, strict=True):
        # A run saves only settings of the project: those of Hydra choose launchers, log handlers and search paths,
        # which run code.
        if any(re.match(r"hydra\b", name or "") for name in (parsed.key_or_group, parsed.package)):
            raise UserError(f"{path} was changed: {override} is a setting of Hydra, which no run saves there.")
    return overrides


def override_key(override: str) -> str:
    """The setting that an override changes, `optimizer.lr` of `optimizer.lr=1e-4`."""
    return override.lstrip("+~").partition("=")[0]


def read_config(folder: Path) -> Config:
    """The settings of a run, checked as those of a new run are.

    Raises:
        UserError: they are missing, damaged, or of another version.
    """
    settings = read_settings(folder)
    try:
        return config_from_saved(settings, Config)
    except UnsetVariable as error:
        raise UserError(f"{folder}: {error}") from error
    except UserError as error:
        raise UserError(
            f"{folder} was made by another version of this project, or its settings were changed: {error}"
        ) from error


def read_finished_run_config(folder: Path) -> CommonConfig:
    """The settings that a finished run shares with other commands.

    `model` is the policy that it was trained from; `rollout` samples without penalties or truncation.

    Raises:
        UserError: the folder holds no finished run, or one whose settings this version cannot read.
    """
    settings, run = read_settings(folder), RunDir(folder)
    if not (run.policy / "config.json").is_file() or not run.results_json.is_file():
        saved = sorted(run.checkpoints.glob("checkpoint-*"))
        policy = f" The policy of its last checkpoint can be used, model.path={saved[-1]}." if saved else ""
        raise UserError(
            f"{folder} holds a run that was not finished; python -m grpo.train resume={folder} completes it.{policy}"
        )
    try:
        config = config_from_saved(settings, CommonConfig)
    except UnsetVariable as error:
        raise UserError(f"{folder}: {error}") from error
    except UserError as error:
        raise UserError(
            f"{folder} was made by another version of this project, or its settings were changed: {error} Its policy "
            f"can still be used, model.path={folder}/policy."
        ) from error
    config.model.lora_rank = 0  # an untrained adapter changes nothing, and a trained one is merged
    config.rollout = evaluation_rollout(config.rollout)  # however training sampled
    return config


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run was started with.

    Raises:
        UserError: the folder is not a run directory, or they are damaged.
    """
    run = RunDir(folder)
    run.require_run()
    saved = run.settings_yaml
    settings: Any = parse_file(saved, lambda text: OmegaConf.to_container(parse_yaml(text)))
    if not isinstance(settings, dict):
        raise UserError(f"{saved} is damaged: it holds no settings.")
    return settings


def trained_model(model: ModelConfig, run: Path) -> ModelConfig:
    """The final policy of a run that was trained from `model`."""
    # Saved complete and unquantized, however it was trained.
    path = os.path.abspath(RunDir(run).policy)
    plain: dict[str, Any] = {"gguf": None, "tokenizer": None, "adapter": None, "merge_adapter": False}
    return replace(model, path=path, revision=None, init="pretrained", num_layers=None, load_in_4bit=False, **plain)
