"""The reference recipe on real input: GSM8K's rows, Qwen2.5's tokenizer, its architecture cut to two layers."""

import json
import os

import pytest
from transformers import AutoTokenizer

from tests.conftest import read_wandb
from tests.test_data import GSM8K, needs_gsm8k
from tests.test_model import QWEN, needs_qwen
from tests.test_train import STACK, metrics

CUT = [
    "device=cpu",
    "bf16=false",
    f"model.path={QWEN}",
    "model.init=random",
    "model.num_layers=2",
    f"data.path={GSM8K}",
    "data.eval_problems=4",
    "max_steps=2",
    "num_generations=4",
    "prompts_per_step=2",
    "micro_batch_size=4",
    "max_completion_length=24",
    "save_steps=null",
    "tracking=wandb",
    "tracking.completions_every=1",
]


@needs_gsm8k
@needs_qwen
@pytest.mark.parametrize("experiment", ["gsm8k", "gsm8k_original"])
def test_the_reference_recipe(train, capsys, experiment: str) -> None:
    out, results = train(f"experiment={experiment}", *CUT)
    said = capsys.readouterr().out
    assert "7,472 problems remain" in said
    assert "of 7,472 training prompts have more than 256 tokens (max_prompt_length) and are dropped" in said

    history, summary, tables = read_wandb(out)
    stack = STACK if experiment == "gsm8k" else [f"verbatim_{name}" for name in STACK]
    assert [row["_step"] for row in history] == [1, 2]
    for row, expected in zip(history, metrics(out), strict=True):
        for name in stack:
            assert row[f"rewards/{name}/mean"] == pytest.approx(expected[f"rewards/{name}/mean"])
    assert {"kl" in row for row in history} == {experiment == "gsm8k_original"}
    table = tables[-1]
    assert [row[0] for row in table["data"]] == [1] * 4 + [2] * 4
    assert {row[1] for row in table["data"]} < set(questions())
    assert summary["after/n"] == results["after"]["n"] == 4

    prompt = [{"role": "user", "content": "Wie viele?"}]
    for text in ("1,080 pages 思考", prompt):
        assert encoded(str(out / "policy"), text) == encoded(QWEN, text)


def questions() -> list[str]:
    with open(os.path.join(GSM8K, "train.jsonl")) as file:
        return [json.loads(line)["question"] for line in file]


def encoded(folder: str, text) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(text)["input_ids"] if isinstance(text, str) else tokenizer.apply_chat_template(text)["input_ids"]
