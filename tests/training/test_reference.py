"""The reference recipe on real input: GSM8K's rows, Qwen2.5's tokenizer, its architecture cut to two layers."""

import json
import os

import pytest
from transformers import AutoTokenizer

from tests.conftest import read_wandb
from tests.helpers.gsm8k import GSM8K, needs_gsm8k
from tests.helpers.models import QWEN, needs_qwen
from tests.helpers.runs import STACK, metrics

CUT = [
    "device=cpu",
    "bf16=false",
    f"model.path={QWEN}",
    "model.init=random",
    "model.num_layers=2",
    f"data.path={GSM8K}",
    "data.train_problems=400",
    "data.eval_problems=2",
    "max_steps=2",
    "num_generations=2",
    "prompts_per_step=1",
    "max_prompt_length=128",
    "max_completion_length=16",
    "save_steps=null",
    "tracking=wandb",
    "tracking.completions_every=1",
]


@needs_gsm8k
@needs_qwen
def test_the_reference_recipe(train, capsys) -> None:
    out, results = train("experiment=gsm8k", *CUT)
    said = capsys.readouterr().out
    assert "7,472 problems remain" in said
    assert "of 400 training prompts have more than 128 tokens (max_prompt_length) and are dropped" in said

    history, summary, tables = read_wandb(out)
    assert [row["_step"] for row in history] == [1, 2]
    for row, expected in zip(history, metrics(out), strict=True):
        for name in STACK:
            assert row[f"rewards/{name}/mean"] == pytest.approx(expected[f"rewards/{name}/mean"])
    table = tables[-1]
    assert [row[0] for row in table["data"]] == [1, 1, 2, 2]
    assert {row[1] for row in table["data"]} < set(questions())
    assert summary["after/reward"] == results["after"]["reward"] and results["after"]["n"] == 2

    prompt = [{"role": "user", "content": "Wie viele?"}]
    for text in ("1,080 pages 思考", prompt):
        assert encoded(str(out / "policy"), text) == encoded(QWEN, text)


def questions() -> list[str]:
    with open(os.path.join(GSM8K, "train.jsonl")) as file:
        return [json.loads(line)["question"] for line in file]


def encoded(folder: str, text) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(text)["input_ids"] if isinstance(text, str) else tokenizer.apply_chat_template(text)["input_ids"]
