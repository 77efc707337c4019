"""Checks of Hydra's own settings, `hydra.*`, before Hydra runs any code that they name.

Called around every Hydra app. It must not know the settings of this project.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from grpo.config.groups import CONF, option_names
from grpo.config.overrides import folder_fault, parse_overrides, refuse_too_many_jobs
from grpo.core.errors import UserError, shorten

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
HANDLERS = r"logging(\.handlers)?\.\w+|grpo\.core\.run_log\.RunLog"  # allowed classes of logging handlers


@contextmanager
def checked_hydra_config() -> Iterator[None]:
    """Check the settings of Hydra when it composes them in this context.

    Replaces `ConfigLoaderImpl.load_configuration` of hydra-core 1.3, because Hydra has no hook between composing and
    creating the callbacks, the sweeper and the launcher that the settings name.
    """
    compose = ConfigLoaderImpl.load_configuration

    def load_configuration(*arguments: Any, **named: Any) -> DictConfig:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", r"provider=.* is not\s+available", UserWarning)
            try:
                composed = compose(*arguments, **named)
            except UserWarning as warning:
                path = str(warning).partition("path=")[2].removesuffix(" is not available.")
                raise UserError(
                    f"hydra.searchpath: there is no folder {path}; a folder is given as file://FOLDER, a package as "
                    "pkg://PACKAGE."
                ) from warning
            except KeyError as error:
                if "hydra.job.env_copy" not in " ".join(named["overrides"]):
                    raise
                raise UserError(f"hydra.job.env_copy: the environment has no variable {error}.") from error
        check_hydra_config(composed.hydra)
        return composed

    ConfigLoaderImpl.load_configuration = load_configuration  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]


def check_hydra_config(hydra: DictConfig) -> None:
    """Check the composed settings of Hydra.

    Raises:
        UserError: they run code of neither this project nor Hydra, or name a folder that cannot be used.
    """
    for kind in ("launcher", "sweeper"):
        target = hydra[kind].get("_target_")
        if target not in _allowed_targets(kind):
            raise UserError(
                f"hydra.{kind}._target_={shorten(target)}: it runs code, and only the {kind}s of conf/hydra/{kind} "
                f"are allowed: hydra/{kind}={', '.join(sorted(option_names(f'hydra/{kind}')))} or basic."
            )
    for name, callback in (hydra.callbacks or {}).items():
        raise UserError(
            f"hydra.callbacks.{name}={shorten(callback)}: a callback runs code, so none is allowed. Measure with a "
            "reward of weight 0, or read metrics.jsonl."
        )
    for kind in ("job_logging", "hydra_logging"):
        logging_settings: Any = OmegaConf.to_container(hydra[kind]) if hydra[kind] else {}
        _check_logging(f"hydra.{kind}", logging_settings)
        _check_handlers(f"hydra.{kind}", logging_settings, hydra.runtime.choices.get(f"hydra/{kind}"))
    if hydra.sweeper._target_ == BASIC_SWEEPER and hydra.mode == RunMode.MULTIRUN:
        refuse_too_many_jobs(parse_overrides(hydra.overrides.task))  # the basic sweeper creates all jobs at once
    verbose = hydra.verbose if OmegaConf.is_list(hydra.verbose) else [hydra.verbose]
    if not all(isinstance(name, bool | str) for name in verbose):
        raise UserError(f"hydra.verbose={hydra.verbose}: must be true, false, or names of loggers.")
    if "/" in (name := str(hydra.job.name)):
        raise UserError(f"hydra.job.name={shorten(name)}: must be a file name, without a slash.")
    if hydra.job.chdir:
        raise UserError(
            "hydra.job.chdir=true: paths are relative to the working directory of the command; leave it out."
        )
    _check_folder("hydra.sweep.dir" if hydra.mode == RunMode.MULTIRUN else "hydra.run.dir", hydra)


@cache
def _allowed_targets(kind: str) -> list[str]:
    """The classes of the launchers or sweepers of Hydra and of `conf/hydra/`."""
    files = (CONF / "hydra" / kind).glob("*.yaml")
    return [BASIC_LAUNCHER, BASIC_SWEEPER, *(str(OmegaConf.load(file)._target_) for file in files)]


def _check_logging(key: str, settings: Any) -> None:
    """Refuse classes and functions that logging would call (`()` and `class`), and unknown levels."""
    if isinstance(settings, dict):
        name: Any
        for name, value in settings.items():
            if name == "()" or (name == "class" and not re.fullmatch(HANDLERS, str(value))):
                raise UserError(
                    f"{key}.{name}={shorten(value)}: it runs code, and only handlers of logging are allowed."
                )
            if name == "level" and not (isinstance(value, int) or value in logging.getLevelNamesMapping()):
                levels = "DEBUG, INFO, WARNING, ERROR, CRITICAL"
                raise UserError(f"{key}.{name}={shorten(value)}: must be one of {levels}.")
            _check_logging(f"{key}.{name}", value)


def _check_handlers(key: str, settings: dict[str, Any], choice: str | None) -> None:
    """Refuse handlers that logging cannot create: Hydra creates them only after the folder of the run."""
    handlers = settings.get("handlers") or {}
    for name, handler in handlers.items():
        is_file = str(handler.get("class")).endswith(("RunLog", "FileHandler"))
        if is_file and not handler.get("filename"):
            option = f"{key.replace('.', '/')}={choice}" if choice != "default" else f"{key}.handlers.{name}.filename"
            raise UserError(f"{option}: the log of a run needs a file name; leave this setting out.")
    for name, logger in {"root": settings.get("root"), **(settings.get("loggers") or {})}.items():
        for handler in (logger or {}).get("handlers") or []:
            if handler not in handlers:
                where = f"{key}.{name if name == 'root' else f'loggers.{name}'}.handlers"
                known_names = f"; known: {', '.join(handlers)}" if handlers else ""
                raise UserError(f"{where}: there is no handler {shorten(handler)}{known_names}.")


def _check_folder(key: str, hydra: DictConfig) -> None:
    """Refuse a folder whose name cannot be typed in a command, or that a terminal does not show as it is."""
    try:
        folder = str(OmegaConf.select(hydra, key.removeprefix("hydra.")))
    except OmegaConfBaseException:
        return  # Hydra reports it when it creates the folder
    if fault := folder_fault(folder):
        escaped = folder.replace("\n", r"\n").replace("\t", r"\t")
        raise UserError(f"{key}={shorten(escaped)}: {fault}.")
