"""What lies in a run directory, and whether a folder is one.

Called by everything that opens a run or a sweep. It knows nothing of how a run is trained or resumed.
"""

import os
from contextlib import suppress
from pathlib import Path

from grpo.config import overrides as typed_overrides
from grpo.core.errors import UserError
from grpo.core.paths import display_path

SWEEP = "sweep.json"  # what the jobs of a sweep are, in its folder
ERROR = "error.txt"  # why a job of a sweep has no results, in its own
LATEST = "latest"


def holds_run(folder: Path) -> bool:
    return (folder / ".hydra" / "config.yaml").exists() or (folder / "completions").exists()


def holds_sweep(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SWEEP, "multirun.yaml"))


def refuse_used(folder: Path, setting: str) -> None:
    """
    Raises:
        UserError: the folder that `setting` gives to something new holds a run or a sweep.
    """
    if holds_run(folder) or holds_sweep(folder):
        what = "run" if holds_run(folder) else "sweep"
        raise UserError(
            f"{display_path(folder)} holds a {what}, which is not overwritten; give another folder, {setting}."
        )


def followed(folder: Path) -> Path:
    """The folder that a link such as `outputs/latest` points to."""
    return Path(display_path(folder.resolve())) if folder.is_symlink() else folder


def point_latest(folder: Path) -> None:
    """Have `outputs/latest` point to a run or a sweep in `outputs/`, if the file system supports links."""
    outputs, target = Path("outputs").resolve(), folder.resolve()
    if not target.is_relative_to(outputs):
        return
    link = outputs / f".{LATEST}.{os.getpid()}"
    with suppress(OSError):
        link.symlink_to(target.relative_to(outputs), target_is_directory=True)
        os.replace(link, outputs / LATEST)
    link.unlink(missing_ok=True)


def quoted(folder: Path) -> str:
    """A path as Hydra takes it for a value."""
    return typed_overrides.quote_value(str(folder))
