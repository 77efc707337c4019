"""Datasets: loading, splits without shared questions, and errors that name file and line."""

import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from grpo.config.composition import compose
from grpo.config.limits import GSM8K_PROBLEMS
from grpo.core.errors import UserError
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.loading import build_tokenizer
from grpo.tasks.example import SHOWCASE
from grpo.tasks.splits import load_held_out, load_splits
from grpo.tasks.train_set import select_train_examples
from tests.helpers.gsm8k import GSM8K, needs_gsm8k


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
def test_gsm8k_without_the_showcase_question() -> None:
    loaded = splits(["data=gsm8k", f"data.path={GSM8K}"])
    assert (len(loaded.train), len(loaded.held_out)) == (GSM8K_PROBLEMS, 1319) == (7472, 1319)
    assert SHOWCASE.question not in {example.question for example in loaded.train}
    assert loaded.notes[0] == "data=gsm8k: question from 'question', answer from 'answer' after ####."
    assert "7,472 problems remain" in loaded.notes[1]
    assert loaded.train[0].gold == "72"
    assert sum("," in example.gold for example in loaded.train) == 79
    limited = splits(["data=gsm8k", f"data.path={GSM8K}", "data.train_problems=10", "data.eval_problems=5"])
    assert (len(limited.train), len(limited.held_out)) == (10, 5)


@pytest.mark.parametrize("data", ["arithmetic", "countdown", "jsonl"])
def test_a_run_answers_questions_like_its_own(tmp_path, data: str) -> None:
    overrides = jsonl(tmp_path, *NUMBERED[:9]) if data == "jsonl" else [f"data={data}"]
    loaded = splits([*overrides, "data.eval_problems=4"])
    first = [SHOWCASE] if data == "arithmetic" else []
    assert loaded.examples == [*first, *loaded.held_out][:3]


def test_jsonl(tmp_path) -> None:
    overrides = jsonl(
        tmp_path,
        {"q": " How many? ", "a": "8*3=24\n#### 24", "id": 1},
        "",
        {"q": SHOWCASE.question, "a": 5},
        {"q": "How much?", "a": -1.5},
        {"q": "And now?", "a": "$1,080"},
    )
    loaded = splits([*overrides, "data.question_column=q", "data.answer_column=a"])
    (held_out,) = loaded.held_out
    rows = [("How many?", "24"), (SHOWCASE.question, "5"), ("How much?", "-1.5"), ("And now?", "$1,080")]
    assert (held_out.question, held_out.gold) in rows
    expected = [row for row in rows if row[0] != held_out.question]
    assert [(example.question, example.gold) for example in loaded.train] == expected
    assert loaded.notes[:2] == [
        "data=jsonl: question from 'q', answer from 'a' after ####.",
        "data=jsonl: 3 of the 4 train rows have no #### in 'a': their complete text is the reference answer.",
    ]
    assert "1 of the 4 training problems" in loaded.notes[2]


def test_text_answers_and_a_test_file(tmp_path) -> None:
    jsonl(tmp_path, {"question": "Where?", "answer": "東京"}, name="test.jsonl")
    overrides = jsonl(tmp_path, {"question": "Capital of France?", "answer": " Paris "})
    loaded = splits([*overrides, "data.answer=text", "data.test_file=test.jsonl"])
    assert [loaded.train[0].gold, loaded.held_out[0].gold] == ["Paris", "東京"]


@pytest.mark.parametrize(
    ("gold", "rules"),
    [
        ("1/2", ["number"]),
        ("20%", ["number"]),
        ("1e-7", ["number"]),
        ("\\frac12", ["number"]),
        ("-5", ["number", "strict"]),
    ]
    + [("5:30", []), ("eighteen", []), ("16 or 17", [])],
)
def test_gold_answers_that_are_numbers(tmp_path, gold: str, rules: list[str]) -> None:
    overrides = jsonl(tmp_path, {"question": "How many?", "answer": gold}, {"question": "How much?", "answer": gold})
    for rule in ("number", "strict"):
        with nullcontext() if rule in rules else pytest.raises(UserError, match="is not a number"):
            assert splits([*overrides, f"data.answer={rule}"]).train[0].gold == gold


