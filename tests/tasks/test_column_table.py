"""The columns of the dataset travel with completions: into Parquet files, and back as the columns of the problem."""

import json
from typing import Any

import pandas as pd
import pytest

from grpo.evaluation.completion_files import read_completions
from grpo.tasks.column_table import add_dataset_columns
from grpo.tasks.example import Example

ROWS: list[dict[str, Any]] = [
    {
        "question": "a?",
        "problem": "a?",
        "level": 3,
        "tags": ["x", "é"],
        "info": {"n": [1, 2]},
        "mixed": 1,
        "big": 2**70,
    },
    {"question": "b?", "problem": "b?", "level": None, "tags": [], "info": None, "mixed": "one", "big": 1, "late": 0.5},
]


def saved(path, completions: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    examples = [Example(row["question"], "1", columns=row) for row in ROWS]
    parquet.write_table(add_dataset_columns(pa.table(completions), examples), path)


def test_columns_are_read_back(tmp_path) -> None:
    saved(
        tmp_path / "x.parquet",
        {
            "question": ["a?", "b?"],
            "gold": ["1", "1"],
            "completion": ["1", "2"],
            "problem": [0, 1],
            "total": [1.0, 0.0],
        },
    )
    table = pd.read_parquet(tmp_path / "x.parquet")
    added = ["data.problem", "level", "tags", "info", "mixed", "big", "late"]
    assert list(table) == ["question", "gold", "completion", "problem", "total", *added]
    assert json.loads(table["info"][0]) == {"n": [1, 2]} and table["data.problem"][0] == "a?"
    examples, _ = read_completions(tmp_path / "x.parquet", "completions")
    for example, row in zip(examples, ROWS, strict=True):
        expected = {"late": None, **row}
        del expected["question"]
        assert example.columns == expected


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_columns_of_a_file_from_elsewhere(tmp_path, suffix: str) -> None:
    row = {"question": "a?", "gold": "1", "completion": "1", "tokens": 3, "level": 2, "info": {"n": [1]}}
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        pd.DataFrame([row]).to_parquet(path)
    else:
        path.write_text(json.dumps(row) + "\n")
    (example,), _ = read_completions(path, "completions")
    assert example.columns == {"question": "a?", "gold": "1", "level": 2, "info": {"n": [1]}}
