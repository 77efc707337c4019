"""The command-line arguments of `resume=FOLDER`, expanded before Hydra reads them.

Called by `grpo.train`. It must not import torch, and changes nothing in the run directory.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.config import overrides as typed_overrides
from grpo.core.errors import UserError, shorten
from grpo.core.paths import path_fault
from grpo.runs.resume_settings import is_resumable_setting
from grpo.runs.run_dir import quoted_path, resolve_link
from grpo.runs.settings import override_key, read_overrides, read_settings
from grpo.runs.trust import require_trust


def expand_resume_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with `resume=FOLDER` expanded to those that resume the run.

    Raises:
        UserError: there is no run to resume.
    """
    arguments = [_resolve_folder_link(argument) for argument in arguments]
    if (value := _typed_value(arguments, "resume")) is None:
        return arguments
    if not isinstance(value, str | list | dict):  # the folder 1e5 or true, not the number or the boolean
        value = _typed_text(arguments, "resume")
    if folder_arguments := [argument for argument in arguments if argument.startswith("hydra.run.dir=")]:
        raise UserError(f"{folder_arguments[0]}: with resume=FOLDER a run stays in FOLDER; leave this out.")
    if value == "":
        raise UserError("resume=: give the folder of a run, resume=outputs/DATE/TIME.")
    if "-m" in arguments or "--multirun" in arguments or not isinstance(value, str):
        raise UserError(
            "resume: resumes one run. To resume a sweep, type its command again with hydra.sweep.dir=FOLDER."
        )
    if fault := path_fault(value):
        raise UserError(f"resume={shorten(value)}: {fault}.")
    folder = resolve_link(Path(value).expanduser())
    saved = read_overrides(folder)
    require_trust(
        folder,
        read_settings(folder),
        trusted=_typed_value(arguments, "trust_run") is True,
        advice="If you trust whoever made it, add trust_run=true.",
    )
    # Saved overrides are read from the run. Repeating them could name config files that no longer exist.
    new_arguments = [
        argument for argument in arguments if argument not in saved or is_resumable_setting(override_key(argument))
    ]
    return [*new_arguments, f"hydra.run.dir={quoted_path(folder)}", "hydra.mode=RUN"]


def _resolve_folder_link(argument: str) -> str:
    key, _, value = argument.partition("=")
    is_link = key in ("hydra.run.dir", "hydra.sweep.dir") and os.path.islink(value)
    return f"{key}={quoted_path(resolve_link(Path(value)))}" if is_link else argument


def _typed_value(arguments: Sequence[str], key: str) -> Any:
    """The value of a setting among the arguments of a command; None if it is not among them."""
    text = _typed_text(arguments, key)
    return None if text is None else typed_overrides.parse_overrides([f"{key}={text}"])[0].value()


def _typed_text(arguments: Sequence[str], key: str) -> str | None:
    texts = [argument.partition("=")[2] for argument in arguments if argument.lstrip("+").startswith(f"{key}=")]
    return texts[-1] if texts else None
