"""Tables of completion -> score, and properties that hold for any text."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo.config.composition import compose
from grpo.config.groups import option_names
from grpo.core.errors import UserError
from grpo.rewards.binding import RewardSettings
from grpo.rewards.registry import REWARDS
from grpo.rewards.scoring import score_reward
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import build_rewards, rewards_of
from grpo.tasks.answer_format import DEFAULT_FORMAT
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.example import Example
from tests.helpers import reward_tables
from tests.helpers.reward_tables import PERFECT, answered
from tests.helpers.scoring import batch_of, score


def one(name: str, completion: str, gold: str = "18") -> float:
    return score(name, [completion], [gold], ["How many?"])[0]


@pytest.mark.parametrize(
    ("completion", "gold", "expected"),
    reward_tables.CORRECTNESS,
)
def test_correctness(completion: str, gold: str, expected: float) -> None:
    assert one("correctness", completion, gold) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    reward_tables.INT,
)
def test_int(answer: str, expected: float) -> None:
    assert one("int", answered(answer)) == expected


def test_int_needs_a_block() -> None:
    assert one("int", "18") == 0.0


@pytest.mark.parametrize(
    ("completion", "strict", "soft"),
    reward_tables.FORMATS,
)
def test_formats(completion: str, strict: float, soft: float) -> None:
    assert (one("strict_format", completion), one("soft_format", completion)) == (strict, soft)


@pytest.mark.parametrize(
    ("completion", "expected"),
    reward_tables.XMLCOUNT,
)
def test_xmlcount(completion: str, expected: float) -> None:
    assert one("xmlcount", completion) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("overrides", "expected"), reward_tables.OVERLONG)
def test_overlong(overrides: list[str], expected: dict[int, float]) -> None:
    stack = rewards_of(compose(["+rewards.overlong=1", *overrides]))
    batch = replace(batch_of(["?"] * len(expected)), completion_tokens=list(expected))
    assert stack.score_one("overlong", batch) == pytest.approx([*expected.values()], abs=1e-3)
    assert all(np.isnan(stack.score_one("overlong", batch_of(["?"]))))  # the number of tokens is not known


def test_a_perfect_completion_scores_4() -> None:
    stack = build_rewards(compose().rewards)
    assert stack.total(stack.score(batch_of([PERFECT], ["18"]))) == [4.0]


@pytest.mark.parametrize(
    ("name", "completion", "expected"),
    reward_tables.VERBATIM,
)
def test_verbatim(name: str, completion: str, expected: float) -> None:
    assert one(name, completion) == pytest.approx(expected, abs=1e-12)


def test_the_best_verbatim_score_is_3_5() -> None:
    stack = build_rewards({name: 1.0 for name in REWARDS if name.startswith("verbatim")})
    assert stack.total(stack.score(batch_of([PERFECT], ["18"]))) == [3.5]


RANGES = {
    "correctness": {0.0, 2.0},
    "int": {0.0, 0.5},
    "strict_format": {0.0, 0.5},
    "soft_format": {0.0, 0.5},
    "verbatim_correctness": {0.0, 2.0},
    "verbatim_int": {0.0, 0.5},
    "verbatim_strict_format": {0.0, 0.5},
    "verbatim_soft_format": {0.0, 0.5},
}
pieces = st.sampled_from([*DEFAULT_FORMAT.tags, "\n", " ", "18", "1,080", "-", "$", "\r", "\x00", "x", "²"])
texts = st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=30).map("".join))


@given(texts, texts)
def test_no_reward_raises_or_leaves_its_range(completion: str, gold: str) -> None:
    for name, allowed in RANGES.items():
        assert one(name, completion, gold) in allowed
    assert 0.0 <= one("xmlcount", completion, gold) <= 0.5
    assert one("verbatim_xmlcount", completion, gold) <= 0.5


@given(texts)
def test_the_strict_format_implies_the_other_formats(completion: str) -> None:
    if one("strict_format", completion):
        assert one("soft_format", completion) == 0.5
        assert one("xmlcount", completion) == 0.5


def test_completions_of_200_000_characters_are_scored() -> None:
    for piece in (
        "<reasoning>",
        "</reasoning>",
        "<answer>",
        "</answer>",
        "\n",
        " ",
        "1,111",
        "9",
        "<reasoning>x</reasoning> ",
        "<reasoning>x</reasoning><answer>",
        "<reasoning>x</reasoning><answer> </answer>",
        "1/",
        "1 ",
        "- ",
        "\\frac{",
        "a1)",
        "½",
    ):
        text = piece * (200_000 // len(piece))
        for name in REWARDS:
            one(name, text)
        for answer in ANSWER_TYPES.keys() - {"reasoning_gym"}:
            batch = ScoringBatch([answered(text)], [Example("?", "18", columns={"numbers": [18]})])
            score_reward("correctness", batch, RewardSettings(ANSWER_TYPES[answer]))
    assert one("correctness", answered("$" + " " * 200_000 + "- x")) == 0.0


def test_every_shipped_stack_builds() -> None:
    for name in option_names("rewards"):
        assert build_rewards(compose([f"rewards={name}"]).rewards).weights


def write(folder, text: str) -> str:
    file = folder / "my_rewards.py"
    file.write_text("from grpo.rewards import reward\n\n\n@reward\n" + text)
    return str(file)


def test_a_reward_of_the_user(tmp_path) -> None:
    file = write(tmp_path, "def brevity(completion):\n    return -len(completion) / 100\n")
    stack = build_rewards({"correctness": 1.0, "brevity": 0.5}, [file])
    assert stack.score(batch_of(["x" * 50])) == {"correctness": [0.0], "brevity": [-0.5]}
    assert stack.total({"correctness": [2.0], "brevity": [-0.5]}) == [1.75]


def test_rewards_receive_the_answer_type_of_their_stack(tmp_path) -> None:
    body = "def rule(completion, answer_type):\n    return len(answer_type.name)\n\n\n"
    body += "@reward\ndef rules(completions, answer_type):\n    return [len(answer_type.name)] * len(completions)\n"
    file = write(tmp_path, body)
    weights = {"correctness": 1.0, "rule": 1.0, "rules": 1.0}
    texts, golds = [answered(text) for text in ("18 pens", "18", "A")], ["18", "018", "(a)"]
    # Two stacks in one process, each with its own type
    stacks = [build_rewards(weights, [file], answer) for answer in ("number", "text", "strict")]
    assert [stack.score(batch_of(texts, golds)) for stack in stacks] == [
        {"correctness": [2.0, 2.0, 2.0], "rule": [6.0] * 3, "rules": [6.0] * 3},
        {"correctness": [0.0, 0.0, 2.0], "rule": [4.0] * 3, "rules": [4.0] * 3},
        {"correctness": [0.0, 2.0, 0.0], "rule": [6.0] * 3, "rules": [6.0] * 3},
    ]


def test_a_reward_may_score_a_batch(tmp_path) -> None:
    file = write(
        tmp_path, "def shortest(completions):\n    return [len(c) == min(map(len, completions)) for c in completions]\n"
    )
    build_rewards({"shortest": 1.0}, [file])
    assert score("shortest", ["aa", "a"], ["", ""], ["", ""]) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def bad(completion):\n    return 1 / 0\n", "'bad' raised ZeroDivisionError.*my_rewards.py:6.*'the text'"),
        ("def bad(completion):\n    return float('nan')\n", "'bad' returned nan"),
        ("def bad(completion):\n    return float('inf')\n", "'bad' returned inf"),
        ("def bad(completion):\n    return 'high'\n", "'bad' returned 'high'"),
        ("def bad(completion):\n    return 10**400\n", "'bad' returned 1000"),
        ("def bad(completions):\n    return 1 / 0\n", "ZeroDivisionError.*The completion: .the text"),
        ("def bad(completions):\n    return [1.0, 2.0]\n", "'bad' returned 2 scores for 1 completions"),
        ("def bad(completions):\n    return None\n", "'bad' returned None for 1 completions"),
        ("def bad(completions):\n    return ['high']\n", "'bad' returned 'high'"),
    ],
)
def test_a_reward_that_fails_is_named(tmp_path, body: str, message: str) -> None:
    file = write(tmp_path, body)
    stack = build_rewards({"bad": 1.0}, [file])
    with pytest.raises(UserError, match=message):
        stack.score(batch_of(["the text"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def correctness(completion):\n    return 1\n", "'correctness' is defined twice"),
        ("def odd(prompt):\n    return 1\n", r"'odd' takes \(prompt\)"),
        ("def blind(answer_type):\n    return 1\n", r"'blind' takes \(answer_type\)"),
        ("def mixed(completion, golds):\n    return 1\n", r"'mixed' takes \(completion, golds\)"),
        ("syntax error\n", "my_rewards.py failed with SyntaxError"),
        ("def fine(completion):\n    return 1\n\nraise SystemExit(3)\n", "my_rewards.py failed with SystemExit: 3"),
        ("def fine(completion):\n    return 1\n\nimport no_such_module\n", "failed with ModuleNotFoundError"),
    ],
)
def test_a_bad_reward_file(tmp_path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_rewards({"correctness": 1.0}, [write(tmp_path, text)])


def test_bad_stacks(tmp_path) -> None:
    with pytest.raises(UserError, match="no reward 'corectness'. Did you mean 'correctness'"):
        build_rewards({"corectness": 1.0})
    with pytest.raises(UserError, match="every weight is 0"):
        build_rewards({"correctness": 0.0})
    with pytest.raises(UserError, match=r"rewards.int=inf"):
        build_rewards({"int": float("inf")})
    with pytest.raises(UserError, match="no file"):
        build_rewards({"int": 1.0}, [str(tmp_path / "missing.py")])
    # Correctness is always measured.
    assert build_rewards({"xmlcount": -0.5}).weights == {"xmlcount": -0.5, "correctness": 0.0}


def test_rewards_of_one_run_are_not_in_the_next(tmp_path) -> None:
    for folder, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / folder).mkdir()
        file = write(tmp_path / folder, f"def mine(completion):\n    return {value}\n")
        assert build_rewards({"mine": 1.0}, [file]).score(batch_of(["x"]))["mine"] == [value]
    with pytest.raises(UserError, match="no reward 'mine'"):
        build_rewards({"mine": 1.0})
