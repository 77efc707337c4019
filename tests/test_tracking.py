"""W&B without an account: real offline runs, read back."""

import time

import pytest

from grpo.config import compose
from grpo.tracking import build_tracker, run_name
from tests.conftest import read_wandb
from tests.test_train import STACK, metrics


def test_an_offline_run_holds_the_curves_and_the_table(train, capsys) -> None:
    out, results = train("tracking=wandb", "max_steps=4", "tracking.completions_every=2", "tracking.completions_rows=6")
    history, summary, tables = read_wandb(out)
    # W&B's step is the training step, and its curves are those of metrics.jsonl.
    assert [row["_step"] for row in history] == [1, 2, 3, 4]
    for row, expected in zip(history, metrics(out), strict=True):
        assert not [key for key in row if key.startswith("profiling")]
        assert {f"advantage_share/{name}" for name in STACK} | {"groups/mixed", "rewards/int/mean"} <= row.keys()
        for name in expected.keys() - {"step"}:
            assert row[name] == pytest.approx(expected[name]), name
    assert summary["after/accuracy_strict"] == results["after"]["accuracy_strict"]
    assert summary["before/rewards/int"] == results["before"]["rewards/int"]
    # Sampled at steps 1, 3 and 4, a group of four each, and only the newest six rows kept.
    table = tables[-1]
    assert table["columns"] == ["step", "question", "gold", "completion", *STACK, "total", "advantage"]
    assert [row[0] for row in table["data"]] == [3, 3, 4, 4, 4, 4]
    assert all(isinstance(value, float) for row in table["data"] for value in row[4:])
    said = capsys.readouterr().out
    assert said.count("W&B: not logged in, so tracked offline. To upload: wandb sync run/wandb/offline-run-") == 1


def test_an_unreachable_service_costs_seconds(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    began = time.perf_counter()
    tracker = build_tracker(compose().tracking, {}, tmp_path)
    assert time.perf_counter() - began < 15
    tracker.log({"reward": 1.0}, step=1)
    tracker.finish(0)
    assert "could not be used online" in capsys.readouterr().out
    assert [row["_step"] for row in read_wandb(tmp_path)[0]] == [1]


@pytest.mark.parametrize(
    "environment",
    [{"WANDB_API_KEY": "too-short"}, {"WANDB_MODE": "online"}, {"WANDB_MODE": "offline"}, {"WANDB_MODE": "disabled"}],
)
def test_wandb_never_asks_and_never_stops_a_run(train, monkeypatch, capsys, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out, _ = train("tracking=wandb")
    said = capsys.readouterr().out
    if environment.get("WANDB_MODE") == "disabled":
        assert "W&B" not in said
    else:
        assert "so tracked offline. To upload: wandb sync" in said
        assert len(read_wandb(out)[0]) == 2


def test_names(tmp_path) -> None:
    out = tmp_path / "outputs" / "2026-11-22" / "10-00-00"
    assert run_name(out) == "2026-11-22-10-00-00"
