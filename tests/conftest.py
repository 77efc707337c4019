"""Every test runs offline, on the CPU, untracked by any account, and outside the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ["WANDB_API_KEY"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest

# The smallest run that still trains: two steps of four completions.
SMALL = [
    "max_steps=2",
    "num_generations=4",
    "prompts_per_step=2",
    "max_completion_length=16",
    "data.train_problems=20",
    "data.eval_problems=4",
]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run the training command's own `run` in this process; gives the run's folder and results."""
    from grpo.config import compose
    from grpo.train import run

    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> tuple[Path, dict[str, Any]]:
        out = tmp_path / "run"
        out.mkdir()
        results = run(compose([*SMALL, "tracking=none", *overrides]), out)
        assert json.loads((out / "results.json").read_text()) == results
        return out, results

    return call


def wandb_records(out: Path) -> tuple[list[dict[str, Any]], Path]:
    """What an offline W&B run wrote down, and its folder."""
    (folder,) = (out / "wandb").glob("offline-run-*")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    lines = subprocess.run([*inspect, str(folder)], capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines], folder


def read_wandb(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """An offline W&B run read back: its history rows, its summary, and its tables of completions."""
    records, folder = wandb_records(out)
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    summary: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            summary |= record["summary"]["update"]
    tables = [folder / "files" / row["completions.path"] for row in history if "completions.path" in row]
    return history, summary, [json.loads(file.read_text()) for file in tables]


@pytest.fixture
def command(tmp_path):
    """Run `python -m MODULE ARGUMENTS` in an empty folder, as a user would."""

    def call(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    return call
