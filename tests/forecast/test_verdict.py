"""The verdict on made-up completions: situation -> the causes that it names, and what it says to type."""

import re

import pytest

from grpo.config.rules import ESTIMATOR_NAMES
from grpo.evaluation.completion import Completion
from grpo.forecast.display import answer_facts, print_forecast, print_verdict
from grpo.forecast.verdict import headline, judge
from tests.helpers.preflight import made_up


def exact(answer: int) -> str:
    return f"<reasoning>\n2 + 3\n</reasoning>\n<answer>\n{answer}\n</answer>\n"


def inline(answer: int) -> str:
    return f"<reasoning>2 + 3</reasoning><answer>{answer}</answer>"


RIGHT, WRONG, BARE = exact(5), exact(6), "The answer is 6."
MIXED = [RIGHT, RIGHT, WRONG, BARE]
THINK = ["<think>x</think><solution>5</solution>", "<think>x</think><solution>6</solution>"] * 2
BOXED = [r"It is \boxed{5}.", r"It is \boxed{6}."] * 2

SITUATIONS = {
    "mixed groups": ([MIXED] * 8, [], [], ""),
    "an answer without the format": (
        [["The answer is 5.", BARE] * 2] * 12,
        [],
        ["format_not_sampled"],
        "system_prompt=",
    ),
    "other tags": ([THINK] * 12, [], ["format_not_sampled"], "format.reasoning=think format.answer=solution"),
    "boxes": ([BOXED] * 12, [], ["format_not_sampled"], "format=boxed"),
    "tags where boxes are asked for": (
        [MIXED] * 12,
        ["format=boxed"],
        ["format_not_sampled"],
        "format=tags format.reasoning=reasoning format.answer=answer",
    ),
    "never right": ([[WRONG, WRONG, BARE, BARE]] * 12, [], ["too_hard"], "data.max_steps=2"),
    "always right": ([[RIGHT, inline(5)] * 2] * 12, [], ["too_easy"], "data.min_steps=4"),
    "right or wrong by problem": ([[RIGHT, inline(5)] * 2] * 4 + [[WRONG, BARE] * 2] * 8, [], ["too_hard"], "data."),
    "truncated": (
        [[Completion("<reasoning>\n2 +", 64, True)] * 3 + [BARE]] * 8,
        [],
        ["truncated"],
        "max_completion_length=128",
    ),
    "a reward that is never earned": (
        [[inline(5), inline(6)] * 2] * 12,
        [],
        ["constant_reward"],
        "rewards.strict_format=0",
    ),
    "rewards that are always earned": ([[RIGHT, WRONG] * 2] * 12, [], ["constant_reward"], "rewards.int=0"),
    "no reward varies": (
        [[RIGHT, WRONG] * 2] * 12,
        ["rewards=correctness_only", "rewards.correctness=0", "rewards.strict_format=1"],
        ["constant_reward"],
        "python -m grpo.audit",
    ),
    "one reward is large": ([MIXED] * 8, ["rewards.xmlcount=50"], ["reward_drowns_others"], "rewards.xmlcount=5,"),
    "one reward is very large": (
        [MIXED] * 8,
        ["rewards.xmlcount=10000"],
        ["reward_drowns_others"],
        "rewards.xmlcount=5,",
    ),
    "one reward acts against right answers": (
        [[RIGHT, RIGHT, BARE, BARE]] * 8,
        ["rewards.int=-10"],
        ["reward_opposes_total", "wrong_outscores_right", "rewards_disagree"],
        "Set rewards.int=0, or correct the reward.",
    ),
    "a reward is negative": (
        [MIXED] * 8,
        ["rewards.int=-1"],
        ["reward_opposes_total", "rewards_disagree"],
        "rewards.int=0",
    ),
    "format pays more than a right answer": (
        [[inline(5), inline(5), WRONG, BARE]] * 8,
        ["rewards.correctness=0.1"],
        ["wrong_outscores_right"],
        "Raise rewards.correctness, or lower rewards.strict_format",
    ),
    "advantages mostly in groups without a right answer": (
        [MIXED] * 3 + [[WRONG, BARE] * 2] * 7,
        [],
        ["phantom"],
        "algorithm.gate=correctness",
    ),
    "few problems": ([MIXED, [WRONG, BARE] * 2], [], ["few_problems_asked"], "problems=32"),
    "one problem without the format": ([[BARE] * 4], [], ["few_problems_asked"], "problems=32"),
    "one problem with equal totals": ([[RIGHT] * 4], [], ["few_problems_asked"], "problems=32"),
    "one problem that is seldom right": ([[RIGHT] + [WRONG] * 15], [], ["few_problems_asked"], "problems=32"),
    "few problems without an advantage": (
        [[RIGHT, WRONG] * 2] * 5 + [MIXED],
        ["rewards=correctness_only", "rewards.correctness=0", "rewards.strict_format=1"],
        ["few_problems_asked"],
        "problems=32",
    ),
    "a gate leaves out what differs": (
        [MIXED] * 2 + [[WRONG, BARE] * 2] * 5,
        ["algorithm.gate=correctness"],
        [],
        "",
    ),
    "few groups differ": (
        [[RIGHT, WRONG] * 2] * 19 + [MIXED],
        ["rewards=correctness_only", "rewards.correctness=0", "rewards.strict_format=1"],
        ["no_signal"],
        "temperature=1",
    ),
}


