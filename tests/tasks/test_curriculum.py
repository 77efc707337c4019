"""`data.curriculum`: which problems a step may draw, and which settings are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from grpo.config.composition import compose
from grpo.tasks.splits import load_splits
from tests.conftest import SMALL

MOVING = "data.curriculum={start:[0.6,1.0],end:[0.0,0.4]}"


@pytest.fixture
def rates(tmp_path: Path) -> dict[str, float]:
    """Solve rates of the 20 training problems of a small run, 0.00, 0.05, ..., also in rates.jsonl."""
    train = load_splits(compose(SMALL).data).train
    found = {example.question: i / 20 for i, example in enumerate(train)}
    rows = [json.dumps({"question": question, "solve_rate": rate}) for question, rate in found.items()]
    (tmp_path / "rates.jsonl").write_text("\n".join(rows))
    return found


@pytest.mark.parametrize("more", [[], ["algorithm.resample=2", "algorithm.gate=correctness"]], ids=["", "resampling"])
def test_each_step_draws_from_its_window(train, rates, more: list[str]) -> None:
    # 20 problems in batches of 2: step 11 begins the second epoch.
    out, _ = train("max_steps=12", "data.difficulty=rates.jsonl", MOVING, *more)
    drawn = []
    for step in range(12):
        questions = pd.read_parquet(out / "completions" / f"step_{step + 1:06d}.parquet")["question"].unique()
        assert len(questions) == 2
        drawn += [(step, rates[question]) for question in questions]
        low, high = 0.6 - 0.6 * step / 12, 1.0 - 0.6 * step / 12
        assert all(low - 1e-9 <= rates[question] <= high + 1e-9 for question in questions)
    assert len({rate for _, rate in drawn}) > 10


@pytest.mark.parametrize("more", [[], ["algorithm.num_iterations=2", "max_steps=3"]], ids=["", "iterations"])
def test_no_step_needs_problems_in_the_last_window(train, rates, more: list[str]) -> None:
    """Training ends before the window has moved there."""
    window = "data.curriculum={start:[0.0,1.0],end:[0.51,0.52]}"
    _, results = train("max_steps=2", "data.difficulty=rates.jsonl", window, *more)
    assert results["steps"] == (3 if more else 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.curriculum=0.5"], "data.curriculum=0.5: must be the first and the last window of solve rates"),
        (["data.curriculum={start:[0.1,0.9]}"], "must be the first and the last window of solve rates"),
        ([MOVING.replace("0.6", "1.6")], "data.curriculum.start=[1.6, 1.0]: must be the lowest and the highest"),
        ([MOVING.replace("[0.6,1.0]", "high")], "data.curriculum.start=high: must be the lowest and the highest"),
        ([MOVING, "data.difficulty=null"], "data.curriculum: there are no solve rates; add the file with them"),
        (["data.solve_rate=[0.2,0.8]", "data.difficulty=null"], "data.solve_rate: there are no solve rates; add the"),
        (
            ["data.curriculum={start:[0.6,1.0],end:[0.0,0.02]}", "max_steps=10"],
            "data.curriculum: 1 training problems have a solve rate from 0.06 to 0.118, the window of step 10, and a "
            "rollout needs 2.",
        ),
    ],
)
def test_refusals_come_before_torch(light: Callable[..., Any], rates, overrides: list[str], message: str) -> None:
    done = light("grpo.train", *SMALL, "tracking=none", "data.difficulty=rates.jsonl", *overrides)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert message in done.stderr and "torch" not in done.modules
