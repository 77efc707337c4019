"""Reproducing a finished run: what it is run again with, and whether the numbers are the same to the last bit.

`grpo.reproduce` calls it. Nothing here trains.
"""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.errors import UserError
from grpo.core.files import file_sha256, read_json_lines
from grpo.core.metric_names import is_time
from grpo.runs.labels import resume_command
from grpo.runs.results import read_results
from grpo.runs.run_dir import RunDir
from grpo.runs.settings import read_config, read_overrides


def reproducible_settings(folder: Path) -> tuple[Config, list[str], dict[str, Any]]:
    """The settings of a finished run without tracking, its overrides, and its provenance.

    Raises:
        UserError: the run is not finished, or one process cannot run it again from its settings.
    """
    overrides, config = read_overrides(folder), read_config(folder)
    results = finished_results(folder)
    provenance = results.get("provenance") or {}
    if "resumed" not in provenance:
        raise UserError(f"{folder}/results.json was written by another version of this project.")
    processes = results["batch"].get("world_size")
    if not isinstance(processes, int):
        raise UserError(f"{folder}/results.json is damaged: batch.world_size is {str(processes)[:50]!r}.")
    if processes > 1:
        # Not the saved command: whoever made the directory could have put any program there.
        command = f"{distributed.launch_command(processes)} {shlex.join([*overrides, 'hydra.run.dir=FOLDER'])}"
        raise UserError(
            f"{folder} was trained by {processes} processes, and this command starts one. To run it again: {command}"
        )
    lengths = ("max_steps", "num_train_epochs")
    extended = any(key in lengths for resume in provenance["resumed"] for key in resume["settings"])
    if extended and config.optimizer.schedule != "constant":
        raise UserError(
            f"{folder} was resumed with more steps, which changed its learning rates: no single run has the same ones."
        )
    config = replace(config, tracking=replace(config.tracking, name="none"))
    return config, [*overrides, "tracking=none"], provenance


def numeric_differences(first: Path, second: Path) -> list[str]:
    """Where the numbers of two finished runs differ, a line each; empty if all are the same to the last bit.

    Compares the logged metrics except times, the held-out figures before and after, and the final weights.

    Raises:
        UserError: a run is not finished.
    """
    results = [finished_results(folder) for folder in (first, second)]
    differences = _first_metric_difference(*(_metrics(folder) for folder in (first, second)))
    for when in ("before", "after"):
        left, right = (result[when] for result in results)
        for name in left.keys() | right.keys():
            if left.get(name) != right.get(name) and name != "intervals":
                differences.append(f"{when} training, {name}: {left.get(name)} and {right.get(name)}")
    weights = [_weight_checksums(folder) for folder in (first, second)]
    return differences + ["the final weights"] * (weights[0] != weights[1])


def finished_results(folder: Path) -> dict[str, Any]:
    """The results of a finished run.

    Raises:
        UserError: the run is not finished, or its metrics are missing.
    """
    if (results := read_results(folder)) is None:
        raise UserError(f"{folder} holds a run that was not finished; {resume_command(folder)} resumes it.")
    _metrics(folder)
    return results


def _weight_checksums(folder: Path) -> dict[str, str]:
    checksums = {path.name: file_sha256(path) for path in RunDir(folder).policy.glob("*.safetensors")}
    if not checksums:
        raise UserError(f"{folder}/policy holds no weights; {resume_command(folder)} writes them again.")
    return checksums


def _metrics(folder: Path) -> list[dict[str, Any]]:
    if not RunDir(folder).metrics_jsonl.is_file():
        raise UserError(f"{folder}/metrics.jsonl is missing.")
    return read_json_lines(RunDir(folder).metrics_jsonl, {"step"})


def _first_metric_difference(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[str]:
    for left, right in zip(first, second, strict=False):
        if left.get("step") != right.get("step"):
            return [f"metrics.jsonl: a line of step {left.get('step')} against one of step {right.get('step')}"]
        names = [name for name in left | right if not is_time(name) and left.get(name, "") != right.get(name, "")]
        if names:
            name, more = names[0], f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            return [
                f"step {left['step']}, {name}: {left.get(name)} and {right.get(name)}{more}; the first that differs"
            ]
    if len(first) != len(second):
        return [f"metrics.jsonl: {len(first)} lines and {len(second)}"]
    return []
