"""Checks of the arguments of a command before Hydra parses them: flags, and settings written NAME=VALUE.

Called by `application.py`. Hydra would answer these mistakes with its usage or with a traceback.
"""

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser

from grpo.config.keys import schema_keys
from grpo.config.overrides import explain_spaces, is_parsable, parse_overrides, shell_argument
from grpo.config.schema import AnyConfig
from grpo.config.unknown_settings import no_such_setting
from grpo.core.errors import UserError, shorten

FLAGS = {name: action for action in get_args_parser()._actions for name in action.option_strings}


def move_flags_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with Hydra's flags first, because argparse accepts only one sequence of overrides."""
    flags: list[str] = []
    overrides: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        if (action := FLAGS.get(word)) is None or action.nargs == 0:
            continue
        if action.nargs == "?" and "=" in "".join(words[:1]):
            flags[-1] = f"{word}={action.const}"  # otherwise argparse takes the first override as its value
        elif words and not words[0].startswith("-"):
            flags.append(words.pop(0))
    return [*flags, *overrides]


def _groups(schema: type[AnyConfig]) -> set[str]:
    return {key for key, kind in schema_keys(schema).items() if is_dataclass(kind)} | {"rewards", "experiment"}


def check_arguments(arguments: Sequence[str], schema: type[AnyConfig]) -> list[str]:
    """The arguments with flags first, once they are checked.

    Raises:
        UserError: an unknown flag, flags that exclude each other, or an override that cannot be parsed.
    """
    parser = get_args_parser()
    parser.error = _raise_usage_error  # type: ignore[method-assign]
    _check_dashes(arguments, schema)
    arguments = move_flags_first(arguments)
    flags = parser.parse_args(arguments)
    _check_flags(flags)
    if flags.shell_completion:
        return arguments
    groups = _groups(schema)
    kinds = schema_keys(schema)
    if fault := explain_spaces(flags.overrides, [key for key, kind in kinds.items() if kind in (str, str | None)]):
        raise UserError(fault)
    for override in parse_overrides(flags.overrides):
        value: Any = override.value()
        if override.key_or_group in groups and isinstance(value, int | float | None):
            key = override.key_or_group
            raise UserError(
                f"{override.input_line}: {key} is a group and takes the name of one of its files, {key}=NAME; a "
                f"setting in it is {key}.NAME=VALUE."
            )
    return arguments


def _raise_usage_error(message: str) -> NoReturn:
    raise UserError(f"{message}. --hydra-help explains the flags; settings are written without dashes, NAME=VALUE.")


def _check_dashes(arguments: Sequence[str], schema: type[AnyConfig]) -> None:
    """Check the words that start with a dash.

    Raises:
        UserError: a word is not a complete flag of Hydra, or it is a setting with dashes, as in `--run FOLDER`.
    """
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "--":
            continue
        name, equals, _ = word.partition("=")
        action = FLAGS.get(name)
        value = next(iter(words), "")
        is_value = bool(value) and not value.startswith("-") and "=" not in value
        if action is None:
            raise UserError(_explain_dashes(word, value if is_value else "", schema))
        if action.nargs == 0 and (equals or (is_value and name.lstrip("-") in schema_keys(schema))):
            if name.lstrip("-") in schema_keys(schema):
                raise UserError(_explain_dashes(word, value if is_value else "", schema))
            _raise_usage_error(f"{shorten(word)}: {name} takes no value")
        if action.nargs is None and not equals and words:
            words.pop(0)


def _explain_dashes(word: str, following: str, schema: type[AnyConfig]) -> str:
    """The message about a setting typed as a flag, as in `--optimizer.lr=0.02` or `--max_steps 10`."""
    name, equals, value = word.lstrip("-").partition("=")
    key = name.replace("-", "_")
    text = word
    if not equals and following:
        text, value = f"{word} {following}", following
    shortened = shorten(text)
    if key not in schema_keys(schema) and key not in _groups(schema):
        if flags := [flag for flag in FLAGS if name and flag.startswith(f"--{name}")]:
            return f"{shortened}: a flag is written in full: {' or '.join(flags)}."
        if not word.startswith("--"):
            _raise_usage_error(f"{shorten(word)}: there is no such flag")
        return f"{shortened}: {no_such_setting(key, schema)} Settings are written without dashes, NAME=VALUE."
    wandb = " (a W&B sweep writes them so with ${args_no_hyphens})" * bool(equals and word.startswith("--"))
    override = f"{key}={value or ('NAME' if key in _groups(schema) else 'true')}"
    corrected = shlex.quote(override) if is_parsable(override) else shell_argument(key, value)
    return f"{shortened}: settings are written without dashes, {corrected}{wandb}"


def _check_flags(flags: Namespace) -> None:
    modes = {
        "--run": flags.run,
        "--multirun": flags.multirun,
        "--cfg": flags.cfg is not None,
        "--info": flags.info is not None,
        "--shell-completion": flags.shell_completion,
    }
    if len(chosen := [name for name, is_given in modes.items() if is_given]) > 1:
        raise UserError(f"{' '.join(chosen)}: only one of these flags is possible at a time.")
    if flags.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun: Hydra's pickles are not read, because they can run code; python -m grpo.reproduce "
            "FOLDER repeats a finished run, resume=FOLDER resumes a stopped one."
        )
    if flags.config_path is not None:
        raise UserError(
            "--config-path: it would replace conf/; add a folder of your own to it with --config-dir FOLDER."
        )
    if flags.config_dir is not None and not Path(flags.config_dir).is_dir():
        resumes = any(override.startswith("resume=") for override in flags.overrides)
        unneeded = " A resumed run has its settings in its own folder; leave --config-dir out." if resumes else ""
        raise UserError(f"--config-dir {shorten(flags.config_dir)}: there is no such folder.{unneeded}")
    for flag, value in (("--resolve", flags.resolve), ("--package", flags.package)):
        if value and flags.cfg is None and not flags.help:
            raise UserError(f"{flag}: only with --cfg job, --cfg hydra or --cfg all, which print settings.")
    if flags.shell_completion:
        _check_completion(flags.overrides)


def _check_completion(words: Sequence[str]) -> None:
    actions = [f"{action}={shell}" for action in ("install", "uninstall", "query") for shell in ("bash", "fish")]
    called_by_shell = "COMP_LINE" in os.environ
    if len(words) != 1 or words[0] not in actions or (words[0].startswith("query") and not called_by_shell):
        name = Path(sys.argv[0]).stem
        program = name if name == "grpo" else shlex.join(["python", "-m", f"grpo.{name}"])
        raise UserError(
            f"{' '.join(['--shell-completion', *words])}: say which shell, as in "
            f'eval "$({program} --shell-completion install=bash)"; bash also serves zsh, and there is install=fish.'
        )