def test_validation_problems(tmp_path) -> None:
    config = compose(["data.eval_problems=5", "data.validation_problems=7", "data.train_problems=9"]).data
    loaded, plain = load_splits(config, validation=True), load_splits(config)
    assert (loaded.train, loaded.held_out, plain.validation) == (plain.train, plain.held_out, [])
    assert len(loaded.validation) == 7 and not set(loaded.validation) & set(loaded.held_out + loaded.train)

    overrides = [*jsonl(tmp_path, *NUMBERED[:6]), "data.validation_problems=2"]
    loaded = load_splits(compose(overrides).data, validation=True)
    golds = [[example.gold for example in split] for split in (loaded.train, loaded.validation, loaded.held_out)]
    assert list(map(len, golds)) == [3, 2, 1] and sorted(golds[0] + golds[1] + golds[2]) == list("012345")
    assert loaded.held_out == splits(overrides).held_out
    assert loaded.notes[1:] == [
        "No data.test_file: 1 of the 6 training problems, drawn with data.seed=0, are held out of training.",
        "No data.validation_file: 2 of the 5 training problems, drawn with data.seed=0, are held out of training.",
    ]
    jsonl(tmp_path, *[{"question": f"other {i}?", "answer": i} for i in range(3)], name="validation.jsonl")
    loaded = load_splits(compose([*overrides, "data.validation_file=validation.jsonl"]).data, validation=True)
    assert len(loaded.validation) == 2 and len(loaded.train) == 5
    message = r"data.validation_problems=5: the training split has only 5 problems, .* set data.validation_problems=1"
    with pytest.raises(UserError, match=message):
        load_splits(compose([*overrides, "data.validation_problems=5"]).data, validation=True)


NUMBERED = [{"question": f"{i}?", "answer": str(i)} for i in range(1200)]


@pytest.mark.parametrize(
    ("problems", "overrides", "held_out"),
    [
        (20, [], 4),
        (2, [], 1),
        (7, [], 1),
        (999, [], 199),
        (1200, [], 200),
        (20, ["data.eval_problems=null"], 4),
        (20, ["data.eval_problems=19"], 19),
        (
            20,
            ["data.eval_problems=20"],
            r"data.eval_problems=20: .* only 20 problems.*; set data.eval_problems=4, or n",
        ),
        (20, ["data.eval_problems=200"], r"data.eval_problems=200: .* set data.eval_problems=4, or null for a fifth"),
        (1, [], "the training split has 1 problems, too few to hold some out; name another file, data.test_file="),
        (0, [], "the training split has 0 problems, too few"),
    ],
)
def test_without_a_test_file_a_part_is_held_out(tmp_path, problems: int, overrides: list[str], held_out) -> None:
    typed = [*jsonl(tmp_path, *NUMBERED[:problems])[:2], *overrides]
    if isinstance(held_out, str):
        with pytest.raises(UserError, match=held_out):
            splits(typed)
        return
    loaded = splits(typed)
    assert (len(loaded.held_out), len(loaded.train)) == (held_out, problems - held_out)
    assert f"{held_out} of the {problems:,} training problems" in loaded.notes[1]
    assert load_held_out(compose(typed).data) == loaded.held_out


