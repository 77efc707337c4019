"""The comparison of decode steps on a CPU, with a small architecture: every arm and every product is measured."""

import sys

import pytest

from scripts import benchmark_cpu_decode as script

SIZES = {
    "vocab_size": 5_120,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
}


@pytest.mark.parametrize(
    "arguments, measured",
    [
        (
            ["--tokens", "5", "--rounds", "1"],
            ["generate", "dense (chosen here)", "packed", "2 completions of 5 tokens"],
        ),
        (["--products", "--rounds", "1"], ["gate, up, 64 to 192", "head, 64 to 5120", "F.linear", "packed"]),
    ],
)
def test_every_arm_is_measured(monkeypatch, capsys, arguments: list[str], measured: list[str]) -> None:
    monkeypatch.setattr(script, "QWEN", SIZES)
    monkeypatch.setattr(script.console, "width", 200)
    monkeypatch.setattr(sys, "argv", ["benchmark_cpu_decode.py", "--rows", "2", *arguments])
    script.main()
    printed = capsys.readouterr().out
    assert all(text in printed for text in measured), printed
