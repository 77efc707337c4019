"""The estimators, compared with closed forms and with brute force."""

from itertools import combinations
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from statsmodels.stats.power import TTestPower

from grpo.core.statistics import (
    bootstrap_intervals,
    crossed_t_test,
    maj_at_k,
    mcnemar_p_value,
    paired_t_test,
    pass_at_k,
    seeds_needed,
    wilson_interval,
)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (654, 1319)])
def test_wilson_interval_equals_its_closed_form(right: int, n: int) -> None:
    z, p = 1.959963984540054, right / n
    centre, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]
    assert wilson_interval(right, n) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_p_value_equals_the_binomial_tail() -> None:
    assert mcnemar_p_value(0, 0) == mcnemar_p_value(4, 4) == 1.0
    assert mcnemar_p_value(9, 1) == mcnemar_p_value(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar_p_value(240, 0) == pytest.approx(2 / 2**240)


@pytest.mark.parametrize("true", [0.1, 0.5])
def test_intervals_cover_the_true_value_in_95_percent_of_samples(true: float) -> None:
    rng = np.random.default_rng(0)
    right = rng.random((2000, 200)) < true
    by_wilson = [wilson_interval(int(row.sum()), 200) for row in right[:500]]
    # Eight completions for each problem; problems differ in difficulty.
    shares = rng.binomial(8, rng.beta(true * 2, (1 - true) * 2, size=(2000, 200))) / 8
    by_bootstrap = [interval for rows in shares[:500].reshape(10, 50, 200) for interval in bootstrap_intervals(rows)]
    for intervals in (by_wilson, by_bootstrap):
        covered = np.mean([low <= true <= high for low, high in intervals])
        assert 0.92 <= covered <= 0.98  # three standard errors of 500 draws at 0.95


def test_bootstrap_intervals_are_reproducible_and_have_the_expected_width() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=(1, 1000))
    (interval,) = bootstrap_intervals(values)
    half = 1.96 * values.std() / sqrt(1000)
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)  # half is 0.12
    assert bootstrap_intervals(values) == [interval] and bootstrap_intervals(np.vstack([values, values]))[1] == interval
    assert bootstrap_intervals(np.full((1, 9), 0.5)) == [(0.5, 0.5)] == bootstrap_intervals(np.full((1, 1), 0.5))


@pytest.mark.parametrize("sd_seeds,sd_problems,sd_answers", [(0.15, 0.3, 0.2), (0.01, 0.3, 0.2), (0.15, 0.0, 0.3)])
def test_crossed_intervals_cover_a_difference_over_new_seeds_and_new_problems(
    sd_seeds: float, sd_problems: float, sd_answers: float
) -> None:
    rng = np.random.default_rng(0)
    draws, seeds, problems = 1000, 5, 64
    differences = (
        sd_seeds * rng.normal(size=(draws, seeds, 1))
        + sd_problems * rng.normal(size=(draws, 1, problems))
        + sd_answers * rng.normal(size=(draws, seeds, problems))
    )
    tests = [crossed_t_test(each) for each in differences]
    covered = np.mean([test.low <= 0 <= test.high for test in tests])
    assert 0.94 <= covered <= 0.99
    assert [test.p >= 0.05 for test in tests] == [test.low <= 0 <= test.high for test in tests]


def test_intervals_of_skewed_seeds_cover_about_90_percent() -> None:
    skewed = np.random.default_rng(0).exponential(size=(1000, 5, 1)) + np.zeros(64)  # a mean of 1
    tests = [crossed_t_test(each) for each in skewed]
    assert 0.86 <= np.mean([test.low <= 1 <= test.high for test in tests]) <= 0.92


