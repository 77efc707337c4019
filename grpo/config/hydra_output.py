"""What Hydra prints for `--help` and `--cfg job`: lines of 80 columns, the groups and settings of the command alone.

Called around every Hydra app. It must not know what a command does.
"""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from textwrap import fill
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from grpo.config.applicable import settings_without_effect
from grpo.core.console import console, print_message

WIDTH = 80


@contextmanager
def hydra_output() -> Iterator[None]:
    """Context of a Hydra app."""
    with quick_group_options(), _groups_of_command(), _settings_with_effect(), _wrapped_help():
        yield


@contextmanager
def quick_group_options() -> Iterator[None]:
    """List the options of config groups without copying all configs.

    Replaces `ConfigLoaderImpl.get_group_options` of hydra-core 1.3, which copies them at each call so that overrides
    can add to the search path. `--help` calls it a hundred times without overrides, which takes half of its time.
    """
    copying = ConfigLoaderImpl.get_group_options

    def get_group_options(
        loader: ConfigLoaderImpl,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        if config_name is None and not overrides:
            return loader.repository.get_group_options(group_name, results_filter)
        return copying(loader, group_name, results_filter, config_name, overrides)

    ConfigLoaderImpl.get_group_options = get_group_options  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.get_group_options = copying  # type: ignore[method-assign]


@contextmanager
def _groups_of_command() -> Iterator[None]:
    """List the config groups that the command has, wrapped.

    Replaces `Hydra.format_config_groups` of hydra-core 1.3, which lists all folders of `conf/`, one in a line.
    """
    listing_all = Hydra.format_config_groups

    def format_config_groups(hydra: Hydra, predicate: Callable[[str], bool], compact: bool = True) -> str:
        if predicate("hydra"):  # for --hydra-help
            return listing_all(hydra, predicate, compact)
        lines = []
        for group in sorted(name for name in HydraConfig.get().runtime.choices if predicate(name)):
            options = ", ".join(sorted(hydra.config_loader.get_group_options(group)))
            text = f"  {group}: {options}"
            lines.append(fill(text, WIDTH, subsequent_indent="      ", break_on_hyphens=False, break_long_words=False))
        return "\n".join(lines)

    Hydra.format_config_groups = format_config_groups  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Hydra.format_config_groups = listing_all  # type: ignore[method-assign]


@contextmanager
def _settings_with_effect() -> Iterator[None]:
    """Print with `--cfg job` only the settings that have an effect, below a comment with the chosen options.

    Replaces `Hydra.show_cfg` and `Hydra.get_sanitized_cfg` of hydra-core 1.3, which print every setting of the schema.
    """
    showing, sanitizing = Hydra.show_cfg, Hydra.get_sanitized_cfg

    def get_sanitized_cfg(hydra: Hydra, cfg: DictConfig, cfg_type: str) -> DictConfig:
        sanitized = sanitizing(hydra, cfg, cfg_type)
        if cfg_type == "job":
            settings: Any = OmegaConf.to_container(sanitized, resolve=False)
            for key in settings_without_effect(settings):
                group, _, name = key.rpartition(".")
                node: Any = OmegaConf.select(sanitized, group) if group else sanitized
                node._content.pop(name)  # a typed node refuses `del`
        return sanitized

    def show_cfg(hydra: Hydra, **settings: Any) -> None:
        with redirect_stdout(io.StringIO()) as text:
            showing(hydra, **settings)
        if settings["cfg_type"] == "job" and settings["package"] in (None, "_global_"):
            choices = HydraConfig.get().runtime.choices
            options = [
                f"{group}={name}" for group, name in sorted(choices.items()) if name and not group.startswith("hydra/")
            ]
            sentence = f"The settings that have an effect with {' '.join(options)}"
            print(fill(sentence, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False))
        print(text.getvalue(), end="")

    Hydra.show_cfg, Hydra.get_sanitized_cfg = show_cfg, get_sanitized_cfg  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Hydra.show_cfg, Hydra.get_sanitized_cfg = showing, sanitizing  # type: ignore[method-assign]


@contextmanager
def _wrapped_help() -> Iterator[None]:
    """Wrap the help that Hydra prints in a terminal, like all other output."""
    if not {"--help", "-h"} & {*sys.argv} or not console.is_terminal:
        yield
        return
    try:
        with redirect_stdout(io.StringIO()) as text:
            yield
    finally:  # Hydra exits the process after its help
        print_message(text.getvalue().rstrip("\n"), console)
