"""Everything that a run has saved, read for reports.

Called by the reports of runs and sweeps. It must not draw or compute statistics.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from grpo.config.schema import DEFAULT_CORRECT_BY, FormatConfig
from grpo.core import files
from grpo.core.errors import UserError, first_line, json_type_name
from grpo.core.files import read_json_lines
from grpo.core.metric_names import REWARD, VALIDATION_ACCURACY
from grpo.runs.results import read_results
from grpo.runs.run_dir import RunDir
from grpo.tasks.answer_format import AnswerFormat, answer_format_of
from grpo.tasks.answer_types import ANSWER_TYPES, accuracy_labels


@dataclass(frozen=True)
class SavedRun:
    """What a run has saved; `results` is empty if the run has not finished."""

    folder: Path
    settings: dict[str, Any]
    overrides: list[str]
    choices: dict[str, str]  # config group -> the chosen file; empty if `hydra.yaml` does not list them
    results: dict[str, Any]
    history: pd.DataFrame  # metrics of the logged steps with a rollout, by step
    validations: pd.DataFrame  # figures on the validation problems, by step
    alarms: list[dict[str, Any]]
    transcripts: list[dict[str, Any]]  # step, question, gold, completion

    @property
    def weights(self) -> dict[str, Any]:
        """Reward -> its weight as a setting: a number, or the mapping of a schedule."""
        return self.settings["rewards"]

    @property
    def accuracy_labels(self) -> dict[str, str]:
        """The labels of the two accuracies in tables."""
        data = self.settings["data"]
        name = data.get("answer") or data.get("answer_match")  # the older name
        answer_type = ANSWER_TYPES.get(name, ANSWER_TYPES["number"]).in_format(self.answer_format)
        return accuracy_labels(answer_type, self.settings.get("correct_by", DEFAULT_CORRECT_BY))

    @property
    def answer_format(self) -> AnswerFormat:
        """How its completions show reasoning and answer; older runs had the default and did not save it."""
        return answer_format_of(FormatConfig(**self.settings.get("format", {})))


def read_run(folder: Path) -> SavedRun:
    """What a run has saved, finished or not.

    Raises:
        UserError: the folder is not a run directory, or a file in it is damaged.
    """
    run = RunDir(folder)
    run.require_run()
    settings = _read_yaml(run.settings_yaml, dict)
    if not isinstance(settings.get("rewards"), dict):
        raise UserError(f"{folder} is not the folder of a training run: its settings name no rewards.")
    if not settings.keys() >= {"prompts_per_step", "max_completion_length", "model", "data", "seed"}:
        raise UserError(f"{folder} is not the folder of a training run, and a report is about one.")
    results = read_results(folder)
    lines = read_json_lines(run.metrics_jsonl, {"step"})
    logged = [line for line in lines if "alarm" not in line]
    metrics = pd.DataFrame(logged, columns=None if logged else ["step"])
    try:
        metrics = metrics.set_index("step").astype(float)
    except (ValueError, TypeError) as error:
        raise UserError(f"{run.metrics_jsonl} is damaged: {first_line(error)}.") from error
    return SavedRun(
        folder,
        settings,
        [str(override) for override in _read_yaml(run.overrides_yaml, list) or []],
        _config_choices(_read_yaml(run.hydra_yaml, dict)),
        results or {},
        metrics[metrics[REWARD].notna()] if REWARD in metrics else metrics[:0],
        metrics[metrics[VALIDATION_ACCURACY].notna()] if VALIDATION_ACCURACY in metrics else metrics[:0],
        [line for line in lines if "alarm" in line],
        read_json_lines(run.transcripts_jsonl, {"step", "question", "gold", "completion"}),
    )


def _config_choices(hydra: Any) -> dict[str, str]:
    try:
        return {group: str(name) for group, name in hydra["hydra"]["runtime"]["choices"].items() if name is not None}
    except (TypeError, KeyError, AttributeError):
        return {}


def _read_yaml(path: Path, kind: type) -> Any:
    """The content of a YAML file, of type `kind`; None if there is no such file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, if it is installed, is ten times as fast

    def parse(text: str) -> Any:
        content = yaml.load(text, loader)
        if not isinstance(content, kind):
            raise ValueError(f"it holds {json_type_name(content)}, not {json_type_name(kind())}")
        return content

    return files.parse_file(path, parse) if path.is_file() else None
