"""The sweeps in conf/experiment: their jobs, composed."""

import pytest

from tests.helpers.sweeps import jobs_of


@pytest.mark.parametrize(
    "name", ["sweep_k", "sweep_k_equal_budget", "sweep_lr", "ablate_rewards", "sweep_xmlcount_weight"]
)
def test_shipped_sweeps(name: str) -> None:
    for experiment in (name, f"[gsm8k,{name}]"):
        jobs = jobs_of(f"experiment={experiment}")
        seeds = [job.config.seed for job in jobs]
        count = 5 if name == "ablate_rewards" else 3  # docs/sweeps.md has the reason
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


def test_a_typed_value_replaces_a_shipped_one() -> None:
    jobs = jobs_of("experiment=sweep_k", "num_generations=2,4", "seed=7")
    assert [(job.config.num_generations, job.config.seed) for job in jobs] == [(2, 7), (4, 7)]
