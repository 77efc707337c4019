"""Estimators against naive loops and a group worked out by hand, their invariances, and the gate."""

from collections.abc import Callable
from itertools import combinations
from math import comb, isnan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.config.rules import ESTIMATOR_NAMES
from grpo.rewards.advantages import Attribution, attribute, gate_rewards
from grpo.rewards.estimators import EPSILON, ESTIMATORS, get_estimator

GATES = ["off", "correctness", "none_right"]
PASS_K = 2
NOT_LINEAR = {"passk"}
NOT_SCALED = {"no_scaling", "rloo"}


def split(
    name: str, scores: np.ndarray, weights: np.ndarray, k: int, gate: str = "off", pass_k: int = PASS_K
) -> Attribution:
    """The first reward is the one for right answers."""
    shaping = np.arange(len(weights)) > 0
    gated = gate_rewards(gate, scores[:, 0] > 0, k, shaping)
    return attribute(scores, weights, k, get_estimator(name, pass_k), gated)


def test_every_estimator_has_a_name_in_the_settings() -> None:
    assert tuple(ESTIMATORS) == ESTIMATOR_NAMES


# Two groups of four: one right answer; three right answers. Their means are 1/4 and 3/4, their stds 1/2; the batch has
# mean 1/2 and std sqrt(2/7). Of the six pairs of the first group, three have a right answer: pass@2 is 1/2, with std
# 1/2. In the second group every pair has one.
RIGHT = [1, 0, 0, 0, 1, 1, 1, 0]
d = sqrt(2 / 7)
BY_HAND = {
    "group_std": [1.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5, -1.5],
    "batch_std": [0.75 / d, -0.25 / d, -0.25 / d, -0.25 / d, 0.25 / d, 0.25 / d, 0.25 / d, -0.75 / d],
    "no_scaling": [0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75],
    "gdpo": [1.5 / sqrt(6 / 7), *[-0.5 / sqrt(6 / 7)] * 3, *[0.5 / sqrt(6 / 7)] * 3, -1.5 / sqrt(6 / 7)],
    "rloo": [1, -1 / 3, -1 / 3, -1 / 3, 1 / 3, 1 / 3, 1 / 3, -1],
    "reinforce_pp": [0.5 / d, -0.5 / d, -0.5 / d, -0.5 / d, 0.5 / d, 0.5 / d, 0.5 / d, -0.5 / d],
    "maxrl": [3, -1, -1, -1, 1 / 3, 1 / 3, 1 / 3, -1],
    "passk": [1, -1 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0],
}


@pytest.mark.parametrize("name", ESTIMATOR_NAMES)
def test_two_groups_by_hand(name: str) -> None:
    found = split(name, np.array(RIGHT, dtype=float)[:, None], np.ones(1), 4)
    assert found.advantages == pytest.approx(BY_HAND[name], abs=2e-3)  # the divisors have 1e-4 added


def mean_of(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def std_of(values: list[float]) -> float:
    mean = mean_of(values)
    return sqrt(sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))


