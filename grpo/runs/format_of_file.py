"""The answer format of a file of completions: that of the evaluation that saved it, or of the run that holds it.

Called by `grpo.evaluate` and `grpo.audit`, unless a format is typed. It must not read the completions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.config.schema import FormatConfig
from grpo.config.validation import check_format
from grpo.core.errors import UserError
from grpo.runs.run_dir import RunDir
from grpo.runs.settings import override_key, read_settings


def format_of_file(file: str | None, typed: FormatConfig, overrides: Sequence[str]) -> FormatConfig:
    """The format to score the completions of `file` in: that of the evaluation whose figures are beside it, or of the
    run in whose directory it is.

    It is `typed`, the format of the settings, if `overrides` choose one, or if there is neither.

    Raises:
        UserError: the settings of the run, or the figures beside the file, are damaged.
    """
    if file is None or any(override_key(override).partition(".")[0] == "format" for override in overrides):
        return typed
    path = Path(file).expanduser().resolve()
    figures = path.with_suffix(".json")
    if (saved := _format_of_evaluation(figures)) is not None:
        source = figures
    elif folder := next((folder for folder in path.parents if RunDir(folder).has_settings()), None):
        saved, source = read_settings(folder).get("format", {}), RunDir(folder).settings_yaml
    else:
        return typed
    try:
        config = FormatConfig(**saved)  # older runs had the default and did not save it
        check_format(config)
    except (TypeError, UserError) as error:
        raise UserError(f"{source} is damaged; type the format of {file}, as in format=tags. ({error})") from error
    return config


def _format_of_evaluation(figures: Path) -> dict[str, Any] | None:
    """The settings of the format in the protocol of an evaluation; None if the file holds no evaluation."""
    try:
        protocol = json.loads(figures.read_text(encoding="utf-8"))["protocol"]
        typed = dict(setting.split("=", 1) for setting in protocol.get("format", "").split())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if "format" in typed:
        return {"name": typed["format"], "reasoning": None, "answer": None}
    return {name.removeprefix("format."): value for name, value in typed.items()}
