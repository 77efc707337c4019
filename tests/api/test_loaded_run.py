"""`grpo.load_run`: what a run has saved, as tables, and its policy."""

from pathlib import Path

import pandas as pd
import pytest

import grpo
from grpo.core.errors import UserError
from grpo.loaded_run import LoadedRun
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> LoadedRun:
    overrides = [*SMALL, "tracking=none", "eval_steps=1", "data.validation_problems=3", "eval_samples=2"]
    return grpo.load_run(grpo.train.run(grpo.compose(overrides), tmp_path_factory.mktemp("runs") / "run").folder)


def test_tables(run) -> None:
    metrics, completions, evaluations = run.metrics, run.completions, run.evaluations
    assert metrics.index.tolist() == [0, 1, 2] and metrics.index.name == "step"
    assert metrics["eval/accuracy_strict"].notna().all()  # the validation of step 0 is before training
    rewards = metrics["rewards/correctness/mean"].dropna()
    assert completions["step"].tolist() == [1] * 8 + [2] * 8
    assert completions.groupby("step")["correctness"].mean().to_dict() == rewards.to_dict()
    steps = ["step_000000", "step_000001", "step_000002"]
    assert evaluations.index.tolist() == ["before", "before_samples", *steps, "after", "after_samples"]
    after = evaluations.loc["after"]
    assert after["n"] == 4 and after["accuracy_strict/low"] <= after["accuracy_strict"] <= after["accuracy_strict/high"]
    assert after["accuracy_strict"] == run.results.after["accuracy_strict"]
    table = run.evaluated_completions()
    assert len(table) == 4 and table["accuracy_strict"].mean() == after["accuracy_strict"]
    with pytest.raises(UserError, match="'end': the run has no such evaluation, only 'before'"):
        run.evaluated_completions("end")
    assert isinstance(run.alarms, list) and all({"step", "alarm"} <= alarm.keys() for alarm in run.alarms)
    assert run.config.eval_steps == 1
    assert repr(run) == f"LoadedRun({str(run.folder)!r})"


def test_policy_and_answers(run) -> None:
    answers = run.answers("How many pens are 3 boxes of 4?")
    assert list(answers) == ["question", "before", "after"] and len(answers) == 1
    assert run.answers()["question"][0].startswith("Joy can read")
    one_token = run.answers(["1 + 1?", "How many pens are 3 boxes of 4?"], max_tokens=1)
    assert all(answers["after"][0].startswith(text) for text in one_token["after"][1:])
    policy, tokenizer = run.policy()
    before, _ = run.policy("before")
    weights, first_weights = (dict(model.named_parameters()) for model in (policy, before))
    assert weights.keys() == first_weights.keys()
    assert any(not weights[name].equal(first_weights[name]) for name in weights)
    assert not policy.training
    assert tokenizer.decode(tokenizer("12 boxes")["input_ids"], skip_special_tokens=True).strip() == "12 boxes"


def test_report(run) -> None:
    (run.folder / "report.html").unlink()
    assert "<svg" in run.report().read_text() and run.report() == run.folder / "report.html"


def test_a_run_that_is_not_finished_or_damaged(run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is not a run directory: it does not exist"):
        grpo.load_run("none")
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text((run.folder / ".hydra" / "config.yaml").read_text())
    started = grpo.load_run(folder)
    assert started.metrics.empty and started.completions.empty and started.evaluations.empty
    for use in (lambda: started.results, started.policy, started.answers):
        with pytest.raises(UserError, match="not finished"):
            use()
    (folder / "metrics.jsonl").write_text('{"step": 1, "reward": "high"}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        print(started.metrics)
    (folder / "completions").mkdir()
    (folder / "completions" / "step_000001.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"step_000001\.parquet is damaged"):
        print(started.completions)


def test_tables_of_a_run_in_progress(run, tmp_path: Path) -> None:
    """A step without a validation has no value in the columns of validation."""
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").touch()
    lines = ['{"step": 1, "reward": 1.0}', '{"step": 2, "reward": null}', '{"step": 2, "eval/accuracy_strict": 0.5}',
             '{"step": 2, "alarm": "no_signal"}']  # fmt: skip
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    expected = pd.DataFrame(
        {"reward": [1.0, None], "eval/accuracy_strict": [None, 0.5]},
        index=pd.Index([1, 2], name="step"),
        dtype=float,
    )
    pd.testing.assert_frame_equal(grpo.load_run(folder).metrics, expected)
    assert grpo.load_run(folder).alarms == [{"step": 2, "alarm": "no_signal"}]
