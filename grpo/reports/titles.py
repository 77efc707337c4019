"""What a page is about, for its title: policy, data and the settings that were typed.

Called by the pages. It reads no files.
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from grpo.core.text import join_words
from grpo.reports.arms import truncate_text
from grpo.reports.sweep_results import SweepResults
from grpo.runs.saved_run import SavedRun

MAX_CHARACTERS = 140
# Settings that the title has already, or that do not change the numbers of a run.
LEFT_OUT = ("model", "model.path", "data", "data.path", "resume", "threads", "save_steps", "save_total_limit")


def setup_title(model: dict[str, Any], data: dict[str, Any], typed: Sequence[str] = ()) -> str:
    """`tiny on arithmetic: rewards=no_xmlcount num_generations=8`.

    Args:
        model, data: the settings of these groups.
        typed: the overrides.
    """
    policy = _last_part(str(model["path"]).removeprefix("embedded:"))
    problems = " ".join([data["name"], *([_last_part(str(data["path"]))] if data.get("path") else [])])
    settings = [override for override in typed if not _is_left_out(override)]
    return truncate_text(f"{policy} on {problems}" + (f": {' '.join(settings)}" if settings else ""), MAX_CHARACTERS)


def run_title(run: SavedRun) -> str:
    return setup_title(run.settings["model"], run.settings["data"], run.overrides)


def sweep_title(sweep: SweepResults) -> str:
    """`sweep of rewards, tiny on arithmetic`; policy and data are left out if they differ between runs."""
    setups = {setup_title(run.settings["model"], run.settings["data"]) for _, run in sweep.finished_runs}
    varied = truncate_text(join_words(sweep.factors), MAX_CHARACTERS // 2)
    kind = "search" if sweep.maximize else "sweep"
    return ", ".join([f"{kind} of {varied}" if varied else kind, *(setups if len(setups) == 1 else [])])


def _is_left_out(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return key in LEFT_OUT or key.startswith(("tracking", "hydra"))


def _last_part(path: str) -> str:
    """The last part of a path on this machine; a name on the hub stays as it is."""
    return PurePath(path).name if PurePath(path).is_absolute() else path
