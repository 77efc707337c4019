"""Alarms: a table of made-up metrics and the alarm that each raises; and in real runs, where an alarm appears."""

import json
import math
import re

import pytest

from grpo.config.composition import compose
from grpo.config.rules import ALARM_NAMES, RULES
from grpo.config.schema import Config
from grpo.policy.chat_template import UNKNOWN_FRAMING, TemplateFraming
from grpo.rewards.stack import RewardStack
from grpo.training.alarms import Alarms
from tests.conftest import wandb_records
from tests.helpers.runs import metrics

HEALTHY = {
    "loss": 0.0,
    "grad_norm": 0.5,
    "reward": 2.0,
    "entropy": 0.15,
    "completions/mean_length": 20.0,
    "completions/clipped_ratio": 0.1,
    "groups/zero_std": 0.2,
    "groups/all_correct": 0.1,
    "groups/none_correct": 0.1,
    "groups/zero_std/correctness": 0.2,
    "groups/zero_std/strict_format": 0.2,
    "groups/zero_std/xmlcount": 0.2,
    "completions/correct": 0.5,
    "rewards/correctness/mean": 1.0,
    "rewards/strict_format/mean": 0.25,
    "rewards/xmlcount/mean": 0.25,
}

PHANTOM = {
    "advantage_share/phantom": 0.8,
    "advantage_share/phantom/none_correct": 0.0,
    "advantage_share/phantom/all_correct": 0.8,
}


def raised(
    changes, steps: int = 40, *overrides: str, weights=None, framing=UNKNOWN_FRAMING, correct_by="correctness"
) -> list[tuple[int, str, str]]:
    """(step, name, message) of every alarm, where step i logs HEALTHY | changes(i)."""
    weights = weights or {"correctness": 1.0, "strict_format": 1.0, "xmlcount": 0.0}
    stack = RewardStack(weights, correct_by=correct_by)
    alarms = Alarms(compose(["alarm_window=10", *overrides]), stack, framing)
    every = alarms.config.logging_steps
    return [
        (step, alarm.name, alarm.message)
        for step in range(every, steps + 1, every)
        for alarm in alarms.check(HEALTHY | changes(step), step)
    ]


def wobble(step: int) -> float:
    return 0.02 * (-1) ** step


@pytest.mark.parametrize(
    ("changes", "step", "name", "words"),
    [
        (
            lambda i: {"completions/clipped_ratio": 0.5 + 0.01 * i},
            1,
            "truncated",
            "51% .* truncated at 64 .*max_completion_",
        ),
        (
            lambda i: {"groups/zero_std/strict_format": 1.0},
            10,
            "constant_reward",
            r"strict_format was equal .*for 10 steps",
        ),
        (lambda i: {"groups/zero_std": float(i > 7)}, 12, "no_signal", "5 steps up to step 12.*num_generations"),
        (
            lambda i: {
                "advantage_share/phantom": 0.4 + 0.02 * i,
                "advantage_share/phantom/none_correct": 0.4,
                "advantage_share/phantom/all_correct": 0.02 * i,
            },
            20,
            "phantom",
            r"71% .*all wrong \(40%\) or all right \(31%\), and right answers went from 50% to 50% .*gate=correctness",
        ),
        (lambda i: {"groups/zero_std": 1.0, "groups/all_correct": 1.0}, 5, "no_signal", "harder problems"),
        (
            lambda i: {"groups/zero_std": 1.0, "groups/none_correct": 1.0},
            5,
            "no_signal",
            "easier problems.*num_generations.$",
        ),
        (
            lambda i: {
                "rewards/strict_format/mean": 0.2 + 0.2 * (i > 15) + wobble(i),
                "completions/correct": 0.5 - 0.2 * (i > 15) + wobble(i) / 2,
            },
            21,
            "reward_hacking",
            "strict_format rose from .* to .* right answers fell from 50% .*Lower rewards.strict_format",
        ),
        (
            lambda i: {"groups/zero_std/strict_format": 1.0, "rewards/strict_format/mean": math.nan},
            10,
            "constant_reward",
            r"strict_format was equal for all completions of every group for 10 steps up to step 10 \(it abstained\)",
        ),
        (lambda i: {"completions/mean_length": 20.0 if i <= 10 else 2.0}, 16, "length_collapse", "from 20 to"),
        (lambda i: {"completions/mean_length": min(64.0, 4.0 * i)}, 20, "length_limit", "58.0 of the 64 tokens"),
        (lambda i: {"entropy": 0.15 if i <= 10 else 0.001}, 20, "entropy_collapse", "0.001 nats .* 50% right.*lr"),
        (lambda i: {"grad_norm": math.nan if i == 7 else 1.0}, 7, "not_finite", "grad_norm is nan at step 7.*max_grad"),
        (lambda i: {"kl": math.inf if i == 7 else 1.0}, 7, "not_finite", "kl is inf at step 7.*algorithm.beta"),
    ],
)
def test_each_alarm_is_raised_once_and_names_the_setting(changes, step: int, name: str, words: str) -> None:
    ((at, raised_name, message),) = raised(changes)
    assert (at, raised_name) == (step, name) and name in ALARM_NAMES
    assert re.search(words, message), message


