"""`algorithm.resample`: groups without advantages are replaced by groups of further prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo.rewards.registry import REWARDS
from tests.helpers.trainers import decoded, micro_batches

K = 6
# Prompts that the embedded policy cannot solve in so few tokens: with this gate no group has an advantage.
SILENT = ["algorithm.gate=correctness", "max_completion_length=4", "max_steps=2", "logging_steps=1"]


# Only measured; it logs what it scores.
LENGTH = """
from grpo.rewards import reward


@reward
def length(completions, log_extra):
    texts = [messages[0]["content"] for messages in completions]
    log_extra("seen", texts)
    return [len(text) / 100 for text in texts]
"""
FAILS_ONCE = """
from grpo.rewards import reward

calls = []


@reward
def fails_once(completions):
    calls.append(len(completions))
    return [float("nan") if len(calls) == 2 else 0.0] * len(completions)
"""


@pytest.fixture
def rewards(tmp_path: Path) -> list[str]:
    """Settings with both rewards."""
    for name, code in (("length", LENGTH), ("fails_once", FAILS_ONCE)):
        (tmp_path / f"{name}.py").write_text(code)
    return [f"reward_files=[{tmp_path}/length.py,{tmp_path}/fails_once.py]"]


def history(built: Any) -> list[dict[str, float]]:
    built.train()
    return [logs for logs in built.state.log_history if "reward" in logs]


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([], id="own sampler"),
        pytest.param(["rollout=generate", "share_prompts=false", "algorithm.steps_per_generation=2"], id="generate"),
        pytest.param(["algorithm.estimator=maxrl", "algorithm.gate=none_right"], id="another estimator"),
    ],
)
def test_no_group_is_silent_while_there_are_prompts(trainer, rewards, overrides: list[str]) -> None:
    settings = [*rewards, *overrides, "+rewards.length=0", "data.train_problems=200", "max_completion_length=32"]
    assert history(trainer(*settings, "max_steps=1"))[0]["groups/zero_std"] > 0
    built = trainer(*settings, "algorithm.resample=100")
    batches = micro_batches(built)
    advantages = np.concatenate([inputs["advantages"] for inputs in batches]).reshape(-1, K)
    metrics, logs = built._metrics["train"], built._logs
    assert np.abs(advantages).max(axis=1).min() > 0 and metrics["groups/zero_std"] == [0]
    (drawn,), (discarded,), (rounds,) = (
        metrics[f"resample/{name}"] for name in ("groups_drawn", "groups_discarded", "rounds")
    )
    assert drawn - discarded == len(advantages) and 1 <= rounds <= discarded
    assert metrics["resample/prompts_consumed"] == [drawn]

    # Tokens, texts, scores, logged columns and problems are those of the same completions.
    prompts, texts = decoded(built, batches)
    assert (
        sorted(texts)
        == sorted(message["content"] for (message,) in logs["completion"])
        == sorted(logs["extra"]["seen"])
    )
    assert list(logs["rewards"]["length"]) == pytest.approx([len(text) / 100 for text in logs["extra"]["seen"]])
    rows = np.array(logs["extra"]["row"]).reshape(-1, K)
    assert (rows == rows[:, :1]).all() and len(set(rows[:, 0])) == len(rows)
    questions = [built.recorder.completion_log.examples[row].question for row in rows.flatten()]
    pairs = sorted(zip(questions, logs["extra"]["seen"], strict=True))
    assert all(
        question in prompt
        for (question, _), (prompt, _) in zip(pairs, sorted(zip(prompts, texts, strict=True)), strict=True)
    )
    lengths = np.array([metrics[f"completions/{name}_length"][0] for name in ("min", "max")])
    sizes = [int(mask.sum()) for inputs in batches for mask in inputs["completion_mask"]]
    assert lengths.tolist() == [min(sizes), max(sizes)]


@pytest.mark.parametrize(
    ("overrides", "rounds", "drawn"),
    [
        (["algorithm.resample=2", "data.train_problems=40"], 2, 12),
        (["algorithm.resample=9", "data.train_problems=6"], 1, 6),  # two of them are not in the batch
        (["algorithm.resample=9", "data.train_problems=40", "algorithm.gate=off", "rewards.xmlcount=0"], 9, 40),
    ],
    ids=["rounds", "prompts", "no reward varies"],
)
def test_groups_without_advantages_stay_if_rounds_or_prompts_end(
    trainer, overrides: list[str], rounds: int, drawn: int
) -> None:
    built = trainer(*SILENT, *overrides)
    for step, logs in enumerate(history(built), start=1):
        assert logs["groups/zero_std"] == 1 and logs["resample/rounds"] == rounds
        assert logs["resample/groups_drawn"] == drawn == logs["resample/groups_discarded"] + 4
        assert logs["resample/prompts_consumed"] == step * drawn
    assert built.recorder.progress.figures.endswith(f" tokens, {drawn} groups drawn")


def test_the_order_of_prompts_is_seeded(trainer) -> None:
    def rows(seed: int) -> list[int]:
        built = trainer(*SILENT, "algorithm.resample=2", f"seed={seed}", "max_steps=1")
        built.train()
        return list(built._logs["extra"]["row"])

    assert rows(3) == rows(3) != rows(4)


def test_right_answers_are_counted_in_all_completions_drawn(trainer) -> None:
    """Those of the groups that are trained on would be near a half, however good the policy is."""
    settings = ["max_completion_length=48", "data.train_problems=200", "algorithm.gate=correctness", "max_steps=1"]
    (logs,) = history(trainer(*settings, "algorithm.resample=50"))
    assert logs["groups/mixed"] == 1 and logs["groups/zero_std"] == 0
    trained, all_drawn = logs["rewards/correctness/mean"] / 2, logs["completions/correct"]
    assert all_drawn * logs["resample/groups_drawn"] == pytest.approx(trained * 4, abs=1e-5) and all_drawn < trained


def test_a_score_of_a_round_that_is_not_finite_skips_the_step(trainer, rewards, capsys) -> None:
    settings = ["+rewards.fails_once=1", "algorithm.resample=3", "data.train_problems=40", "on_nonfinite=skip"]
    built = trainer(*SILENT, *rewards, *settings)
    built.train()
    calls = REWARDS["fails_once"].function.__globals__["calls"]
    assert calls == [24, 24, *[24] * 4]  # no further round in step 1
    assert "Step 1 is skipped: reward 'fails_once'" in capsys.readouterr().out
    assert built.state.global_step == 2


FEW = "algorithm.resample=2: a rollout takes all 4 training prompts, so none can replace another."


@pytest.mark.parametrize(
    ("problems", "message"), [(4, FEW), (3, "prompts_per_step=4: there are only 3 training prompts")]
)
def test_too_few_prompts_are_refused_before_torch(light: Callable[..., Any], problems: int, message: str) -> None:
    done = light(
        "grpo.train", "tracking=none", "algorithm.resample=2", f"data.train_problems={problems}", "prompts_per_step=4"
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert message in done.stderr and "torch" not in done.modules
