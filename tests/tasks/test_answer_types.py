"""What each answer type counts as right, and what it reads from a completion in any format."""

from importlib.util import find_spec
from typing import Any

import pytest

from grpo.core.errors import UserError
from grpo.tasks.answer_types import ANSWER_TYPES, accuracy_labels
from grpo.tasks.example import Example

needs_math_verify = pytest.mark.skipif(find_spec("math_verify") is None, reason="math-verify is not installed")

LETTERS = {"choices": ["6", "8", "9", "cat"]}
ARC = {"choices": {"text": ["iron", "wood", "air"], "label": ["1", "2", "3"]}}


def answered(text: str) -> str:
    return f"<reasoning>\nx\n</reasoning>\n<answer>\n{text}\n</answer>\n"


def example(gold: str, columns: dict[str, Any] | None = None) -> Example:
    return Example("?", gold, columns=columns or {})


@pytest.mark.parametrize(
    ("answer", "gold", "columns", "right"),
    [
        # The forms of a letter
        ("B", "B", {}, True),
        ("b", "B", {}, True),
        ("(B)", "B", {}, True),
        ("[B]", "B", {}, True),
        ("B.", "B", {}, True),
        ("B)", "B", {}, True),
        ("**B**", "B", {}, True),
        ("**B.** 8", "B", {}, True),
        ("B) 8", "B", {}, True),
        ("B: 8", "B", {}, True),
        ("\\boxed{B}", "B", {}, True),
        ("$\\text{(B)}$", "B", {}, True),
        ("The answer is B.", "B", {}, True),
        ("Option B", "B", {}, True),
        ('"B"', "B", {}, True),
        ("\u201cB\u201d", "B", {}, True),
        ("B;", "B", {}, True),
        ("B!", "B", {}, True),
        ("B\u3002", "B", {}, True),
        ("B - 8", "B", {}, True),
        ("B \u2013 8", "B", LETTERS, True),
        ("B - 9", "B", LETTERS, False),
        ("<b>B</b>", "B", {}, True),
        ("<strong>B</strong>) 8", "B", LETTERS, True),
        ("8 (B)", "B", LETTERS, True),
        ("The answer is 8 (B).", "B", LETTERS, True),
        ("9 (B)", "B", LETTERS, False),
        ("not A but (B)", "B", LETTERS, False),
        ("C", "B", {}, False),
        ("", "B", {}, False),
        ("8", "B", {}, False),
        ("Bad", "B", {}, False),
        ("A dog", "A", {}, False),
        # Several letters are no choice.
        ("A, B", "B", {}, False),
        ("B, A", "B", {}, False),
        ("A, B, C", "A", {}, False),
        ("A; B; C; D", "A", {}, False),
        ("A - B", "A", {}, False),
        ("A! B!", "A", {}, False),
        ("A (B)", "B", LETTERS, False),
        ("A - (B)", "A", LETTERS, False),
        ("A or B", "A", {}, False),
        ("B) or C)", "B", {}, False),
        ("A) B) C) D)", "A", {}, False),
        ("B) 8, or C.", "B", {}, False),
        ("B, (C)", "B", {}, False),
        ("B and (C)", "B", {}, False),
        ("B) vitamin C", "B", {}, True),
        ("B) vitamins A and C", "B", {"choices": ["none", "vitamins A and C"]}, True),
        ("ABCD", "A", {}, False),
        # The options of the row: the reference is a letter, an index from 0, a text or a label
        ("B", "1", LETTERS, True),
        ("B", "8", LETTERS, True),
        ("D", "Cat", LETTERS, True),
        ("cat", "D", LETTERS, True),
        ("8", "B", LETTERS, True),
        ("B) 8", "B", LETTERS, True),
        ("B) 9", "B", LETTERS, False),  # the text of another option
        ("E", "D", LETTERS, False),
        ("A", "1", ARC, True),  # a label of the row
        ("wood", "2", ARC, True),
        ("B", "wood", {"options": {"A": "iron", "B": "wood"}}, True),
        ("B", "1", {"options": [{"label": "A", "text": "iron"}, {"label": "B", "text": "wood"}]}, True),
    ],
)
def test_choice(answer: str, gold: str, columns: dict[str, Any], right: bool) -> None:
    assert ANSWER_TYPES["choice"].matches(answer, example(gold, columns)) is right


