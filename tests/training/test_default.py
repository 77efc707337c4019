"""The shipped embedded default, trained to its end, reaches what the README states."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo.config.composition import compose
from tests.conftest import read_wandb


def learned(run, tmp_path: Path, *overrides: str) -> tuple[Path, dict[str, Any]]:
    """The directory and the results of a complete run that reached what the README states."""
    done = run("grpo.train", *overrides)
    assert done.returncode == 0, done.stderr
    (out,) = [file.parent for file in tmp_path.rglob("results.json")]
    results = json.loads((out / "results.json").read_text())
    before, after = results["before"], results["after"]
    assert before["n"] == after["n"] == 256
    assert before["strict_format"] <= 0.05 and after["strict_format"] >= 0.95
    assert before["accuracy_strict"] <= 0.10 and after["accuracy_strict"] >= 0.90
    assert after["mean_completion_tokens"] > before["mean_completion_tokens"]
    assert results["examples"][0]["after"].startswith("<reasoning>\n")
    return out, results


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_it_learns_with_other_seeds(forked, tmp_path, seed: int) -> None:
    learned(forked, tmp_path, f"seed={seed}", "tracking=none")


@pytest.mark.slow
def test_it_learns_with_trls_sampler_and_step(forked, tmp_path) -> None:
    learned(
        forked,
        tmp_path,
        "rollout=generate",
        "share_prompts=false",
        "prompts_per_step=2",
        "max_steps=60",
        "tracking=none",
    )


def test_the_embedded_default_learns_to_reason(command, tmp_path) -> None:
    out, results = learned(command, tmp_path)
    after = results["after"]
    history, summary, tables = read_wandb(out)
    assert len(history) == results["steps"] == compose().max_steps
    assert summary["after/accuracy_strict"] == after["accuracy_strict"]
    assert 0 < len(tables[-1]["data"]) <= 400
