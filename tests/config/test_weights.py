"""Weights of rewards as settings: plain numbers, schedules, and what is refused."""

from dataclasses import asdict

import pytest

from grpo.config.composition import compose, config_from_saved
from grpo.config.schema import Config
from grpo.config.weights import WeightSchedule, format_weights
from grpo.core.errors import UserError
from grpo.rewards.stack import build_rewards
from tests.helpers.refusals import refusal_of

SCHEDULE = {"start": 1.0, "end": 0.0, "until": 0.5}
TYPED = "rewards.xmlcount={start: 1.0, end: 0.0, until: 0.5}"


@pytest.mark.parametrize(
    ("overrides", "weight"),
    [
        (["rewards.xmlcount=2"], 2.0),
        (['rewards.xmlcount="0.5"'], 0.5),  # as an environment variable gives it
        ([TYPED], SCHEDULE),
        (["rewards.xmlcount={start:1,end:0,until:0.5}"], SCHEDULE),
        ([TYPED, "rewards.xmlcount.until=1"], SCHEDULE | {"until": 1.0}),
        ([TYPED, "rewards.xmlcount=0.5"], 0.5),
    ],
)
def test_a_weight_is_a_number_or_a_schedule(overrides: list[str], weight) -> None:
    config = compose(overrides)
    assert config.rewards["xmlcount"] == weight and isinstance(config.rewards["int"], float)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rewards.int=much", "rewards.int=much: must be a number, or a schedule in quotes, 'rewards.int={start: 1.0,"),
        (
            "rewards.int=until:0.5",
            "rewards.int=until:0.5: must be a number, or a schedule in quotes",
        ),  # bash expands {}
        ("rewards.int=null", "rewards.int=null: must be a number, or a schedule"),
        ("rewards.int=true", "must be a number, or a schedule"),
        (
            "rewards.int={start: 1.0}",
            "rewards.int: its schedule lacks end, until; write 'rewards.int={start: 1.0, end:",
        ),
        ("rewards.int={start: 1, end: 0, till: 1}", "rewards.int.till: a schedule has only start, end, until"),
        ("rewards.int={start: 1, end: low, until: 1}", "rewards.int.end=low: must be a number."),
        ("rewards.int={start: 1, end: nan, until: 1}", "rewards.int.end=nan: must be a finite number."),
        ("rewards.int={start: 1e5, end: 0, until: 1}", "rewards.int.start=100000.0: must be between -10,000 and"),
        ("rewards.int={start: 1, end: 0, until: 0}", "rewards.int.until=0.0: must be above 0 and at most 1"),
        ("rewards.int={start: 1, end: 0, until: 1.5}", "rewards.int.until=1.5: must be above 0 and at most 1"),
        ("rewards.int.start=1", "rewards.int.start: rewards.int has no such key; write 'rewards.int={start: 1.0,"),
    ],
)
def test_what_is_no_weight_is_refused(override: str, message: str) -> None:
    assert message in refusal_of(override)


def test_a_schedule_is_saved_and_read_as_it_was_typed() -> None:
    config = compose([TYPED])
    assert config_from_saved(asdict(config), Config).rewards == config.rewards
    assert format_weights(config.rewards).endswith("soft_format 1, xmlcount 1 to 0 until 0.5")


@pytest.mark.parametrize(
    ("schedule", "steps", "weights"),
    [
        ((1.0, 0.0, 0.5), 8, [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0]),
        ((0.0, 2.0, 1.0), 4, [0.0, 0.5, 1.0, 1.5]),
        ((-1.0, 0.1, 0.1), 4, [-1.0, 0.1, 0.1, 0.1]),  # shorter than a step
        ((0.3, 0.7, 0.3), 10, [0.3, 0.3 + 0.4 / 3, 0.3 + 0.8 / 3, *[0.7] * 7]),
    ],
)
def test_the_weight_at_each_step(schedule, steps: int, weights: list[float]) -> None:
    values = [WeightSchedule(*schedule).at(step, steps) for step in range(steps)]
    assert values == pytest.approx(weights, abs=1e-12)
    assert values[0] == schedule[0] and WeightSchedule(*schedule).at(steps, steps) == schedule[1]


def test_a_stack_with_a_schedule() -> None:
    stack = build_rewards({"correctness": 1.0, "int": 0.0, "xmlcount": SCHEDULE})
    assert stack.weights == {"correctness": 1.0, "int": 0.0, "xmlcount": 0.0}
    assert stack.weights_at(1, 4) == {"correctness": 1.0, "int": 0.0, "xmlcount": 0.5}
    assert stack.trained == ["correctness", "xmlcount"]
    assert [stage.weights["xmlcount"] for stage in stack.stages().values()] == [1.0, 0.0]


@pytest.mark.parametrize("weight", [0.0, {"start": 0.0, "end": 0.0, "until": 1.0}])
def test_weights_that_are_always_zero_are_refused(weight) -> None:
    with pytest.raises(UserError, match="every weight is 0"):
        build_rewards({"correctness": weight})
