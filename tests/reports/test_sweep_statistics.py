"""The statistics of a sweep against SciPy and statsmodels, and against sums done by hand."""

from math import isnan
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from grpo.core.statistics import crossed_t_test, holm_adjusted, paired_t_test, t_interval
from grpo.reports.arms import PRIMARY_METRIC
from grpo.reports.baseline import choose_baseline
from grpo.reports.sweep_results import read_sweep
from grpo.reports.sweep_statistics import (
    compute_contrasts,
    factor_effects,
    pareto_front,
)
from tests.helpers.made_up import RIGHT, made_up, made_up_sweep

shares = st.floats(0, 1).map(lambda value: round(value, 3))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=8))
def test_the_paired_t_test_equals_scipy_and_statsmodels(pairs) -> None:
    values, baseline = map(list, zip(*pairs, strict=True))
    found = paired_t_test(values, baseline)
    differences = np.round(np.subtract(values, baseline), 12)
    assert found.pairs == len(pairs) and found.difference == pytest.approx(differences.mean(), abs=1e-12)
    if np.ptp(differences) == 0:
        assert (found.low, found.high) == (found.difference, found.difference)
        assert isnan(found.p) if found.difference else found.p == 1.0
        return
    theirs = stats.ttest_rel(values, baseline)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval(), abs=1e-9)
    described = DescrStatsW(differences)
    assert (found.low, found.high) == pytest.approx(described.tconfint_mean(), abs=1e-9)
    assert found.p == pytest.approx(described.ttest_mean(0)[1], rel=1e-6)


def test_95_percent_intervals_over_seeds_contain_the_truth_in_95_percent() -> None:
    drawn = np.random.default_rng(0).normal(0.02, 0.01, size=(1000, 3))
    found = [paired_t_test(of, np.zeros(3)) for of in drawn]
    assert 0.93 <= np.mean([each.low <= 0.02 <= each.high for each in found]) <= 0.97
    # Four settings that do not differ: Holm's p values name one in a twentieth of the sweeps at most.
    null = [
        holm_adjusted([paired_t_test(of, np.zeros(3)).p for of in four - 0.02]) for four in drawn.reshape(250, 4, 3)
    ]
    assert np.mean([min(each) < 0.05 for each in null]) <= 0.08


def test_a_single_pair_has_no_interval() -> None:
    found = paired_t_test([0.5], [0.25])
    assert found.difference == 0.25 and isnan(found.low) and isnan(found.high) and isnan(found.p)
    assert all(map(isnan, t_interval([0.5])))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_correction_equals_statsmodels(values) -> None:
    with patch("gc.collect"):  # multipletests collects garbage at each call, which takes a quarter of a second
        expected = multipletests(values, method="holm")[1]
    assert holm_adjusted(values) == pytest.approx(expected)
    assert holm_adjusted([*values, float("nan")])[:-1] == holm_adjusted(values)


def test_the_t_interval_of_a_mean_equals_statsmodels() -> None:
    values = [0.91, 0.95, 0.97, 0.90]
    assert t_interval(values) == pytest.approx(DescrStatsW(values).tconfint_mean())


def test_arms_are_compared_with_the_first(tmp_path) -> None:
    sweep = read_sweep(made_up_sweep(tmp_path, RIGHT))
    assert [setting.name for setting in sweep.arms] == list(RIGHT)
    assert sweep.factors == ["num_generations", "optimizer.lr"] and not sweep.unfinished and sweep.job_count == 12
    first, *others = RIGHT
    found = compute_contrasts(sweep, choose_baseline(sweep, None))
    assert list(found) == others
    expected = [stats.ttest_rel(RIGHT[name], RIGHT[first]) for name in others]
    assert [found[name].paired.p for name in others] == pytest.approx([each.pvalue for each in expected])
    adjusted = multipletests([found[name].test.p for name in others], method="holm")[1]
    assert [found[name].p_holm for name in others] == pytest.approx(adjusted)
    assert [found[name].comparisons for name in others] == [3, 3, 3]
    assert sweep.metrics[0] == "strict_format" and PRIMARY_METRIC not in sweep.metrics
    assert {"train_seconds", "reward", "rewards/xmlcount"} <= set(sweep.metrics)


