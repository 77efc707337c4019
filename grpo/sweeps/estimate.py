"""How long a sweep will take, by the time of a step that was stated or that an earlier run needed.

Used by `runner` before the first job starts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError
from grpo.core.paths import display_path
from grpo.core.text import format_duration
from grpo.runs.results import read_results
from grpo.runs.run_dir import RunDir
from grpo.sweeps.jobs import Job

EARLIER = 100  # runs that are looked through for how long a step takes


def how_long(jobs: Sequence[Job], parallel: int, stated: float | None) -> str | None:
    """What all of `jobs` will take, by a `stated` time a step or by a run that has ended; None where neither tells."""
    seconds, source = [], ""
    if stated:
        start, seconds = 0.0, [stated * (job.steps() or 0) for job in jobs]
        source = f"{stated:g} s a step, as hydra.sweeper.step_seconds says"
    elif earlier := earlier_run(jobs[0]):
        folder, results = earlier
        phases, batch = results["seconds"], results["batch"]
        completions = batch["num_generations"] * batch["prompts_per_step"]
        step = results["train_seconds"] / max(1, results["steps"])
        apart = sum(phases.values()) - phases["train"] - phases["start"]
        start, problems = phases["start"], results["problems"]["train"]
        seconds = [apart + (job.steps(problems) or 0) * step * job.completions / completions for job in jobs]
        source = f"{step:.2g} s a step of {completions} completions, as in {display_path(folder)}"
    if not seconds or not all(seconds):
        return None
    whole = start + max(sum(seconds) / parallel, *seconds)
    return f"about {format_duration(whole)}, by {source}"


def earlier_run(job: Job) -> tuple[Path, dict[str, Any]] | None:
    """The newest finished run of the same policy on the same data, here or below outputs/."""
    outputs = Path("outputs")
    folders = [*job.folder.parent.glob("*"), *outputs.glob("*/*"), *outputs.glob("sweeps/*/*/*")]
    finished = [folder for folder in folders if RunDir(folder).results_json.exists()]
    for folder in sorted(finished, key=lambda folder: -RunDir(folder).results_json.stat().st_mtime)[:EARLIER]:
        try:
            results = read_results(folder) or {}
            settings = results["provenance"]["settings"]
            same = all(settings[key] == getattr(job.config, key) for key in ("device", "max_completion_length", "bf16"))
            same = same and settings["model"]["path"] == job.config.model.path
            if same and settings["data"]["name"] == job.config.data.name and results["steps"]:
                return folder, results
        except (OSError, UserError, KeyError, TypeError):  # of another version, or damaged
            continue
    return None
