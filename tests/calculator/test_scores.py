"""The page scores completions as `grpo/rewards` does, to the last bit."""

import json
import math
import random
import unicodedata
from pathlib import Path

import pytest

from grpo.rewards.stack import RewardStack
from grpo.tasks.answer_format import DEFAULT_FORMAT
from tests.helpers import answer_tables, reward_tables
from tests.helpers.calculator import FORMATS, KINDS, NAMES, Case, ask, by_page, by_python, differences
from tests.helpers.gsm8k import GSM8K, needs_gsm8k
from tests.helpers.random_completions import in_format, many_completions
from tests.helpers.reward_tables import PERFECT, answered


def cases_of_the_tests() -> list[Case]:
    cases = [(completion, gold) for completion, gold, _ in reward_tables.CORRECTNESS]
    cases += [(answered(answer), "18") for answer, _ in reward_tables.INT]
    cases += [(completion, "18") for completion, *_ in reward_tables.FORMATS]
    cases += [(completion, "18") for completion, _ in reward_tables.XMLCOUNT]
    cases += [(completion, "18") for _, completion, _ in reward_tables.VERBATIM]
    cases += [(answered(text), str(number)) for text, number in answer_tables.ONE_NUMBER]
    for table in (answer_tables.SAME_BY_NUMBER, answer_tables.SAME_BY_TEXT, answer_tables.SAME_STRICTLY):
        cases += [case for left, right, _ in table for case in ((answered(left), right), (answered(right), left))]
    long = [
        "\n",
        " ",
        "1,111",
        "9",
        "<reasoning>x</reasoning> ",
        "</reasoning><answer>",
        "\n</answer>\n",
        "\U0001f600",
        "1/",
        "- ",
        "\\frac{",
        "<reasoning>x</reasoning><answer> </answer>",
        *DEFAULT_FORMAT.tags,
    ]
    # The originals take quadratic time on some of these.
    return cases + [(answered(piece * (20_000 // len(piece))), "18") for piece in long]


def test_the_cases_of_the_reward_tests(open_page) -> None:
    cases = cases_of_the_tests()
    assert not differences(cases, by_python(cases), by_page(open_page(), cases))


@needs_gsm8k
def test_real_answers_of_gsm8k(open_page) -> None:
    lines = (Path(GSM8K) / "test.jsonl").read_text(encoding="utf-8").splitlines()
    cases = []
    for worked in (json.loads(line)["answer"] for line in lines):
        work, _, gold = worked.rpartition("\n#### ")
        written = PERFECT.replace("8*3=24 pages.", work)
        for answer in (gold, gold.replace(",", ""), f"${gold}", f"{gold}.0", f"-{gold}"):
            cases.append((written.replace("18", answer), gold))
        cases += [(worked, gold), (gold, gold)]
    expected = by_python(cases)
    assert not differences(cases, expected, by_page(open_page(), cases))
    assert len(cases) > 9000 and sum(row[0] for row in expected) > 2 * 0.5 * len(cases)


def test_20_000_random_completions(open_page) -> None:
    cases, page = many_completions(), open_page()
    expected = by_python(cases)
    assert not differences(cases, expected, by_page(page, cases))
    # Varied enough: every reward is often paid, and often not.
    for name, column in zip(NAMES, zip(*expected, strict=True), strict=True):
        most = max(column)
        assert min(sum(value == most for value in column), sum(value != most for value in column)) > 400, name
    assert len({row[4] for row in expected}) > 50 and len({row[9] for row in expected}) > 500

    draw = random.Random(1)
    weights = [[draw.choice([1.0, 0.0, 0.1, -0.5, draw.uniform(-2, 3), 1e-9]) for _ in KINDS] for _ in cases]
    for half in (0, 5):
        rows = [row[half : half + 5] for row in expected]
        found = ask(page, "(cases) => cases.map((each) => total(...each))", list(zip(rows, weights, strict=True)))
        for row, of, theirs in zip(rows, weights, found, strict=True):
            stack = RewardStack(dict(zip(KINDS, of, strict=True)))
            (ours,) = stack.total({name: [value] for name, value in zip(KINDS, row, strict=True)})
            assert repr(ours) == repr(float(theirs)), (row, of)


@pytest.mark.parametrize("named", ["other tags", "boxed"])
def test_random_completions_in_other_formats(open_page, named: str) -> None:
    draw, answer_format = random.Random(2), FORMATS[named][1]
    cases = [(in_format(text, answer_format, draw), gold) for text, gold in many_completions()[:10_000]]
    cases += [(text, "18") for text in examples_of(open_page(), named)]
    expected = by_python(cases, answer_format)
    assert not differences(cases, expected, by_page(open_page(), cases, named))
    for name, column in list(zip(NAMES, zip(*expected, strict=True), strict=True))[:5]:
        most = max(column)
        assert min(sum(value == most for value in column), sum(value != most for value in column)) > 200, name


def examples_of(page, named: str) -> list[str]:
    script = "(format) => Object.values(examples_in(format_of(format)).one).map(([text]) => text)"
    return ask(page, script, FORMATS[named][0])


def test_python_tables(open_page) -> None:
    page = open_page()
    assert page.evaluate("[...SPACES].sort()") == sorted(chr(code) for code in range(0x110000) if chr(code).isspace())
    digits = set(page.evaluate("[...ALL_DIGITS]"))
    ours = {chr(code) for code in range(0x110000) if chr(code).isdigit()}
    assert digits == ours if unicodedata.unidata_version == "14.0.0" else digits <= ours
    sums = [
        [0.1] * 10,
        [1e16, 1.0, 1e-16],
        [1e300, 1.0, -1e300],
        [2.0**53, 1.0, 2.0**-60],
        [2.0**53, -0.5, -(2.0**-60)],
        [],
        [-0.0],
    ]
    assert [repr(float(value)) for value in page.evaluate("sums => sums.map(fsum)", sums)] == [
        repr(math.fsum(s)) for s in sums
    ]


def normalized(text: str) -> str:
    """As HTML prescribes for the value of a textarea."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def test_through_the_textarea(open_page) -> None:
    cases = many_completions()[:400] + cases_of_the_tests()[:150]
    found = ask(
        open_page(),
        """(cases) => cases.map((each) => {
          for (const [i, id] of ["completion-field", "gold-field"].entries()) {
            document.getElementById(id).value = each[i];
            document.getElementById(id).dispatchEvent(new Event("input"));
          }
          const cells = [...document.querySelectorAll("#scores tbody b")].map((cell) => Number(cell.dataset.value));
          return [0, 1].flatMap((stack) => cells.filter((_, i) => i % 2 === stack));
        })""",
        cases,
    )
    cases = [(normalized(completion), normalized(gold)) for completion, gold in cases]
    assert not differences(cases, by_python(cases), found)
