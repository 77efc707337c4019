"""The answer format of the run whose directory holds a file of completions.

Called by `grpo.evaluate` and `grpo.audit`, unless a format is typed. It must not read the completions.
"""

from collections.abc import Sequence
from pathlib import Path

from grpo.config.schema import FormatConfig
from grpo.config.validation import check_format
from grpo.core.errors import UserError
from grpo.runs.run_dir import RunDir
from grpo.runs.settings import override_key, read_settings


def format_of_file(file: str | None, typed: FormatConfig, overrides: Sequence[str]) -> FormatConfig:
    """The format to score the completions of `file` in: that of the run in whose directory it is.

    It is `typed`, the format of the settings, if `overrides` choose one, or if there is no such run.

    Raises:
        UserError: the settings of the run are damaged.
    """
    if file is None or any(override_key(override).partition(".")[0] == "format" for override in overrides):
        return typed
    folders = Path(file).expanduser().resolve().parents
    folder = next((folder for folder in folders if RunDir(folder).has_settings()), None)
    if folder is None:
        return typed
    saved = read_settings(folder).get("format", {})  # older runs had the default and did not save it
    try:
        config = FormatConfig(**saved)
        check_format(config)
    except (TypeError, UserError) as error:
        raise UserError(
            f"{RunDir(folder).settings_yaml} is damaged; type the format of {file}, as in format=tags. ({error})"
        ) from error
    return config
