"""Datasets: what is read, what is dropped aloud, and what is refused with file and line."""

import json
import os
from pathlib import Path

import pytest

from grpo.config import compose
from grpo.data import GSM8K_TRAIN, JOY, build_train_set, load_held_out, load_splits
from grpo.errors import UserError
from grpo.model import build_tokenizer
from grpo.prompts import prompt_ids

GSM8K = os.environ.get("GRPO_GSM8K_DIR")
needs_gsm8k = pytest.mark.skipif(GSM8K is None, reason="GRPO_GSM8K_DIR does not name a folder with GSM8K")


def jsonl(folder: Path, *rows, name: str = "train.jsonl") -> list[str]:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["data=jsonl", f"data.path={folder}", "data.eval_problems=1"]


def splits(overrides: list[str]):
    return load_splits(compose(overrides).data)


def test_arithmetic_is_the_default() -> None:
    loaded = splits([])
    assert (len(loaded.train), len(loaded.held_out)) == (2000, 256)


@needs_gsm8k
def test_gsm8k_without_joy() -> None:
    loaded = splits(["data=gsm8k", f"data.path={GSM8K}"])
    assert (len(loaded.train), len(loaded.held_out)) == (GSM8K_TRAIN, 1319) == (7472, 1319)
    assert JOY.question not in {example.question for example in loaded.train}
    assert "7,472 problems remain" in loaded.notes[0]
    assert loaded.train[0].gold == "72"
    assert sum("," in example.gold for example in loaded.train) == 79
    limited = splits(["data=gsm8k", f"data.path={GSM8K}", "data.train_problems=10", "data.eval_problems=5"])
    assert (len(limited.train), len(limited.held_out)) == (10, 5)


def test_jsonl(tmp_path) -> None:
    overrides = jsonl(
        tmp_path,
        {"q": " How many? ", "a": "8*3=24\n#### 24", "id": 1},
        "",
        {"q": JOY.question, "a": 5},
        {"q": "How much?", "a": -1.5},
        {"q": "And now?", "a": "$1,080"},
    )
    loaded = splits([*overrides, "data.question_column=q", "data.answer_column=a"])
    assert [(example.question, example.gold) for example in loaded.train] == [
        ("How many?", "24"),
        ("How much?", "-1.5"),
    ]
    assert [example.gold for example in loaded.held_out] == ["$1,080"]
    assert len(loaded.notes) == 2 and "last 1 problems" in loaded.notes[0] and "Joy" in loaded.notes[1]


def test_text_golds_and_a_test_file(tmp_path) -> None:
    jsonl(tmp_path, {"question": "Where?", "answer": "東京"}, name="test.jsonl")
    overrides = jsonl(tmp_path, {"question": "Capital of France?", "answer": " Paris "})
    loaded = splits([*overrides, "data.gold=text", "data.test_file=test.jsonl"])
    assert [loaded.train[0].gold, loaded.held_out[0].gold] == ["Paris", "東京"]


def test_validation_problems(tmp_path) -> None:
    config = compose(["data.eval_problems=5", "data.validation_problems=7", "data.train_problems=9"]).data
    loaded, plain = load_splits(config, validation=True), load_splits(config)
    assert (loaded.train, loaded.held_out, plain.validation) == (plain.train, plain.held_out, [])
    assert len(loaded.validation) == 7 and not set(loaded.validation) & set(loaded.held_out + loaded.train)

    rows = [{"question": f"{i}?", "answer": str(i)} for i in range(6)]
    overrides = [*jsonl(tmp_path, *rows), "data.validation_problems=2"]
    loaded = load_splits(compose(overrides).data, validation=True)
    assert [[example.gold for example in split] for split in (loaded.train, loaded.validation, loaded.held_out)] == [
        ["0", "1", "2"],
        ["3", "4"],
        ["5"],
    ]
    assert loaded.notes == [
        "No data.test_file: the last 1 problems of the training split are held out of training.",
        "No data.validation_file: the last 2 problems of the training split are held out of training.",
    ]
    jsonl(tmp_path, *rows[:3], name="validation.jsonl")
    loaded = load_splits(compose([*overrides, "data.validation_file=validation.jsonl"]).data, validation=True)
    assert [example.gold for example in loaded.validation] == ["0", "1"] and len(loaded.train) == 5
    with pytest.raises(
        UserError, match=r"data.validation_problems=5: train.jsonl has 5 problems; without a data.valid"
    ):
        load_splits(compose([*overrides, "data.validation_problems=5"]).data, validation=True)
    with pytest.raises(UserError, match=r"data.validation_problems=null: eval_steps=1 needs a number of problems"):
        compose([*overrides, "data.validation_problems=null", "eval_steps=1"])


