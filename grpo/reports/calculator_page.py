"""The page of the calculator for a stack of rewards: its settings, its scores by Python, and the completions of a run.

Called by `grpo.calculator` and by grpo/reports/calculator_server.py. Without a stack, the page is the file
grpo/assets/calculator.html, which computes the built-in rewards itself. It must not import torch or call a reward.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from grpo.config.schema import AnyConfig, Config
from grpo.config.weights import format_weights
from grpo.core.errors import UserError
from grpo.core.files import read_json_lines
from grpo.core.metric_names import reward_weight
from grpo.core.paths import display_path
from grpo.evaluation.completion_files import read_completions
from grpo.rewards.scoring_process import ScoringProcess, StackDescription
from grpo.runs.run_dir import RunDir

SCRIPT = Path(__file__).parents[1] / "assets" / "calculator_endpoint.js"
PAGE_SCRIPT = '<script id="page">'  # in the page; the script of the endpoint is inserted before it
# algorithm.estimator -> the same scaling of advantages on the page
SCALES = {"group_std": "group", "batch_std": "batch", "no_scaling": "none"}


@dataclass
class Session:
    """A stack of rewards that the page shows, and the run whose completions it shows, if there is one.

    Attributes:
        token: what the address of the page and each of its requests must carry.
    """

    config: AnyConfig
    scoring: ScoringProcess
    description: StackDescription
    run: RunDir | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @classmethod
    def start(cls, config: AnyConfig, run: Path | None = None) -> "Session":
        """Load the rewards of `config` in a process of their own.

        Raises:
            UserError: they cannot be loaded.
        """
        scoring = ScoringProcess(config)
        return cls(config, scoring, scoring.describe(), None if run is None else RunDir(run))

    @cached_property
    def files(self) -> dict[int, Path]:
        """Step -> the file with its completions."""
        files = self.run.completion_files() if self.run else []
        numbers = [file.stem.removeprefix("step_") for file in files]
        return {int(number): file for number, file in zip(numbers, files, strict=True) if number.isdecimal()}

    def notes(self) -> list[str]:
        """Lines for the terminal: what is scored, and what differs from training."""
        notes = [f"Python scores {format_weights(self.description.weights)}."]
        if self.config.placebo:
            notes.append("placebo=true: training permutes the totals within each group; the page does not.")
        if self.run and not self.files:
            notes.append(f"{display_path(self.run.path)} has no completions, so the page starts with examples.")
        return notes

    def page(self, page: str) -> str:
        """The HTML `page` with this stack, and with the groups of the first step of the run.

        Raises:
            UserError: the completions of that step are damaged.
        """
        algorithm = self.config.algorithm if isinstance(self.config, Config) else None
        estimator = algorithm.advantage_estimator if algorithm else "group_std"
        content: dict[str, Any] = asdict(self.description) | {
            "token": self.token,
            "run": display_path(self.run.path) if self.run else None,
            "rewards": list(self.description.weights),
            "weights": list(self.description.weights.values()),
            "format": asdict(self.config.format),
            "answer": self.config.data.answer,
            "scale": SCALES.get(estimator, "group"),
            "estimator": None if estimator in SCALES else estimator,
            "gate": algorithm.gate if algorithm and algorithm.gate != "off" else None,
            "steps": list(self.files),
            "first": self.step(next(iter(self.files))) if self.files else None,
        }
        text = json.dumps(content).replace("<", "\\u003c")  # a text may contain </script>
        script = SCRIPT.read_text(encoding="utf-8")
        inserted = (
            f'<script id="served" type="application/json">{text}</script>\n<script id="endpoint">\n{script}</script>\n'
        )
        assert page.count(PAGE_SCRIPT) == 1 and page.count("default-src 'none'") == 1
        page = page.replace("default-src 'none'", "default-src 'none'; connect-src 'self'")
        return page.replace(PAGE_SCRIPT, inserted + PAGE_SCRIPT)

    def step(self, step: int) -> dict[str, Any]:
        """The groups of a step, the number of the group to show first, and the weights of that step.

        Raises:
            UserError: the run has no completions of this step, or their file is damaged.
        """
        if step not in self.files:
            raise UserError(f"step {step}: the run has no completions of this step.")
        examples, completions = read_completions(self.files[step], "completions")
        groups = [
            {
                "step": step,
                "question": example.question,
                "gold": example.gold,
                "columns": {name: json.dumps(value, default=str) for name, value in example.columns.items()},
                "completions": [],
            }
            for example in examples
        ]
        for problem, sample in sorted(completions):
            groups[problem]["completions"].append(completions[problem, sample].text)  # type: ignore[attr-defined]
        metrics = self._metrics.get(step, {})
        weights = [metrics.get(reward_weight(name), weight) for name, weight in self.description.weights.items()]
        return {"groups": groups, "at": _first_with_advantages(self.files[step]), "weights": weights}

    @cached_property
    def _metrics(self) -> Mapping[int, Mapping[str, Any]]:
        """Step -> its line of metrics.jsonl."""
        assert self.run is not None
        lines = read_json_lines(self.run.metrics_jsonl, {"step"})
        return {line["step"]: line for line in lines if "alarm" not in line}


def _first_with_advantages(file: Path) -> int:
    """The number of the first group of a file of completions whose advantages are not all zero; else 0."""
    import pandas as pd  # a stack without a run does not need it

    table = pd.read_parquet(file)
    if "advantage" not in table:
        return 0
    largest = table["advantage"].abs().groupby([table["question"], table["gold"]], sort=False).max()
    return int((largest.to_numpy() > 0).argmax())
