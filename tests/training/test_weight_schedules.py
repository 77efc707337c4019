"""Weight schedules in training: the weights of a rollout are those of its step, in the log, the files and the report."""

import numpy as np
import pandas as pd
import pytest

from grpo.reports.run_figures import run_charts
from grpo.rewards.advantages import attribute
from grpo.runs.saved_run import read_run
from tests.helpers.runs import STACK, metrics

XMLCOUNT = [2.0, 1.25, 0.5, 0.5]


def test_the_weights_of_a_step_act_on_its_rollout(train) -> None:
    """Two rewards with schedules over four steps; the other three have constant weights."""
    out, _ = train(
        "max_steps=4",
        "rewards.xmlcount={start: 2.0, end: 0.5, until: 0.5}",
        "rewards.soft_format={start: 0.0, end: 1.0, until: 1.0}",
    )
    rows = metrics(out)
    assert [row["reward_weight/xmlcount"] for row in rows] == XMLCOUNT
    assert [row["reward_weight/soft_format"] for row in rows] == [0.0, 0.25, 0.5, 0.75]
    assert "reward_weight/int" not in rows[0]
    for step, row in enumerate(rows, start=1):
        table = pd.read_parquet(out / "completions" / f"step_{step:06d}.parquet")
        weights = np.array([1, 1, 1, row["reward_weight/soft_format"], row["reward_weight/xmlcount"]])
        assert table["total"].to_numpy() == pytest.approx(table[STACK].to_numpy() @ weights, abs=1e-12)
        assert row["reward"] == pytest.approx(table["total"].mean(), abs=1e-6)
        split = attribute(table[STACK].to_numpy(), weights, 4)
        assert split.advantages == pytest.approx(table["advantage"].to_numpy(), abs=1e-4)
        shares = split.shares()
        if shares is not None:
            assert shares == pytest.approx([row[f"advantage_share/{name}"] for name in STACK], abs=1e-6)
    run = read_run(out)
    charts = run_charts(run.history, run.validations, run.weights, 24).charts
    assert "weights" in [chart.name for chart in charts]
