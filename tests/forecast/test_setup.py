"""What is found out about the set-up: limits from completions decoded further, template, dropped prompts, duplicates."""

import pytest

from grpo.evaluation.completion import Completion
from grpo.forecast.setup import Continuations, SetupFacts, count_duplicates
from grpo.forecast.verdict import judge
from grpo.tasks.example import Example
from tests.helpers.preflight import made_up

RIGHT = "<reasoning>\n2 + 3\n</reasoning>\n<answer>\n5\n</answer>\n"
CUT = Completion("<reasoning>\n2 +", 64, True)
# Of 8 continuations of completions that are truncated at 64 tokens, the length of those that end by 128.
LENGTHS = [66, 70, 71, 72, 80, 90, 100, None]


@pytest.mark.parametrize(
    ("truncated", "proposed"),
    [
        (0.04, 72),  # half of them may stay truncated
        (0.10, 104),  # a fifth may
        (0.50, None),  # hardly any may, and one does not end
    ],
)
def test_the_proposed_limit(truncated: float, proposed: int | None) -> None:
    assert Continuations(LENGTHS, 128).proposed_limit(truncated) == proposed


def test_the_share_that_is_longer() -> None:
    continuations = Continuations(LENGTHS, 128)
    assert [continuations.longer_than(tokens) for tokens in (64, 72, 96, 128)] == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("setup", "cause", "texts"),
    [
        (
            SetupFacts(continuations=Continuations(LENGTHS, 128)),
            "truncated",
            ["25.0% of the completions", ", 6.2% at 96, 3.1% at 128;", "max_completion_length=128", "ask again"],
        ),
        (SetupFacts(), "truncated", ["truncated at 64 tokens; 0.0%", "max_completion_length=128"]),
        (
            SetupFacts(continuations=Continuations([None] * 8, 128), template={"stop": ["<|end|>", "</s>"]}),
            "no_end_token",
            ["100.0% at 128", "ends its turns with <|end|> or </s>"],
        ),
        (SetupFacts(continuations=Continuations(LENGTHS, 90)), "truncated", ["truncated at 64 tokens; 0.0%"]),
    ],
    ids=["decoded further", "not decoded further", "without an end", "few positions"],
)
def test_the_limit(setup: SetupFacts, cause: str, texts: list[str]) -> None:
    completions = [CUT] * 4 if cause == "no_end_token" else [RIGHT, RIGHT, "6", CUT]
    advice = judge(made_up([completions] * 8, "num_generations=4", setup=setup))
    assert advice[0].cause == cause
    assert all(text in advice[0].evidence + advice[0].change for text in texts), advice[0]


@pytest.mark.parametrize(
    ("setup", "cause", "text"),
    [
        (SetupFacts(train=100, dropped=10), None, ""),
        (SetupFacts(train=100, dropped=30), "prompts_dropped", "30 of 100 training problems (30%)"),
        (SetupFacts(train=100, duplicates=2), "duplicates", "2 training problems differ from held-out problems"),
    ],
)
def test_problems(setup: SetupFacts, cause: str | None, text: str) -> None:
    advice = judge(made_up([[RIGHT, RIGHT, "6", ""]] * 8, "num_generations=4", setup=setup))
    assert [each.cause for each in advice] == [cause] * (cause is not None)
    assert text in "".join(each.evidence for each in advice)


def test_duplicates_differ_in_case_and_punctuation_only() -> None:
    held_out = [Example("Tom has 3 pens. How many?", "3"), Example("Ana has 4 pens.", "4")]
    train = [Example("tom has 3 pens: how many", "3"), Example("Tom has 4 pens. How many?", "4")]
    assert count_duplicates(train, held_out) == 1
