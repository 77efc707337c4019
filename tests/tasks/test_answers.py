"""Extracting answers from completions, and comparing them with reference answers."""

import pytest

from grpo.policy.chat_template import build_messages
from grpo.tasks.numbers import last_number, single_number
from tests.helpers.answer_tables import ONE_NUMBER, SAME_BY_NUMBER, SAME_BY_TEXT, SAME_STRICTLY
from tests.helpers.scoring import is_right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 18.", "18"),
        ("18", "18"),
        ("3 boxes, 12 pens", "12"),
        ("It costs $1,080.50.", "$1,080.50"),
        ("10-5", "5"),  # a sign between operands is an operation
        ("10 - 5=5", "5"),
        ("(4)-5", "5"),
        ("it fell to -5", "-5"),
        ("x=-5 degrees", "-5"),
        ("10,80", "80"),
        ("1,0800", "0800"),
        ("v1.2", "1.2"),
        ("no number", None),
        ("٣ ²", None),
        ("", None),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(("text", "number"), ONE_NUMBER)
def test_the_only_number_of_a_text(text: str, number: float | None) -> None:
    assert single_number(text) == number


@pytest.mark.parametrize(
    ("left", "right", "same"),
    SAME_BY_NUMBER,
)
def test_same_answer(left: str, right: str, same: bool) -> None:
    assert is_right(left, right) is same and is_right(right, left) is same


@pytest.mark.parametrize(
    ("left", "right", "same"),
    SAME_BY_TEXT,
)
def test_texts(left: str, right: str, same: bool) -> None:
    assert is_right(left, right, "text") is same and is_right(right, left, "text") is same


@pytest.mark.parametrize(
    ("left", "right", "same"),
    SAME_STRICTLY,
)
def test_the_strict_rule(left: str, right: str, same: bool) -> None:
    assert is_right(left, right, "strict") is same and is_right(right, left, "strict") is same


def test_an_empty_system_prompt_is_omitted() -> None:
    assert build_messages("Why?", "") == [{"role": "user", "content": "Why?"}]
    assert [message["role"] for message in build_messages("Why?", "Think.")] == ["system", "user"]