NUMBERS = {"numbers": [3, 5, 7, 3]}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("3 * 5 + 3 * 7", False),  # 36
        ("3*7 + 5 - 3", False),  # 23
        ("3 + 3 * 7 - 5 + 5", False),  # 5 twice
        ("(7 - 5) * 3 * 3", False),  # 18
        ("7 * 3 + 3", False),  # 24, without the 5
        ("(7 + 5) * (3 + 3) / 3", False),  # 3 three times
        ("3 * (7 + 5 - 3) - 3", False),  # 24, but 3 three times
        ("3 * 5 + 3 + 7", False),  # 25
        ("3 + 7 + 3 * 5 - 1", False),  # another number
        ("3 * 7 + 3", False),
        ("(5 + 3) * 3 * 7 / 7", False),
        ("7 * 5 - 3 * 3 - 2", False),
        ("(3 - 5 / 7) * 3", False),
        ("24", False),
        ("", False),
        ("3.5 * 7 - 3", False),  # no decimal numbers
        ("3 ** 3 - 7 + 5", False),
        ("3_3", False),
        ("__import__('os')", False),
        ("3 / (5 - 5)", False),
        ("((((((((3", False),
        ("(" * 300, False),
        ("-" * 150 + "3", False),
    ],
)
def test_wrong_equations(answer: str, right: bool) -> None:
    assert ANSWER_TYPES["equation"].matches(answer, example("24", NUMBERS)) is right


@pytest.mark.parametrize(
    ("answer", "gold", "numbers", "right"),
    [
        ("3 * 8", "24", [3, 8], True),
        ("3 × 8", "24", [8, 3], True),
        ("3 * 8 = 24", "24", [3, 8], True),
        ("3 * 8 = 25", "24", [3, 8], False),
        ("3 * 8 = 24 = 24", "24", [3, 8], False),
        ("24 = 3 * 8", "24", [3, 8], True),
        ("25 = 3 * 8", "24", [3, 8], False),
        ("3 * 8 == 24", "24", [3, 8], True),
        ("x = 3 * 8", "24", [3, 8], True),
        ("Result = 3 * 8 = 24", "24", [3, 8], True),
        ("3 * 8 = x", "24", [3, 8], False),
        ("3 * 8 = 4 * 6", "24", [3, 8], False),
        ("24 = 24", "24", [24], True),
        ("$3 * 8$", "24", [3, 8], True),
        ("$$3 \\times 8 = 24$$", "24", [3, 8], True),
        ("\\(\\left(1 + 2\\right) \\cdot 8\\)", "24", [1, 2, 8], True),
        ("\\boxed{48 \\div 2}", "24", [2, 48], True),
        ("**3 * 8**", "24", [3, 8], True),
        ("*3 * 8*", "24", [3, 8], False),
        ("`3 * 8 = 24`", "24", [3, 8], True),
        ("3 * 8;", "24", [3, 8], True),
        ("3 * 8 = 24.", "24", [3, 8], True),
        ("The answer is 3 * 8.", "24", [3, 8], True),
        ("**The final answer is: $3 * 8$.**", "24", [3, 8], True),
        ("Answer: `3 * 8`", "24", [3, 8], True),
        ("The answer is not 3 * 8", "24", [3, 8], False),
        ("3 * 8 or 8 * 3", "24", [3, 8], False),
        ("3 * 8\n4 * 6", "24", [3, 8], False),
        ("The answer is " * 100 + "3 * 8", "24", [3, 8], False),
        ("(1 + 2) * 8", "24", [1, 2, 8], True),
        ("8 / (3 - 8 / 3)", "24", [3, 3, 8, 8], True),  # exact, not in floats
        ("6 ÷ 2 − 1", "2", [1, 2, 6], True),
        ("-(1 - 9)", "8", [1, 9], True),
        ("08 * 3", "24", [3, 8], False),
        ("3 * 8", "24", ["3", "8"], True),
        ("3 * 8", "24", [3, 8, 1], False),  # each number is used
        ("3 * 8 * 1", "24", [3, 8], False),
    ],
)
def test_equations(answer: str, gold: str, numbers: list[Any], right: bool) -> None:
    for column in ("numbers", "nums"):
        assert ANSWER_TYPES["equation"].matches(answer, example(gold, {column: numbers})) is right


