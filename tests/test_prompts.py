"""Reading answers out of completions."""

import pytest

from grpo.prompts import chat, last_number, same_answer


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


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [("18", "18.00", True), ("1,080", "1080", True), ("$5", "5", True), ("-0", "0", True), ("a", " a\n", True)]
    + [("18", "19", False), ("10,80", "1080", False), ("5 pens", "5", False), ("", "0", False)],
)
def test_same_answer(left: str, right: str, same: bool) -> None:
    assert same_answer(left, right) is same and same_answer(right, left) is same


def test_an_empty_system_prompt_is_left_out() -> None:
    assert chat("Why?", "") == [{"role": "user", "content": "Why?"}]
    assert [message["role"] for message in chat("Why?", "Think.")] == ["system", "user"]