class Loops:
    """The groups of a batch as lists, for loops over groups, completions and rewards.

    Attributes:
        weights: of each group; in one that the gate closes, those of shaping rewards are 0.
        totals, counts: of each group: the totals of its completions, and whether each has one.
    """

    def __init__(self, scores: np.ndarray, weights: np.ndarray, k: int, gate: str) -> None:
        self.groups = [scores[start : start + k].tolist() for start in range(0, len(scores), k)]
        self.weights, self.totals, self.counts = [], [], []
        for group in self.groups:
            right = [row[0] > 0 for row in group]
            closed = (gate != "off" and not any(right)) or (gate == "correctness" and all(right))
            own = [0.0 if closed and r else weight for r, weight in enumerate(weights.tolist())]
            self.weights.append(own)
            self.totals.append([sum(w * s for w, s in zip(own, row, strict=True) if not isnan(s)) for row in group])
            self.counts.append([any(w and not isnan(s) for w, s in zip(own, row, strict=True)) for row in group])

    def counted(self, values: list[list[float]]) -> list[float]:
        """The values of the completions that have a total."""
        return [
            value
            for row, count in zip(values, self.counts, strict=True)
            for value, counts in zip(row, count, strict=True)
            if counts
        ]

    def each_group(self, advantages: Callable[[list[float]], list[float]]) -> list[float]:
        """The advantages (N,) by a formula for the totals of a group; 0 for a completion without a total."""
        found: list[float] = []
        for totals, counts in zip(self.totals, self.counts, strict=True):
            known = iter(advantages([total for total, count in zip(totals, counts, strict=True) if count]))
            found += [next(known) if count else 0.0 for count in counts]
        return found

    def gdpo(self) -> list[float]:
        sums = []
        for group, own, count in zip(self.groups, self.weights, self.counts, strict=True):
            rows = [0.0] * len(group)
            for r, weight in enumerate(own):
                known = [i for i, row in enumerate(group) if count[i] and not isnan(row[r])]
                mean, std = mean_of([group[i][r] for i in known]), std_of([group[i][r] for i in known])
                for i in known:
                    rows[i] += weight * (group[i][r] - mean) / (std + EPSILON)
            sums.append(rows)
        std = std_of(self.counted(sums))
        return [total / (std + EPSILON) for rows in sums for total in rows]

    def reinforce_pp(self) -> list[float]:
        centered = [[0.0] * len(group) for group in self.groups]
        for r in range(len(self.weights[0])):
            places = [
                (g, i)
                for g, group in enumerate(self.groups)
                for i in range(len(group))
                if self.counts[g][i] and self.weights[g][r]
            ]
            score = {(g, i): 0.0 if isnan(self.groups[g][i][r]) else self.groups[g][i][r] for g, i in places}
            for g, i in places:
                centered[g][i] += self.weights[g][r] * (score[g, i] - mean_of(list(score.values())))
        std = std_of(self.counted(centered))
        return [total / (std + EPSILON) for rows in centered for total in rows]

    def passk(self) -> list[float]:
        def advantages(totals: list[float]) -> list[float]:
            if len(totals) <= PASS_K:
                return [0.0] * len(totals)
            best = {members: max(totals[i] for i in members) for members in combinations(range(len(totals)), PASS_K)}
            mean = mean_of(list(best.values()))
            std = sqrt(mean_of([(value - mean) ** 2 for value in best.values()]))
            with_each = [[value for members, value in best.items() if i in members] for i in range(len(totals))]
            return [(mean_of(values) - mean) / (std + EPSILON) for values in with_each]

        return self.each_group(advantages)

    def by_name(self, name: str) -> list[float]:
        formulas: dict[str, Callable[[list[float]], list[float]]] = {
            "group_std": lambda t: [(x - mean_of(t)) / (std_of(t) + EPSILON) for x in t],
            "batch_std": lambda t: [(x - mean_of(t)) / (std_of(self.counted(self.totals)) + EPSILON) for x in t],
            "no_scaling": lambda t: [x - mean_of(t) for x in t],
            "rloo": lambda t: [x - mean_of(t[:i] + t[i + 1 :]) if len(t) > 1 else 0.0 for i, x in enumerate(t)],
            "maxrl": lambda t: [(x - mean_of(t)) / (mean_of(t) + EPSILON) if mean_of(t) > 0 else 0.0 for x in t],
        }
        return self.each_group(formulas[name]) if name in formulas else getattr(self, name)()


# Multiples of powers of two, so that sums have no rounding error.
SCORES, WEIGHTS = [0.0, 0.125, 0.5, 2.0], [-1.0, 0.0, 0.5, 4.0]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("name", ESTIMATOR_NAMES)
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 0.3]))
def test_estimators_equal_naive_loops(name, gate, seed, k, groups, rewards, abstaining) -> None:
    rng = np.random.default_rng(seed)
    scores, weights = rng.choice(SCORES, size=(groups * k, rewards)), rng.choice(WEIGHTS, size=rewards)
    scores[rng.random(scores.shape) < abstaining] = np.nan
    if not weights.any():
        weights[0] = 1.0
    found = split(name, scores, weights, k, gate)
    assert found.advantages == pytest.approx(Loops(scores, weights, k, gate).by_name(name), abs=1e-12)
    advantages = found.advantages.reshape(groups, k)
    assert found.zero_std[:, -1].tolist() == (~advantages.any(axis=1)).tolist() or name == "reinforce_pp"
    if name in NOT_LINEAR:
        assert found.parts is None and found.shares() is None and found.flips() is None
        return
    assert found.parts.sum(axis=1) == pytest.approx(found.advantages, abs=1e-12)
    closed = gate_rewards(gate, scores[:, 0] > 0, k, np.arange(rewards) > 0)
    if closed is not None:
        assert not found.parts.reshape(groups, k, rewards)[np.repeat(closed[:, None], k, axis=1)].any()