@pytest.mark.parametrize(
    "changes",
    [
        lambda i: {},
        lambda i: {"completions/clipped_ratio": 0.5},
        # Most of the advantages are in groups without a difference in right answers: while these rise, or are many.
        lambda i: PHANTOM | {"completions/correct": 0.5 + 0.01 * i},
        lambda i: PHANTOM | {"completions/correct": 0.95},
        # Measured alone; constant with a break; learnt, so that nothing is left to explore.
        lambda i: {"groups/zero_std/xmlcount": 1.0},
        lambda i: {"groups/zero_std/strict_format": float(i % 9 > 0)},
        lambda i: {"entropy": 0.15 if i <= 10 else 0.001, "completions/correct": 0.5 + 0.45 * (i > 10)},
        # Both rise; and one falls while the other, which is only measured, rises.
        lambda i: {"rewards/strict_format/mean": 0.01 * i, "completions/correct": 0.02 * i},
        lambda i: {"rewards/xmlcount/mean": 0.01 * i, "completions/correct": 1 - 0.02 * i},
        lambda i: {"groups/zero_std": float(i % 5 > 0)},
        # Every reward abstains, or one does in half of the steps.
        lambda i: {"reward": math.nan},
        lambda i: {"rewards/strict_format/mean": math.nan if i % 2 else 0.25},
    ],
)
def test_healthy_metrics_raise_no_alarm(changes) -> None:
    assert raised(changes) == []


def test_alarms_name_the_chat_template_as_the_cause() -> None:
    framing = TemplateFraming("<think>\n", ("<|im_end|>", "<|endoftext|>"))
    ((_, _, message),) = raised(lambda i: {"groups/zero_std/strict_format": 1.0}, framing=framing)
    assert (
        r"The policy's chat template ends the prompt with '<think>\n', and every completion is scored with" in message
    )
    assert "grpo.audit" not in message and "rewards.strict_format=0" in message
    ((_, _, message),) = raised(lambda i: {"completions/clipped_ratio": 1.0}, framing=framing)
    assert message.startswith(
        "no completion of step 1 contains an end token (<|im_end|> or <|endoftext|>) within its 64 tokens. Raise max_"
    )
    assert "chat template that it was tuned with" in message
    ((_, _, message),) = raised(lambda i: {"completions/clipped_ratio": 0.9}, framing=framing)
    assert message == "90% of the completions of step 1 were truncated at 64 tokens. Raise max_completion_length."


def test_a_reward_that_falls_with_correctness_is_not_hacked() -> None:
    def falls(i: int) -> dict[str, float]:
        return {
            "rewards/strict_format/mean": 0.45 - 0.01 * i + wobble(i),
            "completions/correct": 1 - 0.02 * i + wobble(i) / 2,
        }

    assert raised(falls) == []
    ((_, name, message),) = raised(falls, 40, weights={"correctness": 1.0, "strict_format": -1.0})
    assert name == "reward_hacking" and "strict_format" in message


