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
from grpo.runs.trust import sign


def save_settings(folder: Path, config: Config, overrides: Sequence[str], hydra: DictConfig | None = None) -> None:
    """Write `.hydra/`: the composed settings, what was typed, Hydra's own, and the signature of those that run code."""
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
    """Hydra's own settings as they are stored: with their interpolations, and without secrets."""
    return None if hydra is None else redacted(OmegaConf.to_container(hydra, resolve=False))


def read_overrides(folder: Path) -> list[str]:
    """What was typed for the run.

    Raises:
        UserError: the folder is not that of a run.
    """
    path = RunDir(folder).overrides_yaml
    try:
        listed: Any = parse_file(path, lambda text: OmegaConf.to_container(parse_yaml(text)))
        typed = [str(each) for each in listed]
        parsed = OverridesParser.create().parse_overrides(typed)
    except OSError as error:
        if SweepDir(folder).is_used():
            raise UserError(
                f"{folder} is the folder of a sweep: type the sweep's own command once more, with "
                f"hydra.sweep.dir={folder}, and it does what is missing."
            ) from error
        RunDir(folder).require_run()
        raise UserError(f"{path} is missing.") from error
    except OverrideParseException as error:
        raise UserError(f"{path} is damaged: {shorten(error.override)} is not a setting.") from error
    except (TypeError, HydraException) as error:
        raise UserError(f"{path} is damaged: it holds no list of settings.") from error
    for override, each in zip(typed, parsed, strict=True):
        # A run saves only its own settings; Hydra's choose launchers, log handlers and search paths, which run code.
        if any(re.match(r"hydra\b", place or "") for place in (each.key_or_group, each.package)):
            raise UserError(f"{path} was changed: {override} is a setting of Hydra's, which no run saves there.")
    return typed


def override_key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def read_config(folder: Path) -> Config:
    """
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
    """What a finished run shares with other commands: `model` is what it was trained from, `rollout` undistorted.

    Raises:
        UserError: the folder does not hold a finished run, or one whose settings are not those of this version.
    """
    settings, run = read_settings(folder), RunDir(folder)
    if not (run.policy / "config.json").is_file() or not run.results_json.is_file():
        saved = sorted(run.checkpoints.glob("checkpoint-*"))
        policy = f" The policy that it saved can be used as well, model.path={saved[-1]}." if saved else ""
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
            f"can still be named, model.path={folder}/policy."
        ) from error
    config.model.lora_rank = 0  # an adapter that has not learnt adds nothing, and one that has is merged
    config.rollout = evaluation_rollout(config.rollout)  # however training sampled
    return config


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run was started with.

    Raises:
        UserError: the folder is not that of a run, or they are damaged.
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
    # Saved plain, whatever it was trained in.
    path = os.path.abspath(RunDir(run).policy)
    return replace(model, path=path, revision=None, init="pretrained", num_layers=None, load_in_4bit=False)
