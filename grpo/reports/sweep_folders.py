"""Which folders below a folder are training runs of this project.

Used by `grpo.report` to tell a sweep from a run and from other folders, and by `sweep_results` to find the runs. It
reads no results.
"""

import re
from collections.abc import Iterator
from math import inf
from pathlib import Path, PurePath

from grpo.core.errors import UserError
from grpo.runs.run_dir import RunDir, SweepDir

# Folders that this project writes beside runs, and that hold no runs.
OTHER_FOLDERS = {"audits", "evaluations", "figures", "plans", "shared", "sweeps"}


def holds_runs(folder: Path) -> bool:
    return SweepDir(folder).sweep_json.is_file() or next(find_runs(folder), None) is not None


def _first_foreign_folder(folder: Path) -> Path | None:
    """The first subfolder that this project did not write; None if there is none, or if `folder` is a sweep."""
    if SweepDir(folder).sweep_json.is_file():
        return None
    for child in _subfolders(folder):
        below = _subfolders(child)
        if (
            child.name in OTHER_FOLDERS
            or _belongs_to_project(child)
            or (below and all(map(_belongs_to_project, below)))
        ):
            continue
        return child
    return None


def refuse_foreign(folder: Path) -> None:
    """
    Raises:
        UserError: the folder contains something that this project did not write.
    """
    if other := _first_foreign_folder(folder):
        raise UserError(
            f"{folder} also contains other things than runs, such as {other.name}, so nothing is written there. "
            "Name a folder for report.html and sweep.csv: --out FOLDER"
        )


def _belongs_to_project(folder: Path) -> bool:
    return _is_run(folder) or SweepDir(folder).sweep_json.is_file() or RunDir(folder).train_log.is_file()


def _subfolders(folder: Path) -> list[Path]:
    """The subfolders, sorted by name, without hidden ones and links such as outputs/latest."""
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_symlink()]
        return sorted((path for path in paths if path.is_dir()), key=lambda path: natural_key(path.name))
    except OSError:  # not readable
        return []


def find_runs(folder: Path) -> Iterator[Path]:
    """The runs in a folder and in its subfolders, as in outputs/DATE/TIME."""
    for child in _subfolders(folder):
        yield from [child] if _is_run(child) else filter(_is_run, _subfolders(child))


def _is_run(folder: Path) -> bool:
    """Whether the folder contains a training run of this project. Other programs also have a `.hydra/`."""
    try:
        with RunDir(folder).settings_yaml.open(encoding="utf-8", errors="replace") as settings:
            text = settings.read(100_000)
    except OSError:
        return False
    ours = all(re.search(rf"^{key}:", text, re.M) for key in ("rewards", "prompts_per_step"))
    return ours or RunDir(folder).completions.is_dir()


def natural_key(path: str) -> list[tuple[float, str]]:
    """A sort key that puts job 10 after job 9."""
    return [(int(part), "") if part.isdecimal() else (inf, part) for part in PurePath(path).parts]
