"""`metrics.jsonl` of a run: one JSON line for each logged step, each validation and each alarm.

The recorder appends to it while a run trains, and reads it once when a run resumes. `grpo.runs` reads it for reports.
"""

import json
import math
from pathlib import Path
from typing import Any


class MetricsFile:
    """The metrics of a run on disk; only the main process writes."""

    def __init__(self, path: Path, writes: bool) -> None:
        self.path, self.writes = path, writes

    def append_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Append the metrics of `step`; a value that is not finite is written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.append({"step": step, **finite})

    def append(self, line: dict[str, Any]) -> None:
        """Append one line."""
        if not self.writes:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def read(self) -> list[tuple[dict[str, float], int]]:
        """(metrics, step) of every line, without the alarms; null is read as nan."""
        if not self.path.exists():
            return []
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [
            (
                {name: math.nan if value is None else value for name, value in line.items() if name != "step"},
                line["step"],
            )
            for line in lines
            if "alarm" not in line
        ]
