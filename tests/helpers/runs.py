"""What a run directory holds, read and compared.

Called by the tests that train, resume and repeat runs.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from grpo.core.metric_names import is_time
from grpo.runs.reproduction import numeric_differences

# The rewards of the default stack.
STACK = ["correctness", "int", "strict_format", "soft_format", "xmlcount"]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not is_time(name)} for row in rows]


def assert_same(first: Path, second: Path) -> None:
    assert numeric_differences(first, second) == []
    said = [(out / "transcripts.jsonl").read_text() for out in (first, second)]
    assert said[0] == said[1]
    tables = [sorted((out / "completions").iterdir()) for out in (first, second)]
    assert [path.name for path in tables[0]] == [path.name for path in tables[1]]
    for paths in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(*map(pd.read_parquet, paths))


def metrics(out: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without those of alarms."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "alarm" not in row]