def test_a_crossed_test_adds_the_squared_half_widths_over_seeds_and_over_problems() -> None:
    differences = np.random.default_rng(0).normal(0.2, 0.3, size=(4, 50))
    found = crossed_t_test(differences)
    over_seeds = paired_t_test(list(differences.mean(axis=1)), [0.0] * 4)
    over_problems = paired_t_test(list(differences.mean(axis=0)), [0.0] * 50)
    half = [(test.high - test.low) / 2 for test in (found, over_seeds, over_problems)]
    assert half[0] ** 2 == pytest.approx(half[1] ** 2 + half[2] ** 2)
    assert found.difference == pytest.approx(differences.mean()) and found.p > max(over_seeds.p, over_problems.p)
    # Without a part that varies over problems, it is the paired t test over seeds.
    constant = np.repeat(differences[:, :1], 50, axis=1)
    assert crossed_t_test(constant).p == pytest.approx(paired_t_test(list(constant[:, 0]), [0.0] * 4).p)
    assert np.isnan(crossed_t_test(differences[:1]).p)
    # The same difference in every seed: an interval over problems, and no test.
    same = crossed_t_test(np.tile(differences[:1], (3, 1)))
    over_problems = paired_t_test(list(differences[0]), [0.0] * 50)
    assert (same.low, same.high) == pytest.approx((over_problems.low, over_problems.high)) and np.isnan(same.p)
    assert crossed_t_test(np.zeros((3, 50))).p == 1.0


def test_seeds_needed_agree_with_statsmodels_and_with_simulated_sweeps() -> None:
    for difference, sd, comparisons in [(42.4, 15.4, 5), (1.0, 0.5, 1), (2.0, 2.0, 3), (5.0, 20.0, 1)]:
        expected = TTestPower().solve_power(difference / sd, alpha=0.05 / comparisons, power=0.8)
        assert seeds_needed(difference, sd, comparisons) == np.ceil(expected)
    assert seeds_needed(0.01, 5.0, 1) is None
    seeds = seeds_needed(2.0, 2.0, 1) or 0
    rng = np.random.default_rng(0)
    for count, least, most in ((seeds, 0.78, 1.0), (seeds - 1, 0.0, 0.8)):
        found = ttest_1samp(rng.normal(2.0, 2.0, size=(4000, count)), 0.0, axis=1).pvalue < 0.05
        assert least <= np.mean(found) <= most
    # A standard error over problems is not lowered by seeds.
    assert seeds_needed(2.0, 2.0, 1, problem_error=0.3) > seeds and seeds_needed(2.0, 2.0, 1, problem_error=0.8) is None


def majority(answers: list[int]) -> float:
    """The probability that answer 1, the right one, wins a vote with random tie-breaking; 0 is no answer."""
    votes = [answer for answer in answers if answer]
    most = max((votes.count(answer) for answer in votes), default=0)
    leading = {answer for answer in votes if votes.count(answer) == most}
    return (1 in leading) / max(1, len(leading))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.data())
def test_pass_and_maj_at_k_equal_the_mean_over_all_choices(answers: list[int], data) -> None:
    n, k = len(answers), data.draw(st.integers(1, len(answers)))
    choices = list(combinations(answers, k))
    passed = sum(1 in choice for choice in choices) / len(choices)
    voted = sum(majority(list(choice)) for choice in choices) / len(choices)
    others = tuple(sorted(answers.count(wrong) for wrong in (2, 3, 4) if wrong in answers))
    assert pass_at_k(n, answers.count(1), k) == pytest.approx(passed)
    assert maj_at_k(n, answers.count(1), others, k) == pytest.approx(voted)


def test_pass_at_k_equals_its_closed_form_and_is_unbiased() -> None:
    assert pass_at_k(16, 3, 4) == pytest.approx(1 - comb(13, 4) / comb(16, 4))
    assert (pass_at_k(16, 0, 8), pass_at_k(16, 9, 8), pass_at_k(16, 16, 1)) == (0.0, 1.0, 1.0)
    drawn = np.random.default_rng(0).binomial(16, 0.2, size=20_000)
    estimates = [pass_at_k(16, int(right), 8) for right in drawn]
    assert np.mean(estimates) == pytest.approx(1 - 0.8**8, abs=4 * np.std(estimates) / sqrt(20_000))


def test_maj_at_k_of_many_completions() -> None:
    assert maj_at_k(64, 20, (1,) * 44, 64) == 1.0
    assert maj_at_k(64, 22, (20, 22), 64) == pytest.approx(0.5)
    assert maj_at_k(64, 30, (4, 5, 5, 6, 14), 1) == pytest.approx(30 / 64)
    assert 0.5 < maj_at_k(256, 100, (60, 80), 128) < 1
