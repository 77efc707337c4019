"""The sweeps in conf/experiment: their jobs, composed."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from grpo.config.composition import compose
from tests.helpers.sweeps import jobs_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name",
    ["sweep_k", "sweep_k_equal_budget", "sweep_lr", "ablate_rewards", "sweep_xmlcount_weight", "what_did_rl_do"],
)
def test_shipped_sweeps(name: str) -> None:
    for experiment in (name, f"[gsm8k,{name}]"):
        jobs = jobs_of(f"experiment={experiment}")
        seeds = [job.config.seed for job in jobs]
        count = 5 if name in ("ablate_rewards", "what_did_rl_do") else 3  # docs/sweeps.md has the reason
        assert seeds == [*range(count)] * (len(jobs) // count)
        assert {job.config.data.name for job in jobs} == {"gsm8k" if "gsm8k" in experiment else "arithmetic"}
        budgets = {job.completions_per_step for job in jobs}
        assert budgets == ({16, 32, 64} if name == "sweep_k" else {64})
    if name == "ablate_rewards":
        stacks = [job.config.rewards for job in jobs[::5]]
        assert [[key for key, weight in each.items() if not weight] for each in stacks] == [
            [],
            *([key] for key in stacks[0]),
        ]


@pytest.mark.parametrize(
    ("typed", "arms"),
    [
        ([], [("default", False), ("default", True), ("no_correctness", False), ("correctness_only", False)]),
        (["rewards=no_format", "placebo=false,true"], [("no_format", False), ("no_format", True)]),
    ],
)
def test_the_arms_of_the_controls(typed: list[str], arms: list[tuple[str, bool]]) -> None:
    jobs = jobs_of("experiment=what_did_rl_do", *typed)
    expected = [(compose([f"rewards={stack}"]).rewards, placebo) for stack, placebo in arms for _ in range(5)]
    assert sorted(map(repr, [(job.config.rewards, job.config.placebo) for job in jobs])) == sorted(map(repr, expected))
    assert {job.config.eval_samples for job in jobs} == {32}


def test_a_typed_value_replaces_a_shipped_one() -> None:
    jobs = jobs_of("experiment=sweep_k", "num_generations=2,4", "seed=7")
    assert [(job.config.num_generations, job.config.seed) for job in jobs] == [(2, 7), (4, 7)]


def test_the_arms_of_the_phantom_advantage() -> None:
    jobs = jobs_of("experiment=phantom")
    algorithms, plain = [job.config.algorithm for job in jobs[::5]], compose([]).algorithm
    assert algorithms == [
        plain,
        replace(plain, resample=3),
        replace(plain, gate="correctness"),
        replace(plain, estimator="gdpo"),
        replace(plain, estimator="rloo"),
    ]
    assert [(job.config.algorithm, job.config.seed) for job in jobs] == [*product(algorithms, range(5))]
    assert {job.completions_per_step for job in jobs} == {64}
    weights = {name: weight for name, weight in jobs[0].config.rewards.items() if weight}
    assert weights == {"correctness": 0.5, "overlong": 0.3}
    page = (ROOT / "docs" / "phantom-advantage.md").read_text(encoding="utf-8")
    assert [f"algorithm={arm}" for arm in re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)] == [
        job.overrides[0] for job in jobs[::5]
    ]