@needs_math_verify
def test_mathematics() -> None:
    table = [
        ("1/2", "\\frac{1}{2}", True),
        ("0.5", "\\frac{1}{2}", True),
        ("\\boxed{\\frac12}", "\\frac{1}{2}", True),
        ("$\\dfrac{1}{2}$", "\\frac{1}{2}", True),
        ("0.33", "\\frac{1}{3}", False),
        ("0.333333", "\\frac{1}{3}", True),
        ("\\sqrt{12}", "2\\sqrt{3}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("x=5", "5", True),
        ("5x", "5", False),
        ("18 square feet", "18", True),
        ("1,080", "1080", True),
        ("118", "18", False),
        ("3 or 4", "3", False),
        ("90", "90^\\circ", True),
        ("(1, 2)", "(1,2)", True),
        ("\\{2, 1\\}", "\\{1,2\\}", True),
        # What models write around an expression, and instead of LaTeX
        ("**2**", "2", True),
        ("`2`", "2", True),
        ("__x = 2__", "2", True),
        ("**\\frac{1}{2}**", "\\frac{1}{2}", True),
        ("**1** or **2**", "2", False),
        ("\\$16", "16", True),
        ("16", "\\$16", True),
        ("$16", "16", True),
        ("\\$5", "\\$5.00", True),
        ("50\\%", "50%", True),
        ("**50%**", "50\\%", True),
        ("50%", "5%", False),
        ("\u00bd", "\\frac{1}{2}", True),
        ("1\u00bd", "1.5", True),
        ("-\u00be", "-\\frac{3}{4}", True),
        ("\u221a2", "\\sqrt{2}", True),
        ("2\u221a3", "\\sqrt{12}", True),
        ("\u221a(x+1)", "\\sqrt{x+1}", True),
        ("x\u00b2 + 1", "x^2+1", True),
        ("x\u207b\u00b9", "\\frac{1}{x}", True),
        ("(\u2212\u221e, 2]", "(-\\infty,2]", True),
        ("3/4.", "3/4", True),
        ("a**2 + b**2", "a^2 + b^2", False),
        # References that are words are compared as text.
        ("Evelyn.", "\\text{Evelyn}", True),
        ("**Friday**", "\\text{Friday}", True),
        ("friday", "Friday", True),
        ("\\text{Friday}", "Friday", True),
        ("no solution", "No solution", True),
        ("No", "\\text{no}", True),
        ("on", "\\text{no}", False),
        ("yirdaF", "Friday", False),  # equal as products of letters
        ("day Fri", "\\text{Friday}", False),
        ("June 20", "\\text{June 20}", True),
        ("20 June", "\\text{June 21}", False),
        ("ba", "ab", True),  # a product
        ("5\\text{ cm}", "5", True),
        ("Evelyn", "\\text{Evelyn}", True),
        ("Carl", "\\text{Evelyn}", False),
        # Text on which sympy computes without end, or exhausts the memory, is wrong.
        ("9^{9^{9^{9^{9}}}}", "7", False),
        ("x" * 5_000, "7", False),
        ("(" * 400, "7", False),
        ("7", "7", True),
        ("\\frac{14}{2}", "7", True),
        ("\\frac{4}{2}\n\\frac{3}{2}", "\\frac{3}{2}", False),  # several answers
        ("\\[\n\\frac{3}{2}\n\\]", "1.5", True),
        ("\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", True),
    ]
    wrong = [row for row in table if ANSWER_TYPES["math"].matches(row[0], example(row[1])) is not row[2]]
    assert wrong == []


@pytest.mark.parametrize(
    ("answer_type", "completion", "strict", "anywhere"),
    [
        ("number", answered("18 pens") + "or 19", "18 pens", "19"),
        ("number", "It is 18.", None, "18"),
        ("text", answered("Paris"), "Paris", "Paris"),
        ("text", "It is a city.\nThe answer is: Paris.\n", None, "Paris."),
        ("text", "<reasoning>\nhm\n</reasoning>\n<answer>\nParis", None, "Paris"),
        ("text", "\n", None, None),
        ("choice", answered("B"), "B", "B"),
        ("choice", "(A) is too large, so the answer is B because it fits", None, "B"),
        ("choice", "Of (A) and (B), (A) is right.", None, "A"),
        ("choice", "We know that I am right.\nC\n", None, "C"),
        ("choice", "A dog is an animal.", None, None),
        ("math", answered("\\frac12"), "\\frac12", "\\frac12"),
        ("math", answered("so \\boxed{\\frac{1}{2}}."), "\\frac{1}{2}", "\\frac{1}{2}"),
        ("math", "so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}", "\\frac{1}{2}"),
        ("math", "\\boxed{1} and then \\boxed{2", "1", "1"),
        ("math", "It is 18.", None, "18"),
        ("math", answered("") + "\\boxed{3}", "3", "3"),
        ("math", answered(""), "", None),
        ("equation", answered("3 * 8"), "3 * 8", "3 * 8"),
        ("equation", "First 3 + 8 = 11, but (3) * 8 = 24. Done in 2 steps", None, "(3) * 8 = 24"),
        ("equation", "no idea, 24", None, None),
    ],
)
def test_what_is_read(answer_type: str, completion: str, strict: str | None, anywhere: str | None) -> None:
    kind = ANSWER_TYPES[answer_type]
    assert kind.extract(completion) == strict
    assert kind.extract_anywhere(completion) == anywhere


@pytest.mark.parametrize(
    ("answer_type", "answers"),
    [
        ("number", ["18", "$18.00", "18 pens"]),
        ("text", ["Paris", "paris."]),
        ("text", ["New York", " new\n york", "New\u00a0York"]),
        ("text", ["Caf\u00e9", "cafe\u0301"]),
        ("choice", ["B", "(B)", "B) 8", "**b**"]),
        ("choice", ["B", '"B"', "<b>B</b>", "B - 8"]),
        ("math", ["1080", "1,080", "**1080**", "\\$1,080"]),
        ("math", ["\\frac{1}{2}", "\u00bd", "$\\frac{1}{2}$."]),
        ("equation", ["3*8", "3 * 8 = 24", "3 × 8", "24 = 3 * 8", "**x = 3 * 8.**", "The answer is $3 \\times 8$"]),
    ],
)
def test_equal_answers_get_the_same_vote(answer_type: str, answers: list[str]) -> None:
    assert len({ANSWER_TYPES[answer_type].voting_key(answer) for answer in answers}) == 1


@pytest.mark.parametrize(
    ("answer_type", "correct_by", "labels"),
    [
        ("number", "correctness", ["right inside <answer>", "right as last number"]),
        ("choice", "correctness", ["right inside <answer>", "right as last letter of an option"]),
        ("math", "correctness", ["right inside <answer> or \\boxed{}", "right as last \\boxed{} or number"]),
        ("number", "solved", ["right by the reward solved", "right as last number"]),
    ],
)
def test_labels_of_accuracies(answer_type: str, correct_by: str, labels: list[str]) -> None:
    assert [*accuracy_labels(ANSWER_TYPES[answer_type], correct_by).values()] == labels


@pytest.mark.parametrize(
    ("answer_type", "gold", "columns", "message"),
    [
        ("number", "many", {}, "the reference answer 'many' is not a number"),
        (
            "choice",
            "8",
            {},
            "the reference answer '8' is not a letter; options are read from a column 'choices' or 'options'",
        ),
        ("choice", "E", LETTERS, "'E' is not an option of the row (A to D), its text or its index"),
        ("choice", "B", {"choices": "A B C"}, "'choices' is 'A B C'; it must be a list of options"),
        ("choice", "A", {"choices": ["one"]}, "'choices' has 1 options; there must be 2 to 26"),
        ("math", "\\frac{1}{2", {}, "has 2 opening and 1 closing braces, so it is not LaTeX"),
        ("math", "1" * 2_000, {}, "has 2,000 characters; data.answer=math compares at most 500"),
        ("equation", "24.5", NUMBERS, "the reference answer '24.5' is not a whole number; it is the target to reach"),
        ("equation", "24", {"target": 24}, "there is no column 'numbers' or 'nums', only 'target'"),
        ("equation", "24", {"numbers": ["a"]}, "'numbers' is ['a']; it must be a list of whole numbers"),
        ("text", "", {}, "the reference answer is empty"),
    ],
)
def test_references_that_cannot_be_read(answer_type: str, gold: str, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ANSWER_TYPES[answer_type].check_reference(example(gold, columns))
    assert message in str(error.value)