def test_a_part_of_a_sorted_file_is_drawn(tmp_path) -> None:
    overrides = jsonl(tmp_path, *NUMBERED[:500])[:2]
    drawn = [splits([*overrides, f"data.seed={seed}"]).held_out for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    golds = [int(example.gold) for example in drawn[0]]
    assert golds == sorted(golds) and 150 < sum(golds) / len(golds) < 350
    assert set(splits([*overrides, "data.eval_problems=10"]).held_out) < set(drawn[0])
    few = [int(example.gold) for example in splits([*overrides, "data.train_problems=50"]).train]
    assert len(few) == 50 and 150 < sum(few) / 50 < 350
    jsonl(tmp_path, *[{"question": f"new {i}?", "answer": i} for i in range(500)], name="test.jsonl")
    asked = splits([*overrides, "data.test_file=test.jsonl", "data.eval_problems=50"]).held_out
    assert len(asked) == 50 and 150 < sum(int(example.gold) for example in asked) / 50 < 350


def of(*questions: str) -> list[dict[str, str]]:
    return [{"question": question, "answer": "1"} for question in questions]


@pytest.mark.parametrize(
    ("train", "test", "validation", "left", "note"),
    [
        (
            "abcd",
            "ab",
            "xy",
            ("cd", "xy", "ab"),
            "2 of 4 training problems are also held-out problems and are left out",
        ),
        ("abcd", "xy", "cd", ("ab", "cd", "xy"), "2 of 4 training problems are also validation problems and"),
        ("abcd", "xy", "xz", ("abcd", "z", "xy"), "1 of 2 validation problems are also held-out problems and"),
        ("aabb", "ax", "y", ("bb", "y", "ax"), "2 of 4 training problems are also held-out problems"),
        (["a  b ", "c"], ["a b"], "x", (["c"], "x", ["a b"]), "1 of 2 training problems"),
        ("abcd", "abcde", "x", "each of the 4 training problems is also a held-out problem, so none remains; name", ""),
        ("abcd", "x", "abcd", "each of the 4 training problems is also a validation problem", ""),
        ("abcd", "xyz", "xy", "each of the 2 validation problems is also a held-out problem", ""),
        ("aaaa", None, "x", "each of the 3 training problems is also a held-out problem", ""),
        ("abcd", "train.jsonl", "x", "each of the 4 training problems is also a held-out problem", ""),
        ("abcd", "x", "train.jsonl", "each of the 4 training problems is also a validation problem", ""),
    ],
)
def test_no_problem_is_in_two_splits(tmp_path, train, test, validation, left, note: str) -> None:
    overrides = jsonl(tmp_path, *of(*train))[:2]
    for name, rows in (("test", test), ("validation", validation)):
        if rows is not None:
            file = rows if rows == "train.jsonl" else f"{name}.jsonl"
            overrides.append(f"data.{name}_file={file}")
            if file != rows:
                jsonl(tmp_path, *of(*rows), name=file)
    data = compose(overrides).data
    if isinstance(left, str):
        with pytest.raises(UserError, match=left):
            load_splits(data, validation=True)
        return
    loaded = load_splits(data, validation=True)
    found = [[example.question for example in part] for part in (loaded.train, loaded.validation, loaded.held_out)]
    assert found == list(map(list, left))
    assert len(loaded.notes) == 2 and note in loaded.notes[1]


def test_duplicates_across_a_drawn_split(tmp_path) -> None:
    loaded = splits(jsonl(tmp_path, *of(*"abcdefghij" * 2))[:2])
    assert len(loaded.held_out) == 4 and not set(loaded.held_out) & set(loaded.train)
    assert f"{16 - len(loaded.train)} of 16 training problems are also held-out problems" in loaded.notes[2]


def test_the_path_may_name_the_training_file(tmp_path) -> None:
    jsonl(tmp_path, *NUMBERED[:20], name="mine.jsonl")
    jsonl(tmp_path, *of("a", "b"), name="test.jsonl")
    for path in (tmp_path / "mine.jsonl", f"{tmp_path} data.train_file=mine.jsonl"):
        for test, held_out in (([], 4), (["data.test_file=test.jsonl"], 2)):
            loaded = splits(["data=jsonl", *f"data.path={path}".split(), *test])
            assert (len(loaded.held_out), len(loaded.train)) == (held_out, 16 if held_out == 4 else 20)
    with pytest.raises(
        UserError, match=r"data.train_file=other.jsonl: data.path=.*mine.jsonl names the training file al"
    ):
        splits(["data=jsonl", f"data.path={tmp_path / 'mine.jsonl'}", "data.train_file=other.jsonl"])
    with pytest.raises(UserError, match=r"data.path: there is no file .*none.jsonl\.$"):
        splits(["data=jsonl", f"data.path={tmp_path / 'gone' / 'none.jsonl'}"])
    with pytest.raises(UserError, match=r"there is no file .*; the folder has mine.jsonl, test.jsonl: set data.train"):
        splits(["data=jsonl", f"data.path={tmp_path}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.train_problems=10000000"], "data.train_problems=10000000: .* at most 100,000 distinct training"),
        (["data.train_problems=2000000"], "data.train_problems=2000000: "),
        (["data.eval_problems=10000000"], "data.eval_problems=10000000, .*12,000 distinct held-out problems"),
        (["data.validation_problems=2000000"], "data.validation_problems=2000000: .*12,000 distinct held-out problems"),
        (
            ["data.eval_problems=9000", "data.validation_problems=9000"],
            "data.eval_problems=9000, data.validation_probl",
        ),
    ],
)
def test_more_problems_than_arithmetic_generates(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(overrides)


def test_loading_only_held_out_problems(tmp_path) -> None:
    jsonl(tmp_path, {"question": "Where?", "answer": "3"}, name="test.jsonl")
    config = compose(["data=jsonl", f"data.path={tmp_path}", "data.test_file=test.jsonl"]).data
    assert [example.gold for example in load_held_out(config)] == ["3"]  # without a training file
    for overrides in ([], jsonl(tmp_path, *[{"question": f"{i}?", "answer": str(i)} for i in range(6)])):
        config = compose(overrides).data
        assert load_held_out(config) == load_splits(config).held_out


GOOD = {"question": "How many?", "answer": "1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 3: not JSON"),
        ("[1, 2]", "line 3: not a JSON object but a list"),
        ({"question": "How many?"}, "line 3: there is no column 'answer', only 'question'"),
        ({"question": " ", "answer": "1"}, "line 3: 'question' is ' '"),
        ({"question": None, "answer": "1"}, "line 3: 'question' is None"),
        ({"question": "How many?", "answer": ""}, "line 3: 'answer' is blank, so the row has no reference answer; del"),
        ({"question": "How many?", "answer": None}, "line 3: 'answer' is null, so .* of another column, data.filter="),
        ('{"question": "a", "answer": "1", "answer": "2"}', "line 3: an object has the key 'answer' twice"),
        ('{"question": "a", "answer": "1", "info": {"a": 1, "a": 1}}', "line 3: an object has the key 'a' twice"),
        (
            {"question": "How many?", "answer": "plenty"},
            "line 3: the reference answer 'plenty' is not a number.*data.answer=text",
        ),
        ({"question": "How many?", "answer": "so 5 ####"}, "line 3: nothing follows ####"),
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
    for path in (tmp_path, os.devnull):
        with pytest.raises(
            UserError, match=rf"data.difficulty: .* is a folder; |{os.devnull} is neither a file nor a f"
        ):
            data = compose(["data=jsonl", f"data.path={path}", f"data.difficulty={tmp_path}"]).data
            jsonl(tmp_path, *NUMBERED[:9])
            load_splits(data)
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        splits(["data=jsonl", f"data.path={tmp_path}"])
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"the training split has no problems; name other data, data\.path="):
        jsonl(tmp_path, GOOD, name="test.jsonl")
        jsonl(tmp_path, {"question": SHOWCASE.question, "answer": 5})
        splits(["data=gsm8k", f"data.path={tmp_path}"])


def test_long_prompts_are_dropped_with_a_note() -> None:
    config = compose(["max_prompt_length=80"])
    tokenizer = build_tokenizer(config.model)
    examples = load_splits(config.data).train
    short, notes = select_train_examples(examples, tokenizer, config)
    assert 0 < len(short) < 2000
    assert notes == [
        f"{2000 - len(short):,} of 2,000 training prompts have more than 80 tokens (max_prompt_length) and are dropped; "
        f"{len(short):,} remain."
    ]
    assert max(map(len, ChatTemplate.of(tokenizer, config).prompt_ids([example.prompt for example in short]))) <= 80


def test_too_few_prompts() -> None:
    config = compose(["max_prompt_length=10"])
    tokenizer = build_tokenizer(config.model)
    examples = load_splits(config.data).train
    with pytest.raises(UserError, match=r"max_prompt_length=10: every training prompt is longer; the shortest has \d+"):
        select_train_examples(examples, tokenizer, config)
    with pytest.raises(UserError, match="prompts_per_step=4: there are only 3 training prompts"):
        select_train_examples(examples[:3], tokenizer, compose())
