"""The duration of a sweep, estimated from a time per step: a setting, or measured in an earlier run.

Used by `runner` before the first job starts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError
from grpo.core.metric_names import TRAIN_SECONDS
from grpo.core.paths import display_path
from grpo.core.text import format_duration
from grpo.runs.results import read_results
from grpo.runs.run_dir import RunDir
from grpo.sweeps.jobs import Job

MAX_EARLIER_RUNS = 100  # the most runs that are searched for a time per step


def estimate_duration(jobs: Sequence[Job], parallel: int, step_seconds: float | None) -> str | None:
    """The duration of `jobs` as text, with the source of the estimate; None if there is no source.

    Args:
        parallel: the number of jobs that run at the same time.
        step_seconds: the time per step; None: use the time of an earlier run.
    """
    seconds, source = [], ""
    if step_seconds:
        start, seconds = 0.0, [step_seconds * (job.steps() or 0) for job in jobs]
        source = f"{step_seconds:g} s per step, the value of hydra.sweeper.step_seconds"
    elif earlier := find_earlier_run(jobs[0]):
        folder, results = earlier
        phases, batch = results["seconds"], results["batch"]
        completions = batch["num_generations"] * batch["prompts_per_step"]
        step = results[TRAIN_SECONDS] / max(1, results["steps"])
        other_phases = sum(phases.values()) - phases["train"] - phases["start"]
        start, problems = phases["start"], results["problems"]["train"]
        seconds = [
            other_phases + (job.steps(problems) or 0) * step * job.completions_per_step / completions for job in jobs
        ]
        source = f"{step:.2g} s per step of {completions} completions, as in {display_path(folder)}"
    if not seconds or not all(seconds):
        return None
    total = start + max(sum(seconds) / parallel, *seconds)
    return f"about {format_duration(total)}, by {source}"


def find_earlier_run(job: Job) -> tuple[Path, dict[str, Any]] | None:
    """The newest finished run of the same policy on the same data, here or below outputs/."""
    outputs = Path("outputs")
    folders = [*job.folder.parent.glob("*"), *outputs.glob("*/*"), *outputs.glob("sweeps/*/*/*")]
    finished = [folder for folder in folders if RunDir(folder).results_json.exists()]
    for folder in sorted(finished, key=lambda folder: -RunDir(folder).results_json.stat().st_mtime)[:MAX_EARLIER_RUNS]:
        try:
            results = read_results(folder) or {}
            settings = results["provenance"]["settings"]
            same = all(settings[key] == getattr(job.config, key) for key in ("device", "max_completion_length", "bf16"))
            model = settings["model"]
            same = same and (model["path"], model.get("gguf")) == (job.config.model.path, job.config.model.gguf)
            if same and settings["data"]["name"] == job.config.data.name and results["steps"]:
                return folder, results
        except (OSError, UserError, KeyError, TypeError):  # written by another version, or damaged
            continue
    return None
