"""The completions of the untrained policy that jobs of a sweep share: equal to those of the same run alone."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grpo.config.composition import compose
from grpo.evaluation.shared_completions import generation_inputs
from tests.conftest import SMALL
from tests.helpers.runs import assert_same
from tests.helpers.sweeps import FEW

SHARED = re.compile(r"\[INFO\] - (.*): the completions are those of another job of this sweep")
# With these, an untrained policy answers more than the held-out problems and the example questions.
ASKED = ["eval_samples=2", "eval_steps=2", "data.validation_problems=4"]
# What differs between two equal runs: times, memory, and their folder.
INCIDENTAL = {"created", "seconds", "train_seconds", "peak_memory_bytes", "provenance", "path"}

# A reward that counts its calls and draws from the global random numbers: both would show that an evaluation was
# scored in another way.
COUNTING = """
import random

from grpo.rewards import reward

calls = []


@reward
def counting(completions):
    calls.append(1)
    return [len(calls) + random.random() for _ in completions]
"""


def reused(job: Path) -> list[str]:
    """For what a job used the completions of another one."""
    return SHARED.findall((job / "train.log").read_text())


def read(path: Path) -> Any:
    """The JSON in a file, without what differs between two equal runs."""
    return json.loads(
        path.read_text(),
        object_pairs_hook=lambda pairs: {key: value for key, value in pairs if key not in INCIDENTAL},
    )


def test_a_job_with_shared_completions_equals_the_same_run_alone(start, tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    given = [
        *FEW,
        *ASKED,
        "num_generations=4",
        "eval_batch_size=3",
        "reward_files=[counting.py]",
        "+rewards.counting=1",
    ]
    sweep = ["-m", "rewards=default,no_xmlcount", "seed=0,1", *given]
    assert start(*sweep, "hydra.sweep.dir=sweep").ended() == 0
    greedy = ["evaluating before training", "answering the example questions at step 0", "evaluating at step 0"]
    sampled = [greedy[0], greedy[1], "sampling before training", greedy[2]]
    # Samples depend on the seed, which the first job that has it draws.
    assert [reused(tmp_path / "sweep" / str(number)) for number in range(4)] == [[], greedy, sampled, sampled]
    alone = start("rewards=no_xmlcount", "seed=1", *given, "hydra.run.dir=alone")
    assert alone.ended() == 0, alone.complained()
    job, other = tmp_path / "sweep" / "3", tmp_path / "alone"
    assert_same(job, other)
    names = sorted(path.name for path in (other / "evaluations").iterdir())
    assert names == sorted(path.name for path in (job / "evaluations").iterdir()) and "before_samples.json" in names
    for name in names:
        first, second = job / "evaluations" / name, other / "evaluations" / name
        assert first.read_bytes() == second.read_bytes() if name.endswith(".parquet") else read(first) == read(second)
    assert read(job / "results.json") == read(other / "results.json")
    weights = [(folder / "policy" / "model.safetensors").read_bytes() for folder in (job, other)]
    assert weights[0] == weights[1]


def test_share_evaluation_false_shares_nothing(start, tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1", *FEW, "num_generations=4", "hydra.sweep.dir=sweep"]
    assert start(*sweep, "hydra.sweeper.share_evaluation=false").ended() == 0
    assert not (tmp_path / "sweep" / "shared").exists()
    assert not reused(tmp_path / "sweep" / "1")


def test_a_resumed_sweep_shares_what_is_intact(start, tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1,2", *FEW, "num_generations=4", "hydra.sweep.dir=sweep"]
    assert start(*sweep).ended() == 0
    held_out, _ = sorted((tmp_path / "sweep" / "shared").iterdir(), key=lambda path: -path.stat().st_size)
    held_out.write_text(held_out.read_text()[:-20])
    for job in "12":
        (tmp_path / "sweep" / job).rename(tmp_path / f"earlier{job}")
    assert start(*sweep).ended() == 0
    # The first of them generates what was damaged, and the second finds it repaired.
    assert [len(reused(tmp_path / "sweep" / job)) for job in "12"] == [1, 2]
    for job in "12":
        assert_same(tmp_path / "sweep" / job, tmp_path / f"earlier{job}")


PROVENANCE = {"code": None, "versions": {"torch": "2"}, "hardware": {"threads": 1}, "model": {"sha256": "a"}}


@pytest.mark.parametrize(
    "override",
    ["seed=3", "rewards=no_xmlcount", "optimizer.lr=1e-5", "algorithm=dr_grpo", "num_generations=8", "max_steps=9"],
)
def test_settings_that_do_not_change_the_completions_of_an_untrained_policy(override: str) -> None:
    first, second = (compose([*SMALL, *more]) for more in ([], [override]))
    assert generation_inputs(first, PROVENANCE, 1, 0.0) == generation_inputs(second, PROVENANCE, 1, 0.0)


@pytest.mark.parametrize(
    "override",
    [
        "model=qwen2.5-0.5b",
        "model.dtype=bfloat16",
        "rollout=generate",
        "bf16=true",
        "deterministic=true",
        "max_completion_length=8",
        "eval_batch_size=2",
        "system_prompt=Hello",
        "+chat_template_kwargs.enable_thinking=false",
        "format=boxed",
    ],
)
def test_settings_that_change_the_completions(override: str) -> None:
    first, second = (compose([*SMALL, *more]) for more in ([], [override]))
    assert generation_inputs(first, PROVENANCE, 1, 0.0) != generation_inputs(second, PROVENANCE, 1, 0.0)


def test_what_else_the_completions_depend_on() -> None:
    config = compose(SMALL)
    plain = generation_inputs(config, PROVENANCE, 1, 0.0)
    for part in PROVENANCE:
        assert generation_inputs(config, PROVENANCE | {part: "other"}, 1, 0.0) != plain
    sampled = generation_inputs(config, PROVENANCE, 4, 1.0)
    assert sampled != generation_inputs(replace(config, seed=3), PROVENANCE, 4, 1.0)
    assert sampled != generation_inputs(config, PROVENANCE, 8, 1.0) != generation_inputs(config, PROVENANCE, 8, 0.7)
