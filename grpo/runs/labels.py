"""The name of a run or a sweep, for trackers and for the command that resumes it.

Called by the launch of a run and by trackers. It does not know which tracker is used.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from grpo.core import distributed
from grpo.core.errors import UserError
from grpo.core.files import parse_file, parse_json_object
from grpo.core.paths import display_path
from grpo.runs.run_dir import SweepDir, quoted_path


@dataclass(frozen=True)
class RunLabel:
    """The names of a run in a tracker."""

    name: str
    group: str | None = None  # its sweep
    tags: tuple[str, ...] = ()  # its experiments


def read_sweep_entry(folder: Path) -> dict[str, Any]:
    """The content of `sweep.json`, with the `name` of this run among its jobs; empty if the run is in no sweep."""
    try:
        sweep = parse_file(SweepDir(folder.parent).sweep_json, parse_json_object)
        return {job["folder"]: sweep | {"name": job["name"]} for job in sweep["jobs"]}.get(folder.name, {})
    except (OSError, UserError, KeyError, TypeError):
        return {}


def sweep_command(folder: Path) -> str | None:
    """The command that started the sweep that a run is a job of; None for any other run."""
    return read_sweep_entry(folder).get("command")


def run_name(folder: Path) -> str:
    """The name of a run or a sweep: its folder's date and time."""
    return "-".join(folder.absolute().parts[-2:])


def run_label(folder: Path, overrides: Sequence[str]) -> RunLabel:
    """The names of a run in a tracker: a job of a sweep is named by its overrides, any other run by its folder."""
    experiments: Any = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group == "experiment":
            experiments = override.value() or []
    tags = tuple(map(str, [experiments] if isinstance(experiments, str) else experiments))
    sweep = read_sweep_entry(folder)
    return RunLabel(sweep["name"], run_name(folder.parent), tags) if sweep else RunLabel(run_name(folder), None, tags)


def resume_command(folder: Path) -> str:
    """The command that resumes the run, as a person types it in a shell."""
    return f"{distributed.launch_command()} {shlex.quote(f'resume={quoted_path(Path(display_path(folder)))}')}"