def test_right_is_what_correct_by_says() -> None:
    def changes(i: int) -> dict[str, float]:
        return {
            "completions/correct": 0.5 - 0.2 * (i > 15) + wobble(i) / 2,
            "rewards/correctness/mean": 0.5 + 0.5 * (i > 15) + wobble(i),
            "rewards/solved/mean": 0.5 - 0.2 * (i > 15) + wobble(i) / 2,
            "groups/zero_std/solved": 0.2,
        }

    weights = {"correctness": 1.0, "strict_format": 0.0, "xmlcount": 0.0, "solved": 1.0}
    ((_, name, message),) = raised(changes, weights=weights, correct_by="solved")
    assert name == "reward_hacking" and "correctness rose" in message and message.endswith("or raise rewards.solved.")


def test_a_run_resumed_from_a_checkpoint_without_shares_of_right_completions_is_checked() -> None:
    alarms = Alarms(compose(["alarm_window=10"]), RewardStack({"correctness": 1.0}))
    old = {name: value for name, value in HEALTHY.items() if name != "completions/correct"}
    alarms.restore({"rows": [(step, old) for step in range(1, 25)], "first": [old] * 10, "said": []})
    assert [alarm for step in range(25, 60) for alarm in alarms.check(HEALTHY, step)] == []


def test_steps_that_are_logged_together() -> None:
    alarms = raised(lambda i: {"groups/zero_std/strict_format": 1.0}, 80, "logging_steps=5")
    assert [(step, name) for step, name, _ in alarms] == [(20, "constant_reward")]


def test_alarms_reach_the_console_the_record_and_wandb(train, capsys) -> None:
    out, results = train("max_completion_length=4", "tracking=wandb", "alarm_window=2", "max_steps=4")
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Alarm: ")]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    recorded = [line for line in lines if "alarm" in line]
    assert [f"Alarm: {line['message']}" for line in recorded] == printed
    truncated = next(line for line in recorded if line["alarm"] == "truncated")
    assert truncated["step"] == 1
    assert "no completion of step 1 contains an end token (<|im_end|>) within its 4 tokens" in truncated["message"]
    assert results["stopped_by"] is None and results["steps"] == 4
    alerts = [record["alert"] for record in wandb_records(out)[0] if record["type"] == "alert"]
    assert {alert["title"].split()[0] for alert in alerts} == {line["alarm"] for line in recorded}
    assert truncated["message"] in {alert["text"] for alert in alerts}


def test_an_alarm_in_stop_on_ends_the_run(train, capsys) -> None:
    out, results = train("max_completion_length=4", "stop_on=[truncated]", "max_steps=4")
    assert (results["steps"], results["stopped_by"]) == (1, "truncated") and results["after"]["n"] == 4
    assert len(metrics(out)) == 1 and "1 step of 4 (ended by truncated)" in capsys.readouterr().out


def test_a_policy_that_diverges_raises_not_finite(train, monkeypatch) -> None:
    # A learning rate that no setting allows, so that the numbers are not finite after one step.
    for key in ("optimizer.lr", "optimizer.max_grad_norm"):
        monkeypatch.delitem(RULES[Config], key)
    settings = ["on_nonfinite=skip", "stop_on=[not_finite]"]
    out, results = train("optimizer.lr=1e30", "optimizer.max_grad_norm=1e30", "max_steps=4", *settings)
    (line,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines() if "not_finite" in line]
    assert results["stopped_by"] == "not_finite" and results["steps"] == line["step"]
    assert "optimizer.lr" in line["message"]


def test_phantom_advantages_of_an_estimator_that_compares_groups() -> None:
    assert [name for _, name, _ in raised(lambda i: PHANTOM)] == ["phantom"]
    assert raised(lambda i: PHANTOM, 40, "algorithm=reinforce_pp") == []
    assert raised(lambda i: PHANTOM, 40, "placebo=true") == []


@pytest.mark.parametrize(("gate", "names"), [("none_right", ["phantom", "no_signal"]), ("correctness", ["no_signal"])])
def test_right_answers_that_never_vary_with_a_gate(gate: str, names: list[str]) -> None:
    def changes(i: int) -> dict[str, float]:
        return PHANTOM | ({"groups/zero_std": 1.0, "groups/none_correct": 1.0} if i > 20 else {})

    alarms = raised(changes, 40, f"algorithm.gate={gate}")
    assert [name for _, name, _ in alarms] == names
    assert f"algorithm.gate={gate} left out the other rewards; algorithm.gate=off trains on them" in alarms[-1][2]