@pytest.mark.parametrize(("completions", "settings", "causes", "typed"), SITUATIONS.values(), ids=SITUATIONS)
def test_the_verdict_names_the_causes(completions, settings: list[str], causes: list[str], typed: str) -> None:
    forecast = made_up(completions, "num_generations=4", *settings)
    advice = judge(forecast)
    assert [each.cause for each in advice if each.level == "warning" or each.cause in causes][: len(causes)] == causes
    assert not any(re.search(r"rewards\.correctness=0(?!\.\d)", each.change) for each in advice)
    unexpected = {each.cause for each in advice if each.level == "warning"} - {*causes}
    assert not unexpected, advice
    assert typed in "".join(each.change for each in advice)
    goes = "Too few problems to tell: " if any(each.cause == "few_problems_asked" for each in advice) else "Go: "
    warned = any(each.level == "warning" for each in advice)
    assert headline(forecast, advice).startswith("Change the set-up first: " if warned else goes)


def test_the_numbers_of_a_forecast() -> None:
    forecast = made_up([MIXED] * 4, "num_generations=4")
    assert forecast.group.mixed == (1.0, pytest.approx(0.51, abs=0.01), 1.0)  # Wilson's interval of 4 of 4
    assert forecast.histogram["up to 1/2"] == 4
    assert forecast.missing_k == [8, 16, 32] and list(forecast.groups) == [2, 4]
    assert forecast.groups[2].mixed.value == pytest.approx(2 / 3)
    # A prompt of 20 tokens and two completions of 10.
    assert forecast.groups[2].mixed_per_1000_tokens == pytest.approx(1000 * (2 / 3) / 40)


def test_a_kind_of_group_that_was_not_sampled_is_possible_in_a_step() -> None:
    forecast = made_up([MIXED] * 16, "num_generations=4", "prompts_per_step=64")
    silent = forecast.step["groups/zero_std"]
    assert silent.value == silent.low == 0.0 and 0.05 < silent.high < 0.25
    assert forecast.step["groups/mixed"].low == pytest.approx(1 - silent.high)


@pytest.mark.parametrize("estimator", ESTIMATOR_NAMES)
def test_every_estimator_has_a_forecast_that_prints(estimator: str, capsys) -> None:
    settings = [f"algorithm.estimator={estimator}", "algorithm.pass_k=2"] if estimator == "passk" else []
    forecast = made_up([MIXED] * 4, "num_generations=4", *(settings or [f"algorithm.estimator={estimator}"]))
    print_forecast(forecast)
    print_verdict(forecast, judge(forecast))
    said = capsys.readouterr().out
    assert "groups of K" in said and "Go: " in said and "nan" not in said
    # The shares of an estimator that is not a sum over rewards are unknown.
    assert ("advantage_share/correctness" in forecast.step) == (estimator != "passk")
    assert ("unknown with algorithm.estimator=passk" in said) == (estimator == "passk")


@pytest.mark.parametrize(("problems", "asked"), [(1, "1 training problem, "), (2, "2 training problems, ")])
def test_how_many_problems_were_asked(problems: int, asked: str) -> None:
    assert answer_facts(made_up([MIXED] * problems, "num_generations=4"))["asked"].startswith(asked)


def test_long_answers_are_shortened() -> None:
    long = "<reasoning>x</reasoning><answer>" + "so and\n" * 30 + "</answer>"
    forecast = made_up([[long, long, RIGHT, ""]] * 4, "num_generations=4")
    answers = answer_facts(forecast)["answers"]
    assert answers == "so and so and so and so and so and so... 50%, 5 25%, none 25%"


@pytest.mark.filterwarnings("error")
def test_a_reward_that_abstains(tmp_path, capsys) -> None:
    (tmp_path / "shy.py").write_text(
        "from grpo.rewards import reward\n\n\n"
        "@reward\ndef shy(completion):\n    return None\n\n\n"
        "@reward\ndef choosy(completion):\n    return 1.0 if 'reasoning' in completion else None\n"
    )
    rewards = [f"reward_files=[{tmp_path / 'shy.py'}]", "+rewards.shy=1", "+rewards.choosy=1"]
    forecast = made_up([MIXED] * 12, "num_generations=4", *rewards)
    advice = judge(forecast)
    print_forecast(forecast)
    # As in training, the other one varies: beside a score of 1, an abstention adds 0 to the total.
    assert advice[0].evidence.startswith("shy (abstained): equal for all completions")
    said = " ".join(capsys.readouterr().out.split())
    assert "abstains" in said and "abstentions shy in 100.0%, choosy in 25.0% of the completions" in said
