"""The script that made the embedded policy, run small."""

import json
import subprocess
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.policy.hub import ASSETS

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_tiny.py"


def test_it_makes_a_policy_and_a_record(tmp_path) -> None:
    arguments = ["--steps", "3", "--rows", "8", "--problems", "4", "--hidden", "64", "--layers", "1"]
    subprocess.run([sys.executable, str(SCRIPT), *arguments, "--out", str(tmp_path)], check=True, capture_output=True)
    record = json.loads((tmp_path / "pretraining.json").read_text())
    assert record["arguments"]["steps"] == 3 and record["arguments"]["seed"] == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.num_hidden_layers == 1
    # The tokenizer depends on the seed alone, so it is the shipped one.
    text = "Joy can read 8 pages of a book in 20 minutes."
    assert AutoTokenizer.from_pretrained(tmp_path)(text) == AutoTokenizer.from_pretrained(ASSETS / "tiny")(text)


def test_the_record_of_the_shipped_weights() -> None:
    record = json.loads((ASSETS / "tiny" / "pretraining.json").read_text())
    assert record["seconds"] <= 30 * 60
    assert record["held_out"]["greedy"]["strict_format"] <= 0.05
    assert record["held_out"]["greedy"]["accuracy_strict"] <= 0.10
    assert record["styles"]["bare"] > 0.5
