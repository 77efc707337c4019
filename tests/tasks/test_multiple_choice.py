"""Multiple choice: rows in the shapes of published datasets, and the problems that are made of them. Rows are made up."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.datasets import LOADERS
from grpo.tasks.example import Example
from grpo.tasks.splits import load_splits

TEXTS = ["iron", "wood", "air"]
CHOICE = ANSWER_TYPES["choice"]
QUESTION = "What floats on water?\nA) iron\nB) wood\nC) air"


def load(folder: Path, *rows: dict[str, Any], overrides: tuple[str, ...] = ()) -> list[Example]:
    folder.joinpath("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    question, answer = (
        known if known in rows[0] else other
        for known, other in (("question_stem", "question"), ("answerKey", "answer"))
    )
    test = {question: "Which is red?", "choices": ["grass", "blood"], answer: 1}
    folder.joinpath("test.jsonl").write_text(json.dumps(test) + "\n")
    return load_splits(compose(["data=multiple_choice", f"data.path={folder}", *overrides]).data).train


@pytest.mark.parametrize(
    "row",
    [
        # ARC; ARC with numbers as labels; MMLU; OpenBookQA; CommonsenseQA
        {"id": "x", "question": "Q", "choices": {"text": TEXTS, "label": ["A", "B", "C"]}, "answerKey": "B"},
        {"id": "x", "question": "Q", "choices": {"text": TEXTS, "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"question": "Q", "subject": "physics", "choices": TEXTS, "answer": 1},
        {"question_stem": "Q", "choices": {"text": TEXTS, "label": ["A", "B", "C"]}, "answerKey": "B"},
        {
            "question": "Q",
            "question_concept": "x",
            "choices": {"label": ["A", "B", "C"], "text": TEXTS},
            "answerKey": "B",
        },
        # Other forms: the text as the answer, a list of mappings, letters with their texts
        {"question": "Q", "choices": TEXTS, "answer": "wood"},
        {
            "question": "Q",
            "options": [{"label": "A", "text": "iron"}, {"label": "B", "text": "wood"}, {"label": "C", "text": "air"}],
            "answer": "B",
        },
        {"question": "Q", "options": {"A": "iron", "B": "wood", "C": "air"}, "answer": "b"},
    ],
)
def test_rows_of_published_datasets(row: dict[str, Any], tmp_path: Path) -> None:
    row = {name: "What floats on water?" if value == "Q" else value for name, value in row.items()}
    (example,) = load(tmp_path, row)
    assert (example.question, example.gold) == (QUESTION, "B")
    assert dict(example.columns) == row
    for answer, right in (
        ("B", True),
        ("(b)", True),
        ("B) wood", True),
        ("wood", True),
        ("A", False),
        ("B) air", False),
    ):
        assert CHOICE.matches(answer, example) is right, answer


def test_letters_of_the_row_in_another_order(tmp_path: Path) -> None:
    (example,) = load(tmp_path, {"question": "Q", "choices": {"text": TEXTS, "label": ["C", "B", "A"]}, "answer": "A"})
    assert (example.question, example.gold) == ("Q\nC) iron\nB) wood\nA) air", "A")
    assert CHOICE.matches("air", example) and CHOICE.matches("A", example)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q", "answer": "B"}, "there is no column 'choices' or 'options', only 'question', 'answer'"),
        (
            {"question": "Q", "choices": TEXTS, "answer": "stone"},
            "line 1: the reference answer 'stone' is not an option of the row (A to C)",
        ),
        (
            {"question": "Q", "choices": "iron, wood", "answer": 0},
            "line 1: 'choices' is 'iron, wood'; it must be a list of options",
        ),
        ({"question": "Q", "choices": TEXTS, "answer": 3}, "the reference answer '3' is not an option"),
    ],
)
def test_rows_that_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, row)
    assert message in str(error.value)


NUMBERS = ["1", "2", "3", "4"]
COLORS = ["red", "blue", "green", "black"]


@pytest.mark.parametrize("data", ["multiple_choice", "jsonl"])
@pytest.mark.parametrize(
    ("rows", "letters"),
    [
        # One reading for all rows: the text of an option first if the answers are texts, its index if they are numbers
        ([(NUMBERS, "1"), (NUMBERS, "4")], "AD"),
        ([(NUMBERS, 1), (NUMBERS, 3)], "BD"),
        ([(NUMBERS, 1), (NUMBERS, 4)], "AD"),
        ([([5, 7, 9], 5), ([5, 7, 9], 9)], "AC"),
        ([(NUMBERS, "2"), (COLORS, "0")], "CA"),
        ([(NUMBERS, 2), (COLORS, 0)], "CA"),
        ([(COLORS, "A"), (["B", "C", "A"], "A")], "AA"),
        ([(COLORS, "red"), (["B", "C", "A"], "A")], "AC"),
        # A row that cannot be read in that way
        (
            [(NUMBERS, 1), (COLORS, 4)],
            "line 2: the reference answer '4' is not an option of the row (A to D), its text o",
        ),
        (
            [(COLORS, "red"), (COLORS, "2")],
            "line 2: the reference answer '2' names an option by its index from 0, and th",
        ),
        (
            [(COLORS, "red"), (COLORS, "B")],
            "by its letter, and those of the rows before by text; write all of them in the same",
        ),
    ],
)
def test_all_answers_of_a_split_are_read_in_one_way(data: str, rows, letters: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    table = [{"question": f"{i}?", "choices": choices, "answer": answer} for i, (choices, answer) in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    config = compose([f"data={data}", f"data.path={path}", "data.answer=choice"]).data
    if letters.startswith(("line", "by")):
        with pytest.raises(UserError) as error:
            LOADERS[data](config, "train", [])
        assert letters in str(error.value)
        return
    assert "".join(example.gold for example in LOADERS[data](config, "train", []) or []) == letters


@pytest.mark.parametrize("answer", ["number", "strict", "equation"])
def test_types_of_answers_that_read_no_letters(answer: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: the reference answer 'C' is not a"):
        load(tmp_path, {"question": "Q", "choices": TEXTS, "answer": 2}, overrides=(f"data.answer={answer}",))
