"""The shipped embedded default, trained to its end: what the README promises must hold."""

import json

from grpo.config import compose
from tests.conftest import read_wandb


def test_the_embedded_default_learns_to_reason(command, tmp_path) -> None:
    done = command("grpo.train")
    assert done.returncode == 0, done.stderr
    (out,) = [file.parent for file in tmp_path.rglob("results.json")]
    results = json.loads((out / "results.json").read_text())
    before, after = results["before"], results["after"]
    assert before["n"] == after["n"] == 256
    assert before["strict_format"] <= 0.05 and after["strict_format"] >= 0.95
    assert before["accuracy_strict"] <= 0.10 and after["accuracy_strict"] >= 0.90
    assert after["mean_completion_tokens"] > before["mean_completion_tokens"]
    assert results["examples"][0]["after"].startswith("<reasoning>\n")

    history, summary, tables = read_wandb(out)
    assert len(history) == results["steps"] == compose().max_steps
    assert summary["after/accuracy_strict"] == after["accuracy_strict"]
    assert 0 < len(tables[-1]["data"]) <= 400
