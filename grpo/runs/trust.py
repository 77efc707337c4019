"""Trust in run directories: only runs that this user made may run code from their saved settings.

A run directory can come from anybody. Commands that read one call `require_trust` before they use a saved setting that
runs code; `save_settings` calls `sign`. Nothing here knows which command asks.
"""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError
from grpo.core.paths import display_path
from grpo.core.text import printable
from grpo.runs.executed_settings import describe_executed
from grpo.runs.run_dir import LATEST
from grpo.runs.signature import delete_bytecode, reason_for_distrust

WRITTEN_IN_PLACE = (".diff", ".jsonl", ".lock", ".log")


def require_trust(
    folder: Path,
    settings: dict[str, Any],
    *,
    advice: str,
    settings_used: Collection[str] | None = None,
    settings_typed: Collection[str] = (),
    trusted: bool = False,
    policy: bool = False,
) -> None:
    """Refuse a run directory whose saved settings would run code, unless this user made it.

    Args:
        settings: as they are saved, interpolations unresolved.
        advice: what to type instead, printed at the end of the message.
        settings_used: the settings and groups that the command reads from the folder; None means all.
        settings_typed: those on the command line, which replace the saved ones.
        trusted: the user has typed that the folder is trusted.
        policy: the command also loads `policy/` of the folder.

    Raises:
        UserError: it lists what would be executed. Nothing in the folder is changed.
    """
    executed_lines = []
    for key, line in describe_executed(folder, settings, policy):
        group = key.partition(".")[0]
        if (settings_used is None or group in settings_used) and not {key, group} & set(settings_typed):
            executed_lines.append(line)
    if trusted or not executed_lines:
        return
    if (reason := reason_for_distrust(folder, settings, policy)) is None:
        return delete_bytecode(folder, settings)
    lines = "".join(f"\n  {printable(line).replace(chr(10), chr(92) + 'n')}" for line in executed_lines)
    raise UserError(
        f"{display_path(folder)}: {reason}, "
        f"and its settings would execute code or read your environment:{lines}\n{advice}"
    )


def refuse_links(folder: Path, trusted: bool = False) -> None:
    """Refuse a run directory or the folder of a sweep that contains links, through which files elsewhere would change.

    Refused are symbolic links, and hard links of files that are written in place. Links in `wandb/` are made by W&B,
    and the link `latest` by `link_latest`; these are allowed.

    Raises:
        UserError: there is a link, and the user has not typed that the folder is trusted.
    """
    if trusted:
        return
    for parent, folders, files in os.walk(folder):
        at_top = Path(parent) == folder
        for name in sorted((*folders, *files)):
            path = Path(parent, name)
            status = path.lstat()
            symbolic = stat.S_ISLNK(status.st_mode) and not (at_top and name == LATEST)
            hard = stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and name.endswith(WRITTEN_IN_PLACE)
            if symbolic or hard:
                kind = "symbolic" if symbolic else "hard"
                raise UserError(
                    f"{printable(display_path(path))} is a {kind} link: what is written there changes a file or a "
                    "folder elsewhere, and nothing has been written. Put a copy in its place; for "
                    "a link of your own in the folder of a run, add trust_run=true."
                )
        if at_top and "wandb" in folders:
            folders.remove("wandb")
