"""The state of a job, read from the files in its folder.

Used by `progress` and `launchers`. It imports nothing heavy: `grpo.train` imports it at every start.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from grpo.core.metric_format import format_accuracies, format_metric
from grpo.core.metric_names import REWARD, STRICT_FORMAT
from grpo.runs.run_dir import RunDir

if TYPE_CHECKING:
    from grpo.sweeps.jobs import Job

POLL_SECONDS = 0.5  # between two readings of the jobs' files


def describe_outcome(results: dict[str, Any] | str, labels: Mapping[str, str]) -> str:
    """How a job ended, in a few words, from its results or from the message of its error.

    Args:
        labels: the labels of the two accuracies.
    """
    if isinstance(results, str):
        return f"failed: {shorten(results, 300, placeholder=' ...')}"
    after = results["after"]
    right, form = format_accuracies(after, labels), format_metric(STRICT_FORMAT, after[STRICT_FORMAT])
    seconds = sum(results["seconds"].values())
    early = f"; ended by {results['stopped_by']} after step {results['steps']}" if results["stopped_by"] else ""
    return f"{right}, exact format {form}, {seconds:.0f} s{early}"


def last_step(folder: Path) -> int:
    """The last step in the metrics of a run."""
    return max((int(line["step"]) for line in read_last_metrics(folder)), default=0)


def read_last_metrics(folder: Path) -> list[dict[str, Any]]:
    """The last lines of the metrics of a run; empty before its first step."""
    try:
        with RunDir(folder).metrics_jsonl.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
            lines = file.read().splitlines()
    except OSError:
        return []
    parsed = []
    for line in lines:
        with suppress(ValueError, RecursionError):  # the first and the last line may be incomplete
            parsed.append(json.loads(line))
    return [line for line in parsed if isinstance(line, dict) and isinstance(line.get("step"), int)]


def log_modified_at(folder: Path) -> float | None:
    """The time of the last write to a run's log, in seconds since the epoch; None if there is no log."""
    try:
        return RunDir(folder).train_log.stat().st_mtime
    except OSError:
        return None


def describe_state(job: "Job") -> str:
    """The phase of a running job, in a few words."""
    lines, steps = read_last_metrics(job.folder), job.steps()
    if not lines:
        evaluated = RunDir(job.folder).evaluation("before").exists()
        return "at its first step" if evaluated else "loading and evaluating the policy"
    step = max(line["step"] for line in lines)
    if step == steps:
        return "evaluating after training"
    total = f" of {steps}" if steps else ""
    rewards = [line[REWARD] for line in lines if isinstance(line.get(REWARD), float | int)]
    return f"step {step}{total}" + (f", reward {rewards[-1]:.2f}" if rewards else "")