def test_held_out_problems_alone(tmp_path) -> None:
    jsonl(tmp_path, {"question": "Where?", "answer": "3"}, name="test.jsonl")
    config = compose(["data=jsonl", f"data.path={tmp_path}", "data.test_file=test.jsonl"]).data
    assert [example.gold for example in load_held_out(config)] == ["3"]  # with no training file in sight
    for overrides in ([], jsonl(tmp_path, *[{"question": f"{i}?", "answer": str(i)} for i in range(6)])):
        config = compose(overrides).data
        assert load_held_out(config) == load_splits(config).held_out


GOOD = {"question": "How many?", "answer": "1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 3: not JSON"),
        ("[1, 2]", "line 3: not a JSON object but list"),
        ({"question": "How many?"}, "line 3: there is no column 'answer', only 'question'"),
        ({"question": " ", "answer": "1"}, "line 3: 'question' is ' '"),
        ({"question": None, "answer": "1"}, "line 3: 'question' is None"),
        ({"question": "How many?", "answer": ""}, "line 3: 'answer' is ''"),
        (
            {"question": "How many?", "answer": "plenty"},
            "line 3: the gold answer 'plenty' is not a number.*data.gold=text",
        ),
        ({"question": "How many?", "answer": "so 5 ####"}, "line 3: the gold answer '' is not a number"),
        ({"question": "How many?", "answer": ["1"]}, r"line 3: 'answer' is \['1'\]"),
        ({"question": "How many?", "answer": True}, "line 3: 'answer' is True"),
        ('{"question": "How \\ud800?", "answer": "1"}', "line 3: 'question' is .* not valid text"),
    ],
)
def test_bad_lines_are_named(tmp_path, row, message: str) -> None:
    with pytest.raises(UserError, match=f"train.jsonl, {message}"):
        splits(jsonl(tmp_path, GOOD, GOOD, row))


def test_bad_files(tmp_path) -> None:
    with pytest.raises(UserError, match="there is no file .*train.jsonl"):
        splits(["data=jsonl", f"data.path={tmp_path}"])
    with pytest.raises(UserError, match="there is no file .*train.jsonl"):
        splits(["data=gsm8k", f"data.path={tmp_path}"])
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        splits(["data=jsonl", f"data.path={tmp_path}"])
    with pytest.raises(UserError, match=r"data.eval_problems=1: train.jsonl has 1 problems"):
        splits(jsonl(tmp_path, GOOD))
    with pytest.raises(UserError, match="the train split has no problems"):
        jsonl(tmp_path, GOOD, name="test.jsonl")
        splits([*jsonl(tmp_path, {"question": JOY.question, "answer": 5}), "data.test_file=test.jsonl"])


def test_long_prompts_are_dropped_aloud() -> None:
    config = compose(["max_prompt_length=80"])
    tokenizer = build_tokenizer(config.model)
    examples = load_splits(config.data).train
    kept, notes = build_train_set(examples, tokenizer, config)
    assert 0 < len(kept) < 2000
    assert notes == [
        f"{2000 - len(kept):,} of 2,000 training prompts have more than 80 tokens (max_prompt_length) and are dropped; "
        f"{len(kept):,} remain."
    ]
    assert max(map(len, prompt_ids(tokenizer, [row["question"] for row in kept], config.system_prompt))) <= 80


def test_too_few_prompts() -> None:
    config = compose(["max_prompt_length=10"])
    tokenizer = build_tokenizer(config.model)
    examples = load_splits(config.data).train
    with pytest.raises(UserError, match=r"max_prompt_length=10: every training prompt is longer; the shortest has \d+"):
        build_train_set(examples, tokenizer, config)
    with pytest.raises(UserError, match="prompts_per_step=4: there are only 3 training prompts"):
        build_train_set(examples[:3], tokenizer, compose())
