"""The files of a preflight: the numbers, every completion, and the solve rate of each problem.

Called by `grpo.preflight`. `data.difficulty` reads difficulty.jsonl (grpo/tasks/difficulty.py), `grpo.audit
completions=` and `grpo.evaluate completions=` read completions.parquet. It computes no figure.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo.core.environment_values import to_interpolations
from grpo.core.files import atomic_write, write_json
from grpo.forecast.advice import Advice
from grpo.forecast.forecast import Forecast
from grpo.forecast.verdict import headline
from grpo.tasks.column_table import add_dataset_columns


class PreflightDir:
    """The paths in the folder of a preflight."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.preflight_html = path / "preflight.html"  # the page (grpo/reports/preflight_report.py)
        self.preflight_json = path / "preflight.json"  # the numbers and the verdict
        self.completions_parquet = path / "completions.parquet"  # every completion with its scores
        self.difficulty_jsonl = path / "difficulty.jsonl"  # the solve rate of each problem


def save_completions(folder: PreflightDir, forecast: Forecast) -> None:
    import pyarrow
    from pyarrow import parquet

    evaluation = forecast.evaluation
    with atomic_write(folder.completions_parquet) as partial:
        table = pyarrow.table(evaluation.columns())
        parquet.write_table(add_dataset_columns(table, evaluation.row_examples()), partial)


def save_difficulty(folder: PreflightDir, forecast: Forecast, provenance: dict[str, Any]) -> None:
    """Write a line for each problem; it names the policy that was asked, and the data."""
    source = {"policy": provenance["model"], "data": provenance["data"]["train"]["sha256"]}
    source |= {"samples": forecast.samples, "temperature": forecast.config.temperature}
    with atomic_write(folder.difficulty_jsonl) as partial, partial.open("w", encoding="utf-8") as file:
        for example, rate in zip(forecast.evaluation.examples, forecast.solve_rates, strict=True):
            line = {"question": example.question, "solve_rate": float(rate), **source}
            file.write(json.dumps(to_interpolations(line), ensure_ascii=False) + "\n")


def save_forecast(folder: PreflightDir, forecast: Forecast, advice: Sequence[Advice], facts: dict[str, Any]) -> None:
    """Write the numbers, the verdict, and `facts` about what was asked."""
    write_json(
        folder.preflight_json,
        {
            "verdict": headline(forecast, advice),
            "advice": [asdict(each) for each in advice],
            "problems": forecast.problems,
            "samples": forecast.samples,
            "figures": {name: forecast.share(name)._asdict() for name in forecast.intervals},
            "solve_rates": forecast.histogram,
            "groups": {k: _group_as_json(forecast, k) for k in forecast.groups},
            "most_mixed_groups_per_token": forecast.cheapest_k,
            "first_step": {name: estimate._asdict() for name, estimate in forecast.step.items()},
            "setup": asdict(forecast.setup),
            "costs": None if forecast.costs is None else asdict(forecast.costs),
            "frequent_answers": dict(forecast.frequent_answers[:10]),
            **facts,
        },
    )


def _group_as_json(forecast: Forecast, k: int) -> dict[str, Any]:
    group = forecast.groups[k]
    values = {name: getattr(group, name) for name in ("mixed", "none_right", "all_right", "differing", "silent")}
    estimates = {name: estimate._asdict() for name, estimate in values.items()}
    return estimates | {"mixed_per_1000_tokens": group.mixed_per_1000_tokens}