@pytest.mark.parametrize("name", ESTIMATOR_NAMES)
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 6), st.integers(2, 4), st.integers(1, 3))
def test_invariances(name, seed, k, groups, rewards) -> None:
    rng = np.random.default_rng(seed)
    scores, weights = rng.choice(SCORES, size=(groups * k, rewards)), rng.choice([0.5, 1.0, 4.0], size=rewards)
    advantages = split(name, scores, weights, k).advantages
    if name != "maxrl":  # the only one whose divisor is a mean
        assert split(name, scores + 8, weights, k).advantages == pytest.approx(advantages, abs=1e-9)
    if name in NOT_SCALED:
        assert split(name, 4 * scores, weights, k).advantages == pytest.approx(4 * advantages, abs=1e-9)
    else:  # up to the 1e-4 in the divisor
        large, larger = (split(name, factor * scores, weights, k).advantages for factor in (1e4, 1e6))
        assert large == pytest.approx(larger, abs=1e-5)
    order = np.concatenate([group * k + rng.permutation(k) for group in rng.permutation(groups)])
    assert split(name, scores[order], weights, k).advantages == pytest.approx(advantages[order], abs=1e-9)
    still = np.repeat(scores[:1], groups * k, axis=0)
    found = split(name, still, weights, k)
    assert not found.advantages.any() and found.zero_std.all() and found.shares() is None


def test_a_constant_group_has_advantages_with_reinforce_pp_only() -> None:
    scores = np.array([1, 1, 1, 1, 1, 0, 0, 0], dtype=float)[:, None]
    for name in ESTIMATOR_NAMES:
        found = split(name, scores, np.ones(1), 4)
        assert found.advantages[:4].any() == (name == "reinforce_pp")
        assert found.zero_std[:, -1].tolist() == [name != "reinforce_pp", False]


def test_maxrl_gives_no_advantages_where_the_mean_is_not_positive() -> None:
    scores = np.array([[0.0, 1.0], [0.0, 3.0], [2.0, 0.5], [0.0, 0.5]])
    found = split("maxrl", scores, np.array([1.0, -0.5]), 2)
    assert found.advantages == pytest.approx([0, 0, 1 / (0.75 + EPSILON), -1 / (0.75 + EPSILON)])
    assert found.zero_std[:, -1].tolist() == [True, False]


@pytest.mark.parametrize(("right", "k"), [(1, 2), (2, 3), (5, 4), (7, 2)])
def test_passk_of_right_and_wrong_answers_has_the_advantages_of_the_paper(right: int, k: int) -> None:
    n, wrong = 8, 8 - right
    solved = 1 - comb(wrong, k) / comb(n, k)  # the share of the sets with a right answer
    spread = sqrt(solved * (1 - solved)) + EPSILON
    of_wrong = 1 - comb(wrong - 1, k - 1) / comb(n - 1, k - 1)
    expected = [(1 - solved) / spread] * right + [(of_wrong - solved) / spread] * wrong
    scores = np.array([1.0] * right + [0.0] * wrong)[:, None]
    assert split("passk", scores, np.ones(1), n, pass_k=k).advantages == pytest.approx(expected, abs=1e-12)


def test_passk_of_more_right_answers_than_sets_can_miss_has_no_advantages() -> None:
    right = np.array([1, 1, 0, 0, 0, 0], dtype=float)[:, None] * 0.3
    for k, expected in ((2, True), (4, True), (5, False), (6, False), (9, False)):
        assert split("passk", right, np.ones(1), 6, pass_k=k).advantages.any() == expected


# Four groups of two with a right, a right, no and one right answer; the second reward varies in all but the second.
GROUPS = np.array([[2, 0.1], [2, 0.3], [2, 0.2], [2, 0.2], [0, 0.5], [0, 0.1], [2, 0.1], [0, 0.5]])


@pytest.mark.parametrize(
    ("gate", "no_advantage", "phantom"),
    [
        ("off", [False, True, False, False], 0.2**2 + 0.4**2),
        ("correctness", [True, True, True, False], 0),
        ("none_right", [False, True, True, False], 0.2**2),
    ],
)
def test_gates(gate: str, no_advantage: list[bool], phantom: float) -> None:
    found = split("no_scaling", GROUPS, np.ones(2), 2, gate)
    assert found.zero_std[:, -1].tolist() == no_advantage
    assert found.advantages[6:] == pytest.approx([0.8, -0.8])
    assert 2 * (found.advantages[:6] ** 2).sum() == pytest.approx(phantom)
    assert found.zero_std[:, 1].tolist() == [False, True, False, False]  # the reward itself varies, gated or not


def test_a_gate_leaves_partial_credit_of_the_reward_for_right_answers() -> None:
    scores = np.array([[0.5, 0.3], [2.0, 0.1]])
    found = split("no_scaling", scores, np.ones(2), 2, "correctness")
    assert found.parts == pytest.approx(np.array([[-0.75, 0], [0.75, 0]]))
