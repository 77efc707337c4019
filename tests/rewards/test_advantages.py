"""Advantages and their parts: exact for any stack and estimator, and equal to TRL's."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import nanstd as trl_nanstd

from grpo.config.rules import ESTIMATOR_NAMES
from grpo.config.schema import TRL_SCALES
from grpo.rewards.advantages import Attribution, attribute, attribution_metrics, gate_rewards
from grpo.rewards.estimators import ESTIMATORS, gdpo, get_estimator, no_scaling
from grpo.rewards.placebo import permute_within_groups
from tests.helpers.trainers import micro_batches

# The estimators that TRL has -> its scale_rewards and multi_objective_aggregation.
TRL = {
    "group_std": ("group", "sum_then_normalize"),
    "batch_std": ("batch", "sum_then_normalize"),
    "no_scaling": ("none", "sum_then_normalize"),
    "gdpo": ("none", "normalize_then_sum"),
}


LINEAR = [name for name in ESTIMATOR_NAMES if name != "passk"]


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 4), st.integers(1, 5))
def test_shares_sum_to_one_and_flips_follow_from_the_parts(name, seed, k, groups, rewards) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.choice([0.0, 0.125, 0.5, 2.0], size=(groups * k, rewards))
    weights = rng.choice([-1.0, 0.0, 0.5, 3.0], size=rewards)
    split = attribute(scores, weights, k, ESTIMATORS[name])
    shares, flips = split.shares(), split.flips()
    if not split.advantages.any():
        assert shares is None
    else:
        assert shares.sum() == pytest.approx(1) and not shares[weights == 0].any()
    for r, weight in enumerate(weights):
        without = split.advantages - split.parts[:, r]
        assert flips[r] == np.mean(split.advantages * without < 0)
        if weight and name == "no_scaling" and not split.zero_std[:, -1].any():
            # Without scaling, the other rewards alone give the remaining advantage.
            rest = attribute(scores, np.where(np.arange(rewards) == r, 0, weights), k, no_scaling)
            assert without == pytest.approx(rest.advantages, abs=1e-9)


def by_trl(scores: np.ndarray, weights: np.ndarray, k: int, name: str, dtype: torch.dtype):
    """The advantages by the lines of TRL 1.16, `GRPOTrainer._generate_and_score_completions`."""

    def nanstd(values: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
        """TRL's `nanstd`, which computes Bessel's correction in the default dtype."""
        torch.set_default_dtype(dtype)
        try:
            return trl_nanstd(values, dim=dim, keepdim=keepdim)
        finally:
            torch.set_default_dtype(torch.float32)

    scale, aggregation = TRL[name]
    rewards_per_func, reward_weights = torch.tensor(scores, dtype=dtype), torch.tensor(weights, dtype=dtype)
    unscorable = rewards_per_func.isnan().all(dim=1)
    if aggregation == "normalize_then_sum":
        grouped = rewards_per_func.view(-1, k, len(weights))
        standardized = (grouped - grouped.nanmean(dim=1, keepdim=True)) / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
        rewards = (standardized.view(-1, len(weights)) * reward_weights).nansum(dim=1)
        rewards[unscorable] = torch.nan
        advantages = (rewards - rewards.nanmean()) / (nanstd(rewards) + 1e-4)
    else:
        rewards = (rewards_per_func * reward_weights).nansum(dim=1)
        rewards[unscorable] = torch.nan
        advantages = rewards - rewards.view(-1, k).nanmean(dim=1).repeat_interleave(k)
        if scale == "group":
            advantages = advantages / (nanstd(rewards.view(-1, k), dim=1).repeat_interleave(k) + 1e-4)
        elif scale == "batch":
            advantages = advantages / (nanstd(rewards) + 1e-4)
    return advantages.nan_to_num(nan=0.0).numpy()


@pytest.mark.parametrize("name", TRL)
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 4), st.integers(1, 4))
def test_parts_with_abstentions_sum_to_trls_advantages(name, seed, k, groups, rewards) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.choice([0.0, 0.125, 0.5, 2.0], size=(groups * k, rewards))
    scores[rng.random(scores.shape) < rng.choice([0.1, 0.5, 0.9])] = np.nan
    weights = rng.choice([-1.0, 0.25, 0.5, 3.0], size=rewards)
    split = attribute(scores, weights, k, ESTIMATORS[name])
    exact = by_trl(scores, weights, k, name, torch.float64)
    assert split.advantages == pytest.approx(exact, abs=1e-12)
    assert split.parts.sum(axis=1) == pytest.approx(split.advantages, abs=1e-12)
    # In float32, a group of nearly equal totals divides rounding errors by 1e-4.
    rounded = by_trl(scores, weights, k, name, torch.float32)
    assert split.advantages == pytest.approx(rounded, abs=1e-2)
    assert not split.advantages[np.isnan(scores).all(axis=1)].any()


def test_an_abstention_adds_nothing_to_the_total() -> None:
    """A group of four; the second reward scores the first two completions only; the last has no score at all."""
    scores = np.array([[2.0, 0.5], [0.0, 0.5], [2.0, np.nan], [np.nan, np.nan]])
    weights = np.array([1.0, 2.0])
    split = attribute(scores, weights, 4, no_scaling)
    totals = np.array([3.0, 1.0, 2.0])
    assert split.advantages == pytest.approx([*(totals - totals.mean()), 0.0])
    assert split.parts[:, 1] == pytest.approx([1 - 2 / 3, 1 - 2 / 3, -2 / 3, 0])
    assert split.zero_std.tolist() == [[False, False, False]]
    standardized = attribute(scores, weights, 4, gdpo)
    assert standardized.zero_std.tolist() == [[False, True, False]]  # equal where it scores
    assert not standardized.parts[:, 1].any()


@pytest.mark.parametrize("name", TRL)
def test_rewards_that_cancel_give_zero_parts(name: str) -> None:
    up = np.array([0.1, 0.3, 0.7, 0.2], dtype=np.float32)
    # In float32, 3 x 0.1 - 0.3 is not exactly zero; gdpo removes factors by itself.
    factor = 1 if name == "gdpo" else 3
    scores = np.stack([up, factor * up], axis=1)
    scores = np.concatenate([scores, [[1, 0], [0, 0], [0, 0], [1, 0]]]).astype(np.float32)
    weights = np.array([factor, -1.0])
    split = attribute(scores, weights, 4, ESTIMATORS[name])
    assert not split.parts[:4].any() and split.shares() == pytest.approx([1, 0])
    assert split.zero_std.tolist() == [[False, False, True], [False, True, False]]
    assert attribute(scores[:4], weights, 4, ESTIMATORS[name]).shares() is None


def test_logged_metrics() -> None:
    # Three groups of two: mixed; all correct and of different length; none correct and of the same length.
    scores = np.array([[2, 0.1], [0, 0.3], [2, 0.1], [2, 0.4], [0, 0.2], [0, 0.2]])
    split = attribute(scores, np.array([1.0, 1.0]), 2, no_scaling)
    assert split.advantages == pytest.approx([0.9, -0.9, -0.15, 0.15, 0, 0])
    figures = attribution_metrics(split, ["correctness", "length"], scores[:, 0] > 0, 2)
    power = 2 * 0.9**2 + 2 * 0.15**2
    assert figures == pytest.approx(
        {
            "advantage_share/correctness": 2 * 0.9 * 1.0 / power,
            "advantage_share/length": (-2 * 0.9 * 0.1 + 2 * 0.15**2) / power,
            "advantage_share/phantom": 2 * 0.15**2 / power,
            "advantage_share/phantom/all_correct": 2 * 0.15**2 / power,
            "advantage_share/phantom/none_correct": 0,
            "advantage_flips/correctness": 2 / 6,
            "advantage_flips/length": 0,
            "completions/correct": 1 / 2,
            "groups/all_correct": 1 / 3,
            "groups/none_correct": 1 / 3,
            "groups/mixed": 1 / 3,
            "groups/correctness_constant": 1 / 3,
            "groups/zero_std": 1 / 3,
            "groups/zero_std/correctness": 2 / 3,
            "groups/zero_std/length": 1 / 3,
        }
    )
    still = attribute(scores[4:], np.array([1.0, 1.0]), 2, no_scaling)
    assert not [
        name for name in attribution_metrics(still, ["correctness", "length"], scores[4:, 0] > 0, 2) if "share" in name
    ]


ABSTAINS = "from grpo.rewards import reward\n\n\n@reward\ndef even(completion):\n    return {} or None\n".format(
    "len(completion) % 2 == 0 and len(completion) / 100"
)


GATED = [*((name, "off") for name in ESTIMATOR_NAMES), ("group_std", "correctness"), ("passk", "none_right")]


@pytest.mark.parametrize(("name", "gate"), GATED)
def test_scheduled_and_abstaining_rewards_in_the_advantages_that_train(trainer, tmp_path, name, gate) -> None:
    """A step in the middle of a schedule, and completions that the only rewards with a weight do not score."""
    (tmp_path / "even.py").write_text(ABSTAINS)
    built = trainer(
        f"algorithm.estimator={name}",
        *(f"algorithm.gate={gate}", "algorithm.pass_k=2"),
        *("rewards=no_correctness", "rewards.strict_format=0", "rewards.soft_format=0", "rewards.int=0"),
        "rewards.xmlcount={start: 0.0, end: 2.0, until: 0.5}",
        *(f"reward_files=[{tmp_path / 'even.py'}]", "+rewards.even={start: 1.5, end: 0.5, until: 1.0}"),
    )
    for step, weights in ((0, {"even": 1.5}), (2, {"xmlcount": 1.0, "even": 1.25})):
        built.state.global_step, built.state.max_steps = step, 8
        built._logs["advantages"].clear()
        advantages = torch.cat([inputs["advantages"] for inputs in micro_batches(built)]).numpy()
        names = built.reward_func_names
        assert built.reward_weights.tolist() == [weights.get(name, 0.0) for name in names]
        raw, split = attributed(built, name, gate)
        assert split.advantages == pytest.approx(advantages, abs=1e-4)
        assert gate != "off" or np.abs(split.advantages).max() > 0.01
        assert np.array(built._logs["advantages"]) == pytest.approx(advantages, abs=1e-6)
        logged = {name: values[-1] for name, values in built._metrics["train"].items()}
        assert logged["reward_weight/even"] == weights["even"]
        abstains = np.isnan(raw[:, names.index("even")])
        assert logged["abstained/even"] == pytest.approx(abstains.mean()) and 0 < abstains.mean() < 1
        assert step > 0 or not np.abs(advantages[abstains] > 1e-6).any()
        if name in LINEAR and gate == "off":
            assert [logged[f"advantage_share/{name}"] for name in names] == pytest.approx(split.shares())


def attributed(built: Any, name: str, gate: str) -> tuple[np.ndarray, Attribution]:
    """The raw scores of the last rollout, and the advantages that follow from them."""
    names, k = built.reward_func_names, built.num_generations
    raw = np.array([built._logs["rewards"][name] for name in names]).T
    shaping = np.array(names) != "correctness"
    gated = gate_rewards(gate, raw[:, names.index("correctness")] > 0, k, shaping)
    return raw, attribute(raw, built.reward_weights.double().numpy(), k, get_estimator(name, 2), gated)


@pytest.mark.parametrize(("name", "gate"), GATED)
def test_the_advantages_that_train(trainer, name: str, gate: str) -> None:
    """By TRL for its own estimators without a gate, else by ours; the log of completions has the same."""
    built = trainer(
        f"algorithm.estimator={name}",
        f"algorithm.gate={gate}",
        *("algorithm.pass_k=2", "max_completion_length=40"),
        *("rewards=no_format", "rewards.xmlcount=2", "rewards.int=-0.5"),
    )
    advantages = torch.cat([inputs["advantages"] for inputs in micro_batches(built)]).numpy()
    _, split = attributed(built, name, gate)
    assert np.abs(split.advantages).max() > 0.1
    assert split.advantages == pytest.approx(advantages, abs=1e-4)
    assert np.array(built._logs["advantages"]) == pytest.approx(advantages, abs=1e-6)
    logged = {name: values[-1] for name, values in built._metrics["train"].items()}
    if name in LINEAR:
        shares = [logged[f"advantage_share/{name}"] for name in built.reward_func_names]
        assert sum(shares) == pytest.approx(1, abs=1e-9)
        assert shares == pytest.approx(split.shares())
    else:
        assert not [key for key in logged if key.startswith("advantage_") and "phantom" not in key]
    assert 0 <= logged["advantage_share/phantom"] <= 1 and (
        gate != "correctness" or not logged["advantage_share/phantom"]
    )
    if name in ("group_std", "no_scaling") and gate == "off":  # TRL's own metric is correct only for these
        assert logged["groups/zero_std"] == pytest.approx(logged["frac_reward_zero_std"])


@pytest.mark.parametrize(("name", "gate"), GATED)
def test_a_placebo_trains_the_same_advantages_on_other_completions_of_the_group(trainer, name: str, gate: str) -> None:
    of_estimator = [f"algorithm.estimator={name}", f"algorithm.gate={gate}", "algorithm.pass_k=2", "seed=3"]
    built = trainer(*of_estimator, "rewards=placebo", "max_completion_length=40")
    k, trained = built.num_generations, []
    for step in (0, 1):
        built.state.global_step = step
        trained = torch.cat([inputs["advantages"] for inputs in micro_batches(built)]).numpy()
        raw, split = attributed(built, name, gate)
        assert np.sort(trained.reshape(-1, k)) == pytest.approx(np.sort(split.advantages.reshape(-1, k)), abs=1e-6)
        drawn = permute_within_groups(split, k, seed=3, step=step)
        assert trained == pytest.approx(drawn.advantages, abs=1e-6) != pytest.approx(split.advantages, abs=0.1)
        assert np.array(built._logs["advantages"]) == pytest.approx(trained, abs=1e-6)
        # Everything else that is logged is what the rewards measured.
        logged = {key: values[-1] for key, values in built._metrics["train"].items()}
        for column, reward in zip(raw.T, built.reward_func_names, strict=True):
            assert logged[f"rewards/{reward}/mean"] == pytest.approx(column.mean())
        assert not [key for key in logged if key.startswith("advantage_") and "phantom" not in key]


def test_the_draws_of_a_placebo() -> None:
    split = attribute(np.arange(12.0)[:, None], np.ones(1), 4, no_scaling)
    same = [permute_within_groups(split, 4, seed=0, step=7).advantages.tolist() for _ in range(2)]
    assert same[0] == same[1]
    draws = np.array(
        [permute_within_groups(split, 4, seed, step).advantages for seed in range(40) for step in range(40)]
    )
    assert len({tuple(draw) for draw in draws}) > 1_500  # of 24^3 orders
    # Each completion gets each advantage of its group equally often, whatever it was worth: 1,600 draws, 5 sigma.
    for completion, row in enumerate(draws.T):
        own = np.unique(split.advantages.reshape(3, 4)[completion // 4])
        assert [float((row == value).mean()) for value in own] == pytest.approx([0.25] * 4, abs=0.055)


@pytest.mark.parametrize(("scale", "name"), TRL_SCALES.items())
def test_trls_names_of_its_estimators(trainer, scale: str, name: str) -> None:
    built = trainer(f"algorithm.scale_rewards={scale}")
    micro_batches(built)
    assert attributed(built, name, "off")[1].advantages == pytest.approx(np.array(built._logs["advantages"]), abs=1e-4)
