"""Datasets in the shapes in which they are published: what is taken as question and answer, and what is refused.

All rows are made up. The files are Parquet, Arrow, CSV, JSON and JSON Lines, in the layouts of the hub.
"""

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.tasks.datasets import load_table
from grpo.tasks.splits import load_held_out, load_splits

BOXED = "Add them: \\boxed{\\frac{1}{2}} is $\\boxed{\\frac{3}{4}}$."
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]
TURNS = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And 2 + 3?"},
]
SFT = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "3?"}]}]
VERL = {
    "data_source": "x",
    "prompt": CHAT,
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"i": 1},
}


@pytest.fixture(scope="module")
def configs() -> dict[str, Any]:
    """The settings of each dataset, composed once."""
    names = ("jsonl", "files", "hub", "gsm8k", "math", "multiple_choice")
    return {name: compose([f"data={name}", "data.path=somewhere"]).data for name in names}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    if "datasets" in sys.modules:
        monkeypatch.setattr(sys.modules["datasets"].config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(path: Path, *rows: dict[str, Any]) -> Path:
    """A data file of the type that its name says."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(list(rows))
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    else:
        suffix = Path(path.name.lower().removesuffix(".gz")).suffix
        if suffix in (".csv", ".tsv"):
            content = pd.DataFrame(rows).to_csv(index=False, sep="," if suffix == ".csv" else "\t")
        elif suffix == ".json":
            content = json.dumps(rows)
        else:
            content = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(content.encode()) if path.suffix.lower() == ".gz" else content.encode())
    return path


def create(path: Path, content: str | list[dict[str, Any]]) -> None:
    """A file with this text, or with these rows."""
    if isinstance(content, str):
        path.write_text(content)
    else:
        write(path, *content)


GSM8K_NOTE = "question from 'question', answer from 'answer' after ####."

# row, settings, (question, gold, roles of the messages), what is printed. The answer type is text.
SHAPES = {
    "GSM8K": ({"question": "2 + 3?", "answer": "2+3=5\n#### 5"}, {}, ("2 + 3?", "5", None), GSM8K_NOTE),
    "MATH": (
        {"problem": "Half?", "level": "Level 5", "type": "Algebra", "solution": BOXED},
        {},
        ("Half?", "\\frac{3}{4}", None),
        "question from 'problem', answer from 'solution' after \\boxed{}.",
    ),
    "MATH-500": (
        {"problem": "2 + 3?", "solution": BOXED, "answer": "5", "subject": "Algebra", "level": 2, "unique_id": "a/1"},
        {},
        ("2 + 3?", "5", None),
        "question from 'problem', answer from 'answer'.",
    ),
    "verl": (
        VERL,
        {},
        ("2 + 3?", "5", ["system", "user"]),
        "question from 'prompt', answer from 'reward_model.ground_truth'.",
    ),
    "verl with its question beside it": (
        VERL | {"question": "with a template", "answer": "6"},
        {},
        ("2 + 3?", "5", ["system", "user"]),
        "question from 'prompt', answer from 'reward_model.ground_truth'.",
    ),
    "open-r1": (
        {"problem": "2 + 3?", "solution": "It is 5.", "answer": "5", "messages": SFT, "source": "x"},
        {},
        ("2 + 3?", "5", None),
        "question from 'problem', answer from 'answer'.",
    ),
    "TRL, chat": (
        {"prompt": [CHAT[1]], "solution": "$5$"},
        {},
        ("2 + 3?", "$5$", ["user"]),
        "question from 'prompt', answer from 'solution'.",
    ),
    "TRL, text": (
        {"prompt": "2 + 3?", "ground_truth": "5", "task": "add"},
        {},
        ("2 + 3?", "5", None),
        "question from 'prompt', answer from 'ground_truth'.",
    ),
    "several turns": (
        {"prompt": TURNS, "answer": "5"},
        {},
        ("1 + 1?\n2\nAnd 2 + 3?", "5", ["user", "assistant", "user"]),
        "question from 'prompt', answer from 'answer'.",
    ),
    "messages that end with the answer": (
        {"messages": SFT, "answer": "5"},
        {},
        ("2 + 3?", "5", ["user"]),
        "question from 'messages', answer from 'answer'.",
    ),
    "messages in parts": (
        {"prompt": PARTS, "answer": "5"},
        {},
        ("2 + 3?", "5", ["user"]),
        "question from 'prompt', answer from 'answer'.",
    ),
    "instruction and response": (
        {"instruction": "2 + 3?", "response": "5"},
        {},
        ("2 + 3?", "5", None),
        "question from 'instruction', answer from 'response'.",
    ),
    "input and output": (
        {"input": "2 + 3?", "output": "5"},
        {},
        ("2 + 3?", "5", None),
        "question from 'input', answer from 'output'.",
    ),
    "query and a number": (
        {"query": "2 + 3?", "answer": 5},
        {},
        ("2 + 3?", "5", None),
        "question from 'query', answer from 'answer'.",
    ),
    "capitals": (
        {"ID": "1", "Problem": "2 + 3?", "Answer": 5.0},
        {},
        ("2 + 3?", "5.0", None),
        "question from 'Problem', answer from 'Answer'.",
    ),
    "JSON text in a column": (
        {"prompt": "2 + 3?", "verification": '{"truth": ["5"]}'},
        {"answer_column": "verification.truth.0"},
        ("2 + 3?", "5", None),
        "question from 'prompt', answer from 'verification.truth.0'.",
    ),
    "columns by name": (
        {"text": "2 + 3?", "info": {"label": "5"}},
        {"question_column": "text", "answer_column": "info.label"},
        ("2 + 3?", "5", None),
        "question from 'text', answer from 'info.label'.",
    ),
    "a marker": (
        {"question": "2 + 3?", "answer": "The answer is: 4. No. The answer is: 5"},
        {"answer_marker": "answer is:"},
        ("2 + 3?", "5", None),
        "question from 'question', answer from 'answer' after answer is:.",
    ),
    "no marker": (
        {"question": "Which heading?", "answer": "#### 5"},
        {"answer_marker": ""},
        ("Which heading?", "#### 5", None),
        "question from 'question', answer from 'answer'.",
    ),
    "choices": (
        {"question": "Which?", "choices": ["4", "5"], "answer": 1},
        {"answer": "choice"},
        ("Which?", "B", None),
        "question from 'question', answer from 'answer', the index from 0 of an option.",
    ),
    "chat messages as JSON text": (
        {"prompt": json.dumps(CHAT), "answer": "5"},
        {},
        ("2 + 3?", "5", ["system", "user"]),
        "question from 'prompt', chat messages as JSON text, answer from 'answer'.",
    ),
    "a question that mentions messages": (
        {"prompt": 'What is [{"role": "user"}] in JSON?', "answer": "a list"},
        {},
        ('What is [{"role": "user"}] in JSON?', "a list", None),
        "question from 'prompt', answer from 'answer'.",
    ),
    "numbers as JSON text": (
        {"question": "Reach 24.", "numbers": "[3, 8]", "answer": 24},
        {"answer": "equation"},
        ("Reach 24.", "24", None),
        "question from 'question', answer from 'answer'.",
    ),
}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(tmp_path, configs, shape: str, suffix: str) -> None:
    row, settings, (question, gold, roles), note = SHAPES[shape]
    write(tmp_path / f"train{suffix}", row)
    other = {name: f"{row[name]} Really?" for name in row if row[name] == question}
    write(tmp_path / f"test{suffix}", row | other)
    config = replace(configs["files"], path=str(tmp_path), answer="text")
    loaded = load_held_out(replace(config, **settings))
    example = loaded[0]
    assert example.gold == gold and example.question.startswith(question) and len(loaded) == 1
    assert [message["role"] for message in example.messages or ()] == (roles or [])
    assert dict(example.columns).keys() == row.keys()
    notes: list[str] = []
    assert load_table(replace(config, **settings), "train", notes)[0].columns == row
    expected = [f"data=files: {note}"] if note else []
    if roles is not None and roles[0] == "system":
        expected.append("Prompts in 'prompt' have their own system message: system_prompt is not added to them.")
    assert notes == expected


def test_rows_of_a_large_dataset_stay_in_its_file(tmp_path, configs, monkeypatch) -> None:
    monkeypatch.setattr("grpo.tasks.rows.MAX_BYTES_IN_MEMORY", 0)
    write(
        tmp_path / "train.parquet",
        *(VERL | {"prompt": f"{i}?", "reward_model": {"ground_truth": str(i)}} for i in range(6)),
    )
    config = replace(configs["files"], path=str(tmp_path))
    loaded = load_splits(replace(config, filter={"data_source": "x"}))
    for example in loaded.held_out:
        assert example.columns["reward_model"] == {"ground_truth": example.gold}
        assert list(example.columns) == list(VERL) and example.columns.get("no such column") is None


ROW = {"question": "2 + 3?", "answer": "5"}
OTHER = {"question": "3 + 3?", "answer": "6"}
THIRD = {"question": "4 + 3?", "answer": "7"}
JSON_LINES = "\n".join(map(json.dumps, (ROW, OTHER)))
HIDDEN = "Not read, because no word in the name tells the split (train, validation, test): extra.csv."

# files, settings, (training, held-out, validation) questions, a part of the notes.
LAYOUTS = {
    "one file": (
        {"mine.csv": [ROW, OTHER]},
        {"path": "mine.csv"},
        (1, 1, None),
        "No test split: 1 of the 2 training pr",
    ),
    "GSM8K on the hub": (
        {
            "main/train-00000-of-00001.parquet": [ROW],
            "main/test-00000-of-00001.parquet": [OTHER],
            "socratic/train.parquet": [THIRD],
        },
        {"name": "gsm8k"},
        (1, 1, None),
        "",
    ),
    "a subset": (
        {"a/train.csv": [ROW], "a/test.csv": [OTHER], "b/train.csv": [THIRD]},
        {"subset": "a"},
        (1, 1, None),
        "",
    ),
    "folders of splits": ({"train/0.csv": [ROW], "train/1.csv": [THIRD], "test/0.csv": [OTHER]}, {}, (2, 1, None), ""),
    "data/, in parts": (
        {
            "data/train-00000-of-00002.parquet": [ROW],
            "data/train-00001-of-00002.parquet": [THIRD],
            "data/val-0.parquet": [OTHER],
        },
        {},
        (2, 1, None),
        "",
    ),
    "three splits": ({"train.json": [ROW], "dev.json": [OTHER], "test.json": [THIRD]}, {}, (1, 1, 1), ""),
    "a type for each split": ({"train.csv": [ROW], "eval.jsonl": [OTHER]}, {}, (1, 1, None), ""),
    "results of runs beside it": (
        {
            "train.csv": [ROW],
            "test.csv": [OTHER],
            "outputs/a/completions/step_1.parquet": [THIRD],
            "old/b.csv": [THIRD],
        },
        {},
        (1, 1, None),
        "",
    ),
    "only a test split": ({"test.jsonl": [ROW, OTHER]}, {}, (1, 1, None), "1 of the 2 training problems"),
    "training on another split": (
        {"train.csv": [ROW], "test.csv": [OTHER, THIRD]},
        {"split": "test"},
        (1, 1, None),
        "",
    ),
    "a file in no split": ({"train.csv": [ROW], "test.csv": [OTHER], "extra.csv": [THIRD]}, {}, (1, 1, None), HIDDEN),
    "a file by its setting": (
        {"a.csv": [ROW], "b.csv": [OTHER]},
        {"train_file": "a.csv", "test_file": "b.csv"},
        (1, 1, None),
        "",
    ),
    "names in capitals, and tabs": ({"TRAIN.CSV": [ROW], "Test.csv": [OTHER], "dev.TSV": [THIRD]}, {}, (1, 1, 1), ""),
    "compressed": (
        {"train.jsonl.gz": [ROW], "test.csv.gz": [OTHER], "dev.json.GZ": [THIRD]},
        {},
        (1, 1, 1),
        "",
    ),
    "JSON Lines named JSON": (
        {"train.json": JSON_LINES, "test.json": '{"question": "3?", "answer": 1}'},
        {},
        (2, 1, None),
        "",
    ),
    "an object of columns": (
        {"train.json": '{"question": ["1?", "2?"], "answer": [1, 2], "info": [{"a": 1}, {"a": 2}]}'},
        {},
        (1, 1, None),
        "",
    ),
    "a row of JSON with messages": (
        {"train.json": json.dumps({"prompt": CHAT, "answer": 5}), "test.json": [OTHER]},
        {},
        (1, 1, None),
        "",
    ),
    "GSM8K, another subset": (
        {"main/train.parquet": [ROW], "socratic/train.parquet": [OTHER, THIRD]},
        {"name": "gsm8k", "subset": "socratic"},
        (1, 1, None),
        "",
    ),
    "GSM8K, a subset of JSON Lines": (
        {"socratic/train.jsonl": [OTHER, THIRD], "socratic/test.jsonl": [ROW], "train.jsonl": [ROW]},
        {"name": "gsm8k", "subset": "socratic"},
        (2, 1, None),
        "",
    ),
    "GSM8K, files by their names": (
        {"a.parquet": [ROW], "b.parquet": [OTHER, THIRD]},
        {"name": "gsm8k", "train_file": "b.parquet", "test_file": "a.parquet"},
        (2, 1, None),
        "",
    ),
    "some rows without a marker": (
        {"train.csv": [ROW, OTHER, {"question": "5 + 3?", "answer": "#### 8"}], "test.csv": [THIRD]},
        {},
        (3, 1, None),
        "data=files: 2 of the 3 train rows have no #### in 'answer': their complete text is the reference answer.",
    ),
    "saved by datasets": (
        {"train/data-00000-of-00001.arrow": [ROW], "test/data-00000-of-00001.arrow": [OTHER], "train/state.json": []},
        {},
        (1, 1, None),
        "",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, configs, monkeypatch, layout: str) -> None:
    monkeypatch.chdir(tmp_path)
    files, settings, counts, note = LAYOUTS[layout]
    for name, content in files.items():
        create(tmp_path / name, content)
    config = replace(configs[settings.get("name", "files")], path=".")
    loaded = load_splits(replace(config, **settings), validation=counts[2] is not None)
    assert (len(loaded.train), len(loaded.held_out), len(loaded.validation)) == (*counts[:2], counts[2] or 0)
    assert any(note in text for text in loaded.notes) or not note


# files (rows, or the content of a file), settings, the message.
BAD = {
    "no such path": (
        {},
        {"path": "nowhere.csv"},
        "data.path: there is no file or folder nowhere.csv; for a dataset of",
    ),
    "an empty folder": ({}, {}, "data.path=.: the folder has no data file (.parquet, .arrow, .csv, .tsv, .json, .js"),
    "a zip": ({"a.zip": "PK"}, {"path": "a.zip"}, "a.zip is no data file: the name of one ends in .parquet, .arrow"),
    "a zip named Parquet": (
        {"train.parquet": "PK\x03\x04 and so on"},
        {},
        "data.path: train.parquet cannot be read as Parquet: Parquet magic bytes not found in footer",
    ),
    "ragged lines": (
        {"train.csv": "question,answer\na,1\nb,2,3,4\n"},
        {},
        "train.csv, line 3: 4 values; the first line names 2 columns.",
    ),
    "one of two files is damaged": (
        {"train-0.parquet": [ROW], "train-1.parquet": "no"},
        {},
        "data.path: train-1.parquet cannot be read as Parquet:",
    ),
    "not JSON": ({"train.json": "{no"}, {}, "data.path: train.json cannot be read as JSON:"),
    "an empty file": (
        {"train.csv": ""},
        {},
        "data.path: train.csv is empty; the first line of a CSV file has the names of the columns.",
    ),
    "an open quote": (
        {"train.csv": 'question,answer\n"a,1\n'},
        {},
        "data.path: train.csv cannot be read as CSV: line 2: unexpected end of data.",
    ),
    "a column twice, CSV": (
        {"train.csv": "question,answer,answer\na,1,2\n"},
        {},
        "data.path: train.csv has several columns 'answer'; give each its own name.",
    ),
    "empty JSON": (
        {"train.json": "\n"},
        {},
        "data.path: train.json is empty; a JSON file holds a list of objects, as in",
    ),
    "null": (
        {"train.json": "null"},
        {},
        "data.path: train.json: it holds null; a JSON file holds a list of objects, as",
    ),
    "numbers in JSON": (
        {"train.json": "[1, 2]"},
        {},
        "train.json, row 1: not a JSON object but a number; a JSON file holds",
    ),
    "null in JSON": (
        {"train.json": '[{"question": "a", "answer": 1}, null]'},
        {},
        "train.json, row 2: not a JSON object but null",
    ),
    "rows below a key": (
        {"train.json": '{"version": 1, "data": [{"question": "a", "answer": "1"}]}'},
        {},
        "it holds an object with lists of objects below 'data'; save each list as a file of its own, such as data.json.",
    ),
    "splits below keys": (
        {"a.json": json.dumps({"train": [ROW], "test": [OTHER]})},
        {},
        "below 'train', 'test'; save each list as a file of its own, such as train.json.",
    ),
    "an object of objects": (
        {"train.json": '{"question": {"0": "a"}, "answer": {"0": "1"}}'},
        {},
        "it holds an object of objects, 'question', 'answer'; a JSON file holds a list of objects, as in [{",
    ),
    "columns of two lengths": (
        {"train.json": '{"question": ["a", "b"], "answer": ["1"]}'},
        {},
        "train.json: its columns have different numbers of values: 'question' has 2, 'answer' has 1.",
    ),
    "a broken line under the name JSON": ({"train.json": JSON_LINES + "\n{no"}, {}, "train.json, line 3: not JSON: "),
    "a key twice": (
        {"train.json": '[{"question": "a", "answer": 1, "answer": 2}]'},
        {},
        "an object has the key 'answer' twice",
    ),
    "not gzip": (
        {"train.jsonl.gz": "no"},
        {},
        "train.jsonl.gz is not compressed by gzip, as its name says: Not a gzipped",
    ),
    "a subset of a file": (
        {"a.csv": [ROW]},
        {"path": "a.csv", "subset": "main"},
        "data.subset=main: data.path=a.csv is a file, which has no subsets; leave it out.",
    ),
    "GSM8K, no such subset": (
        {"main/train.parquet": [ROW]},
        {"name": "gsm8k", "subset": "socratic", "train_file": "train.jsonl"},
        "data.subset=socratic: . has no folder of that name, only main.",
    ),
    "GSM8K, no such subset of JSON Lines": (
        {"train.jsonl": [ROW]},
        {"name": "gsm8k", "subset": "socratic", "train_file": "train.jsonl"},
        "data.subset=socratic: . has no folder of that name; leave it out.",
    ),
    "GSM8K, a split of JSON Lines": (
        {"train.jsonl": [ROW]},
        {"name": "gsm8k", "split": "test", "train_file": "train.jsonl"},
        "data.split=test: the files of data.path=. are chosen by name; set data.train_file.",
    ),
    "multiple choice, no such subset": (
        {"ARC-Easy/train.parquet": [ROW]},
        {"name": "multiple_choice", "subset": "ARC-Hard"},
        "data.subset=ARC-Hard: . has no folder of that name, only ARC-Easy.",
    ),
    "neither file nor folder": ({}, {"path": "/dev/null"}, "data.path: /dev/null is neither a file nor a folder."),
    "half of a chat": (
        {"train.jsonl": [{"prompt": json.dumps(CHAT), "answer": 1}, {"prompt": json.dumps(CHAT)[:-5], "answer": 1}]},
        {},
        "line 2: 'prompt' is '[{\"role\"",
    ),
    "a chat in Python's notation": (
        {"train.csv": [{"prompt": str(CHAT), "answer": 1}]},
        {},
        "not chat messages as JSON: Expecting property name enclosed in double quotes",
    ),
    "negative numbers": (
        {"train.jsonl": [{"question": "a", "numbers": [3, -8], "answer": 24}]},
        {"answer": "equation"},
        "line 1: 'numbers' is [3, -8]; it must be a list of whole numbers from 0.",
    ),
    "numbers as one text": (
        {"train.jsonl": [{"question": "a", "numbers": "3 8", "answer": 24}]},
        {"answer": "equation"},
        "line 1: 'numbers' is '3 8'; it must be a list of whole numbers from 0.",
    ),
    "too many numbers": (
        {"train.jsonl": [{"question": "a", "numbers": [1] * 101, "answer": 24}]},
        {"answer": "equation"},
        "line 1: 'numbers' has 101 numbers, too many for an expression of 200 characters.",
    ),
    "no rows": ({"train.csv": "question,answer\n"}, {}, "the training split has 0 problems, too few to hold some out"),
    "several types": (
        {"train-a.csv": [ROW], "train-b.parquet": [ROW]},
        {},
        "the train split has files of several types, 1 .csv, 1 .parquet; name one of them, data.train_file=train-a.csv",
    ),
    "several subsets": (
        {"main/train.csv": [ROW], "socratic/train.csv": [ROW]},
        {},
        "data.path=. has the subsets main, socratic; type data.subset=NAME.",
    ),
    "no such subset": (
        {"main/train.csv": [ROW]},
        {"subset": "mian"},
        "data.subset=mian: . has no folder of that name, on",
    ),
    "no such split": (
        {"train.csv": [ROW]},
        {"split": "dev"},
        "data.split=dev: data.path=. has no such split, only train.",
    ),
    "no training split": (
        {"test.csv": [ROW], "dev.csv": [OTHER]},
        {},
        "data.path=. has the splits validation, test; type data.split=NAME, the one to train on.",
    ),
    "no such file": (
        {"train.csv": [ROW]},
        {"test_file": "t.csv"},
        "data.test_file=t.csv: there is no file t.csv; the folder",
    ),
    "unknown column": (
        {"train.csv": [ROW]},
        {"answer_column": "anwser"},
        "train.csv, row 1: there is no column 'anwser', only 'question', 'answer'.",
    ),
    "unknown key": (
        {"train.jsonl": [VERL]},
        {"answer_column": "reward_model.truth"},
        "train.jsonl, line 1: there is no column 'reward_model.truth', only 'data_source', 'prompt', 'reward_model'",
    ),
    "no question": (
        {"train.csv": [{"text": "a", "answer": 1}]},
        {},
        "train.csv, row 1: none of the columns 'text', 'answer' has a known name of a question; type data.question_column=NAME.",
    ),
    "neither": (
        {"train.csv": [{"frage": "a", "loesung": 1}]},
        {},
        "known name of a question; type data.question_column=NAME data.answer_column=NAME.",
    ),
    "no answer": (
        {"train.csv": [{"question": "a", "x": 1}]},
        {},
        "none of the columns 'question', 'x' has a known name of a reference answer; type data.answer_column=NAME, or a d",
    ),
    "two questions": (
        {"train.csv": [{"instruction": "Add.", "input": "2 and 3", "output": "5"}]},
        {},
        "'instruction' and 'input' may each be the question (columns: 'instruction', 'input', 'output'); type data.question_co",
    ),
    "two answers": (
        {"train.csv": [{"question": "a", "answer": "1", "ground_truth": "2"}]},
        {},
        "'answer' and 'ground_truth' may each be the answer (columns: 'question', 'answer', 'ground_truth'); type data.an",
    ),
    "an empty column": (
        {"train.csv": [ROW, {"question": "a", "answer": ""}]},
        {},
        "train.csv, row 2: 'answer' is null, so the row has no reference answer; delete it, or leave it out by the val",
    ),
    "a reference that is no number": (
        {"train.parquet": [ROW, {"question": "a", "answer": "x^2"}]},
        {"answer": "number"},
        "train.parquet, row 2: the reference answer 'x^2' is not a number; set data.answer=text for answers in words, ",
    ),
    "no marker": (
        {"train.csv": [ROW]},
        {"answer_marker": "####"},
        "train.csv, row 1: there is no #### in 'answer'; data.answer_marker='' takes the complete text.",
    ),
    "a chat without the user": (
        {"train.jsonl": [{"prompt": [{"role": "system", "content": "x"}], "answer": 1}]},
        {},
        "train.jsonl, line 1: 'prompt' has no message of the user; its roles are system.",
    ),
    "an unknown role": (
        {"train.jsonl": [{"prompt": [{"role": "human", "content": "x"}], "answer": 1}]},
        {},
        "'prompt', message 1 has the role 'human'; roles are system, developer, user, assistant, tool.",
    ),
    "an image": (
        {"train.jsonl": [{"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": 1}]},
        {},
        "'prompt', message 1 has a part of type 'image'; prompts have text only.",
    ),
    "Parquet as JSON Lines": (
        {"train.parquet": [ROW]},
        {"name": "jsonl", "train_file": "train.jsonl"},
        "data.path: there is no file train.jsonl; data=files reads the other data files of the folder, such as train.parq",
    ),
    "a Parquet file as JSON Lines": (
        {"a.parquet": [ROW]},
        {"name": "jsonl", "path": "a.parquet", "train_file": "train.jsonl"},
        "data.path: a.parquet is no JSON Lines file (.jsonl); data=files reads it, as in data=files data.path=a.parquet.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_datasets_end_in_one_line(tmp_path, configs, monkeypatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    files, settings, message = BAD[case]
    for name, content in files.items():
        create(tmp_path / name, content)
    config = configs[settings.get("name", "files")]
    with pytest.raises(UserError) as error:
        load_splits(replace(config, **{"path": ".", "answer": "text"} | settings))
    assert message in str(error.value) and "\n" not in str(error.value)


LEVELS = [
    {
        "problem": f"{i}?",
        "answer": str(i),
        "level": i % 3 + 1,
        "type": "Algebra" if i % 2 else "Geometry",
        "info": {"a": i},
    }
    for i in range(12)
]


@pytest.mark.parametrize(
    ("wanted", "golds"),
    [
        ({"level": 1}, "0369"),
        ({"level": "1"}, "0369"),
        ({"level": [1, 2], "type": "Algebra"}, "1379"),
        ({"info.a": [0, 11]}, ["0", "11"]),
        ({"level": 4}, "data.filter={'level': [4]}: none of the 12 rows is left; 'level' has 1, 2, 3."),
        (
            {"Level": 1},
            "data.filter={'Level': [1]}: there is no column 'Level', only 'problem', 'answer', 'level', 'type', 'info'.",
        ),
    ],
)
def test_filter(tmp_path, configs, wanted, golds) -> None:
    write(tmp_path / "train.parquet", *LEVELS)
    config = replace(configs["files"], path=str(tmp_path), filter=wanted)
    if str(golds).startswith(("data", "train")):
        with pytest.raises(UserError) as error:
            load_splits(config)
        assert str(error.value).endswith(golds)
        return
    loaded = load_splits(config)
    assert sorted(example.gold for example in loaded.train + loaded.held_out) == sorted(golds)


def test_filtered_rows_may_have_unreadable_references(tmp_path, configs) -> None:
    rows = [row | {"answer": "x" if row["type"] == "Algebra" else row["answer"]} for row in LEVELS]
    write(tmp_path / "train.jsonl", *rows)
    config = replace(configs["jsonl"], path=str(tmp_path))
    with pytest.raises(UserError, match="line 2: the reference answer 'x' is not a number"):
        load_splits(config)
    loaded = load_splits(replace(config, filter={"type": "Geometry"}))
    assert len(loaded.train) + len(loaded.held_out) == 6


def test_filter_by_missing_values(tmp_path, configs) -> None:
    rows = [ROW | {"level": None}, OTHER, THIRD | {"level": 3}, THIRD | {"question": "?", "level": 4}]
    write(tmp_path / "train.jsonl", *rows)
    for wanted, count in ((None, 2), ([None, 3], 3), ([3, 4], 2)):
        loaded = load_splits(replace(configs["files"], path=str(tmp_path), filter={"level": wanted}))
        assert len(loaded.train + loaded.held_out) == count


# The cells of a column of CSV, and the values that reach the rewards.
CELLS = [
    (["1", "-20", "0"], [1, -20, 0]),
    (["3", "", "4"], [3, None, 4]),
    (["0.5", "-1.25", "2.0"], [0.5, -1.25, 2.0]),
    (["001", "2", "3"], ["001", "2", "3"]),
    (["1", "2.5", ""], ["1", "2.5", ""]),
    (["1.50", "2.25", "3.0"], ["1.50", "2.25", "3.0"]),
    (["nan", "inf", "1.0"], ["nan", "inf", "1.0"]),
    (["NA", "None", "null"], ["NA", "None", "null"]),
    (["1_000", "1", "2"], ["1_000", "1", "2"]),
    (["", "", ""], ["", "", ""]),
    (["2020-01-01", "a,b", 'a "quote"\nand a line'], ["2020-01-01", "a,b", 'a "quote"\nand a line']),
    (["1" * 30, "2", "3"], [int("1" * 30), 2, 3]),
    (["a" * 200_000, "b", "c"], ["a" * 200_000, "b", "c"]),
]


def test_cells_of_csv(tmp_path, configs) -> None:
    columns = {f"c{i}": cells for i, (cells, _) in enumerate(CELLS)}
    rows = [
        {"question": f"{i}?", "answer": str(i)} | {name: cells[i] for name, cells in columns.items()} for i in range(3)
    ]
    write(tmp_path / "train-0.csv", *rows[:2])
    write(tmp_path / "train-1.csv", rows[2])  # the types are those of all files of a split
    loaded = load_table(replace(configs["files"], path=str(tmp_path)), "train", [])
    assert [[example.columns[name] for example in loaded] for name in columns] == [values for _, values in CELLS]


def test_a_column_twice_in_a_table(tmp_path, configs) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table([["a"], ["1"], ["2"]], names=["question", "answer", "answer"])
    parquet.write_table(table, tmp_path / "a.parquet")
    for name, new in (("a.arrow", pa.ipc.new_stream), ("b.arrow", pa.ipc.new_file)):
        with pa.OSFile(str(tmp_path / name), "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table)
    for name in ("a.parquet", "a.arrow", "b.arrow"):
        with pytest.raises(UserError, match=rf"{name} has several columns 'answer'; give each its own name\.$"):
            load_splits(replace(configs["files"], path=str(tmp_path / name)))


def test_difficulty(tmp_path, configs) -> None:
    train = write(tmp_path / "train.csv", *({"question": f"What is {i}?", "answer": i} for i in range(8)))
    write(tmp_path / "test.csv", ROW)
    rates = [{"question": f" What  is {i}?", "solve_rate": i / 5, "samples": 8} for i in range(6)]
    file = write(tmp_path / "rates.jsonl", {"question": "What is 4?", "solve_rate": 0}, *rates)
    config = replace(configs["files"], path=str(tmp_path), train_file=train.name, difficulty=str(file))
    loaded = load_splits(config)
    assert [example.gold for example in loaded.train] == ["1", "2", "3", "4"] and len(loaded.held_out) == 1
    assert loaded.notes[-1].endswith(
        "rates.jsonl: 4 of 8 training problems have a solve rate from 0.1 to 0.9, 2 have another, 2 have none. "
        "The others are left out."
    )
    assert [example.gold for example in load_splits(replace(config, solve_rate=[0.0, 0.2])).train] == ["0", "1"]
    assert load_held_out(replace(config, difficulty="gone.jsonl")) == loaded.held_out
    for line, message in (
        (
            {"question": "What is 0?", "solve_rate": 2},
            "bad.jsonl, line 1: 'solve_rate' is 2; it must be a number from 0 to 1.",
        ),
        ({"question": "What is 0?"}, "bad.jsonl, line 1: there is no column 'solve_rate', only 'question'."),
        ({"question": "What is 0?", "solve_rate": 1}, "0 of 8 training problems have a solve rate from 0.1 to 0.9,"),
        (
            {"question": "Why?", "solve_rate": 0.5},
            "bad.jsonl: none of its 1 questions is one of the 8 training problems, of which the first is 'What is 0?'; "
            "give the file for this data.",
        ),
    ):
        bad = write(tmp_path / "bad.jsonl", line)
        with pytest.raises(UserError) as error:
            load_splits(replace(config, difficulty=str(bad)))
        assert message in str(error.value)


@pytest.mark.parametrize(("key", "setting"), [("problem", None), ("prompt", None), ("text", "text")])
def test_difficulty_by_the_column_of_the_dataset(tmp_path, configs, key: str, setting: str | None) -> None:
    questions = [[{"role": "user", "content": f"{i}?"}] if key == "prompt" else f"{i}?" for i in range(9)]
    write(tmp_path / "train.jsonl", *({key: question, "answer": i} for i, question in enumerate(questions)))
    file = write(tmp_path / "rates.jsonl", *({key: question, "solve_rate": 0.5} for question in questions[:8]))
    config = replace(configs["jsonl"], path=str(tmp_path), difficulty=str(file), question_column=setting)
    note = load_splits(replace(config, eval_problems=1)).notes[-1]
    assert "8 of 8 training" in note or "7 of 8 training" in note


class TestHub:
    """The hub is replaced: `load_dataset` returns made-up splits."""

    @pytest.fixture
    def hub(self, monkeypatch):
        import datasets

        asked = []

        def answer(result):
            def load(path, subset=None):
                asked.append((path, subset))
                if isinstance(result, Exception):
                    raise result
                return datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in result.items()})

            monkeypatch.setattr(datasets, "load_dataset", load)
            return asked

        return answer

    @pytest.mark.parametrize(
        ("splits", "settings", "counts"),
        [
            ({"train": [ROW], "test": [OTHER]}, {}, (1, 1, 0)),
            ({"train": [ROW], "validation": [THIRD], "test": [OTHER]}, {}, (1, 1, 1)),
            ({"train": [ROW], "validation": [OTHER]}, {}, (1, 1, 0)),
            ({"auxiliary_train": [ROW], "dev": [ROW], "validation": [THIRD], "test": [OTHER]}, {}, (1, 1, 1)),
            ({"test": [ROW, OTHER, THIRD]}, {}, (2, 1, 0)),
            ({"train_sft": [ROW], "train_gen": [OTHER], "test_sft": [THIRD]}, {"split": "train_gen"}, (1, 1, 0)),
            (
                {"train_sft": [ROW], "train_gen": [OTHER]},
                {},
                "data.path=some/dataset has the splits train_sft, train_gen; type data.split=NAME, the one to train on.",
            ),
            (
                {"train": [ROW]},
                {"split": "dev"},
                "data.split=dev: data.path=some/dataset has no such split, only train.",
            ),
            (
                {"train": [ROW, {"question": "a", "answer": "?"}]},
                {},
                "some/dataset, train split, row 2: the reference answer",
            ),
            ({"train": [ROW]}, {"path": "./some/dataset"}, "data.path: there is no file or folder ./some/dataset"),
        ],
    )
    def test_splits(self, configs, hub, splits, settings, counts) -> None:
        hub(splits)
        config = replace(configs["hub"], **{"path": "some/dataset"} | settings)
        if isinstance(counts, str):
            with pytest.raises(UserError) as error:
                load_splits(config)
            assert str(error.value).startswith(counts)
            return
        loaded = load_splits(config, validation=counts[2] > 0)
        assert (len(loaded.train), len(loaded.held_out), len(loaded.validation)) == counts
        if len(splits) == 1:
            assert loaded.notes[1].startswith("No test split: 1 of the 3 training problems")

    def test_defaults(self, configs, hub) -> None:
        asked = hub({"train": [ROW], "test": [OTHER]})
        load_splits(replace(configs["gsm8k"], path=None))
        load_splits(replace(configs["hub"], path="some/dataset", subset="hard"))
        assert asked[::2] == [("openai/gsm8k", "main"), ("some/dataset", "hard")]
        hub({"train": [{"problem": "Half?", "solution": BOXED}], "test": [{"problem": "?", "solution": "\\boxed{1}"}]})
        loaded = load_splits(compose(["data=math"]).data)
        assert (loaded.train[0].gold, loaded.held_out[0].gold) == ("\\frac{3}{4}", "1")
        assert loaded.notes == ["data=math: question from 'problem', answer from 'solution' after \\boxed{}."]

    def test_errors(self, configs, hub, monkeypatch) -> None:
        config = replace(configs["hub"], path="some/dataset")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for error, message in (
            (
                ConnectionError("no route"),
                "The dataset some/dataset is not on this machine, and the hub cannot be reached. Ei",
            ),
            (
                ValueError(
                    "Config name is missing.\nPlease pick one among the available configs: ['main', 'socratic']\nEx"
                ),
                "data.subset=null: some/dataset has other subsets: main, socratic.",
            ),
            (
                ValueError("BuilderConfig 'x' not found. Available: ['main', 'socratic']"),
                "data.subset=null: some/dataset has other subsets: main, socratic.",
            ),
        ):
            hub(error)
            with pytest.raises(UserError) as raised:
                load_splits(config)
            assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_files_of_text_need_no_library(light, tmp_path) -> None:
    rows = [{"problem": f"{i}?", "solution": f"It is \\boxed{{{i}}}."} for i in range(9)]
    for name, file in (("jsonl", "a.jsonl"), ("files", "a.jsonl"), ("files", "a.csv"), ("files", "a.json")):
        write(tmp_path / file, *rows)
        ended = light("grpo.train", f"data={name}", f"data.path={file}", "data.eval_problems=9", "tracking=none")
        assert "data.eval_problems=9: the training split has only 9 problems" in ended.stderr
        assert "datasets" not in ended.modules


def test_the_protocol_tells_prompts_with_their_own_system_message(configs, tmp_path) -> None:
    from grpo.evaluation.description import describe_protocol
    from grpo.evaluation.protocol import evaluation_protocol

    protocols = []
    for system in ("Be brief.", "Be long."):
        write(
            tmp_path / "a.jsonl",
            {"prompt": [{"role": "system", "content": system}, CHAT[1]], "answer": "5"},
            ROW | {"prompt": "1?"},
        )
        examples = load_splits(replace(configs["files"], path=str(tmp_path), eval_problems=1), validation=False)
        policy = {"path": "embedded:tiny"}
        protocols.append(evaluation_protocol(compose(), "held-out", examples.train + examples.held_out, policy))
    assert protocols[0]["own_system_prompts"] == 1 and protocols[0]["problems"] != protocols[1]["problems"]
    assert describe_protocol(protocols[0])["prompt"].endswith("; 1 with a system prompt of their own instead")
    assert not {"difficulty", "solve_rate", "train_file"} & protocols[0]["data"].keys()
