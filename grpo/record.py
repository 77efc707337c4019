"""What a run has written down, read back; nothing here draws."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from grpo.errors import UserError, first_line

# What `results.json` must hold to be reported.
RESULTS = {
    "before",
    "after",
    "difference",
    "steps",
    "examples",
    "problems",
    "batch",
    "device",
    "threads",
    "seed",
    "versions",
    "seconds",
}


@dataclass(frozen=True)
class Record:
    """What a run has written down; `results` is empty where it did not end."""

    folder: Path
    settings: dict[str, Any]
    overrides: list[str]
    choices: dict[str, str]  # group -> the file chosen; empty where Hydra has not written it down
    results: dict[str, Any]
    history: pd.DataFrame  # the logged steps with a rollout, by step
    evaluations: pd.DataFrame  # those made while training, by step
    alarms: list[dict[str, Any]]
    transcripts: list[dict[str, Any]]  # step, question, gold, completion

    @property
    def weights(self) -> dict[str, float]:
        return self.settings["rewards"]


def read(folder: Path) -> Record:
    """The record of a run, finished or not.

    Raises:
        UserError: the folder is not that of a run, or a file in it is damaged.
    """
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise UserError(
            f"{folder} is not the folder of a run; give the one that a run named at its end, outputs/DATE/TIME."
        )
    settings = _parsed(folder / ".hydra" / "config.yaml", _yaml)
    if not isinstance(settings, dict) or not isinstance(settings.get("rewards"), dict):
        raise UserError(f"{folder} is not the folder of a training run: its settings name no rewards.")
    if not settings.keys() >= {"prompts_per_step", "max_completion_length", "model", "data", "seed"}:
        raise UserError(f"{folder} is not the folder of a training run, which is all that a report is about.")
    results = _parsed(folder / "results.json", json.loads)
    if results is not None and not _whole(results):
        raise UserError(f"{folder / 'results.json'} is damaged, or was written by another version of this project.")
    lines = _lines(folder / "metrics.jsonl", {"step"})
    logged = [line for line in lines if "alarm" not in line]
    metrics = pd.DataFrame(logged, columns=None if logged else ["step"])
    try:
        metrics = metrics.set_index("step").astype(float)
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / 'metrics.jsonl'} is damaged: {first_line(error)}.") from error
    return Record(
        folder,
        settings,
        [str(each) for each in _parsed(folder / ".hydra" / "overrides.yaml", _yaml) or []],
        _choices(_parsed(folder / ".hydra" / "hydra.yaml", _yaml)),
        results or {},
        metrics[metrics["reward"].notna()] if "reward" in metrics else metrics[:0],
        metrics[metrics["eval/accuracy_strict"].notna()] if "eval/accuracy_strict" in metrics else metrics[:0],
        [line for line in lines if "alarm" in line],
        _lines(folder / "transcripts.jsonl", {"step", "question", "gold", "completion"}),
    )


def _whole(results: Any) -> bool:
    return (
        isinstance(results, dict)
        and results.keys() >= RESULTS
        and all(isinstance(results[when], dict) for when in ("before", "after"))
        and isinstance(results["after"].get("n"), int)
        and isinstance(results["steps"], int)
    )


def _choices(hydra: Any) -> dict[str, str]:
    try:
        return {group: str(name) for group, name in hydra["hydra"]["runtime"]["choices"].items() if name is not None}
    except (TypeError, KeyError, AttributeError):
        return {}


def _yaml(text: str) -> Any:
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # libyaml, where it is: ten times as fast


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged: {first_line(error)}.") from error


def _lines(path: Path, needed: set[str]) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file, each with the `needed` keys; the last one may still be being written."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            found.append(json.loads(line))
            if not isinstance(found[-1], dict) or not found[-1].keys() >= needed:
                raise ValueError(f"it does not hold {', '.join(sorted(needed))}")
        except ValueError as error:
            raise UserError(f"{path} is damaged in line {number}: {first_line(error)}.") from error
    return found