def test_the_effect_of_a_factor_equals_a_linear_model_with_seed_blocks(tmp_path) -> None:
    rng = np.random.default_rng(0)
    right = {name: [round(float(share), 2) for share in rng.uniform(0.2, 0.9, 4)] for name in RIGHT}
    right |= {name.replace("16", "8"): [0.5, 0.61, 0.52, 0.4] for name in list(RIGHT)[2:]}
    sweep = read_sweep(made_up_sweep(tmp_path, right))
    rows = [
        {"k": int(name.split()[0].split("=")[1]), "lr": name.split("=")[2], "seed": seed, "right": share}
        for name, of in right.items()
        for seed, share in enumerate(of)
    ]
    table = pd.DataFrame(rows)
    by_k, by_lr = factor_effects(sweep, choose_baseline(sweep, "num_generations=4, optimizer.lr=0.0001"))
    assert [level.name for level in by_k.levels] == ["4", "16", "8"] and by_k.left_out == by_lr.left_out == 0
    # Within a seed over the other factor first; then a two-way layout of factor and seed, in which each pair of levels
    # has an error of its own.
    means = table.groupby(["k", "seed"], as_index=False)["right"].mean()
    for level in by_k.levels[1:]:
        pair = means[means["k"].isin([4, int(level.name)])].assign(k=lambda of: of["k"].astype(str))
        fitted = ols("right ~ C(k, Treatment('4')) + C(seed)", pair).fit()
        name = next(each for each in fitted.params.index if "Treatment" in each)
        assert level.paired.difference == pytest.approx(fitted.params[name])
        assert level.paired.p == pytest.approx(fitted.pvalues[name])
        assert (level.paired.low, level.paired.high) == pytest.approx(tuple(fitted.conf_int().loc[name]))
    adjusted = multipletests([level.paired.p for level in by_k.levels[1:]], method="holm")[1]
    assert [level.p_holm for level in by_k.levels[1:]] == pytest.approx(adjusted)
    assert by_k.levels[0].mean == pytest.approx(table[table["k"] == 4]["right"].mean())
    assert by_lr.levels[1].paired.pairs == 4


def test_a_factor_is_compared_over_runs_at_all_its_levels(tmp_path) -> None:
    folder = made_up_sweep(tmp_path, RIGHT)
    (folder / "11" / "results.json").unlink()
    sweep = read_sweep(folder)
    by_k, by_lr = factor_effects(sweep, choose_baseline(sweep, None))
    assert by_k.left_out == by_lr.left_out == 1
    means = [(0.50 + 0.60) / 2, (0.54 + 0.70) / 2, 0.52], [(0.55 + 0.81) / 2, (0.57 + 0.80) / 2, 0.58]
    assert [list(level.by_seed.values()) for level in by_k.levels] == [pytest.approx(of) for of in means]
    # If two factors always change together, neither effect is known.
    apart = {"num_generations=4 prompts_per_step=16": [0.5, 0.6], "num_generations=8 prompts_per_step=8": [0.6, 0.7]}
    sweep = read_sweep(made_up_sweep(tmp_path / "apart", apart))
    assert [(effect.levels, effect.left_out) for effect in factor_effects(sweep, choose_baseline(sweep, None))] == [
        ([], 4),
        ([], 4),
    ]


def test_seeds_and_problems_are_crossed_if_all_runs_answered_the_same_problems(tmp_path) -> None:
    rng = np.random.default_rng(0)
    right = {(k, seed): (rng.random(40) < 0.5).tolist() for k in (4, 8) for seed in (0, 1)}
    for (k, seed), problems in right.items():
        made_up(tmp_path / f"{k}-{seed}", f"num_generations={k}", f"seed={seed}", right=problems)

    def found(metric: str = PRIMARY_METRIC):
        sweep = read_sweep(tmp_path)
        return compute_contrasts(sweep, choose_baseline(sweep, None), metric)["num_generations=8"]

    expected = crossed_t_test(np.array([np.subtract(right[8, seed], right[4, seed], dtype=float) for seed in (0, 1)]))
    assert found().crossed == found().test == expected and found().p_holm == expected.p
    assert found("train_seconds").crossed is None  # not a metric of single problems
    path = tmp_path / "8-1" / "evaluations" / "after.parquet"
    table = pd.read_parquet(path)
    for changed in (table.assign(question="another"), table.assign(accuracy_strict=True), None):
        path.write_bytes(b"PAR1") if changed is None else changed.to_parquet(path)
        assert found().crossed is None and found().test == found().paired


def test_pareto_fronts_of_known_points() -> None:
    points = [(1, 1), (2, 2), (3, 1), (1, 3), (2, 2), (0, 3)]
    assert pareto_front(points, [True, True]) == [1, 2, 3, 4]
    assert pareto_front(points, [False, True]) == [5]
    assert pareto_front([(1.0,), (3.0,), (3.0,)], [True]) == [1, 2] and pareto_front([], [True]) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_a_pareto_front_matches_its_definition(points) -> None:
    def beats(a, b) -> bool:
        a, b = (a[0], -a[1], a[2]), (b[0], -b[1], b[2])
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    front = [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
    assert pareto_front(points, [True, False, True]) == front
