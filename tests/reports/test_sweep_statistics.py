"""What a sweep shows: against SciPy and statsmodels, against sums done by hand, and in words."""

import json
import os
from math import isnan
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from grpo.core.errors import UserError
from grpo.core.statistics import bootstrap_intervals, holm_adjusted, paired_t_test, t_interval
from grpo.reports.arms import PRIMARY_METRIC
from grpo.reports.sweep_findings import verdict
from grpo.reports.sweep_results import choose_baseline, read_sweep
from grpo.reports.sweep_statistics import (
    compute_contrasts,
    factor_effects,
    intervals_over_problems,
    pareto_front,
    search_trials,
)
from grpo.reports.sweep_tables import sweep_table
from tests.helpers.made_up import made_up, made_up_sweep, plan

shares = st.floats(0, 1).map(lambda value: round(value, 3))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=8))
def test_the_paired_t_test_is_scipys_and_statsmodels(pairs) -> None:
    values, baseline = map(list, zip(*pairs, strict=True))
    found = paired_t_test(values, baseline)
    differences = np.round(np.subtract(values, baseline), 12)
    assert found.pairs == len(pairs) and found.difference == pytest.approx(differences.mean(), abs=1e-12)
    if np.ptp(differences) == 0:
        assert (found.low, found.high) == (found.difference, found.difference)
        assert found.p == (0.0 if found.difference else 1.0)
        return
    theirs = stats.ttest_rel(values, baseline)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval(), abs=1e-9)
    described = DescrStatsW(differences)
    assert (found.low, found.high) == pytest.approx(described.tconfint_mean(), abs=1e-9)
    assert found.p == pytest.approx(described.ttest_mean(0)[1], rel=1e-6)


def test_intervals_over_seeds_cover_the_truth_as_often_as_they_say() -> None:
    drawn = np.random.default_rng(0).normal(0.02, 0.01, size=(1000, 3))
    found = [paired_t_test(of, np.zeros(3)) for of in drawn]
    assert 0.93 <= np.mean([each.low <= 0.02 <= each.high for each in found]) <= 0.97
    # Four settings that do not differ: Holm's p values name one in a twentieth of the sweeps at most.
    null = [
        holm_adjusted([paired_t_test(of, np.zeros(3)).p for of in four - 0.02]) for four in drawn.reshape(250, 4, 3)
    ]
    assert np.mean([min(each) < 0.05 for each in null]) <= 0.08


def test_a_single_pair_says_nothing_of_chance() -> None:
    found = paired_t_test([0.5], [0.25])
    assert found.difference == 0.25 and isnan(found.low) and isnan(found.high) and isnan(found.p)
    assert all(map(isnan, t_interval([0.5])))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(values) -> None:
    with patch("gc.collect"):  # multipletests collects garbage at each call, which takes a quarter of a second
        expected = multipletests(values, method="holm")[1]
    assert holm_adjusted(values) == pytest.approx(expected)
    assert holm_adjusted([*values, float("nan")])[:-1] == holm_adjusted(values)


def test_the_t_interval_of_a_mean_is_statsmodels() -> None:
    values = [0.91, 0.95, 0.97, 0.90]
    assert t_interval(values) == pytest.approx(DescrStatsW(values).tconfint_mean())


RIGHT = {
    "num_generations=4 optimizer.lr=0.0001": [0.50, 0.54, 0.52],
    "num_generations=4 optimizer.lr=0.0003": [0.60, 0.70, 0.62],
    "num_generations=16 optimizer.lr=0.0001": [0.55, 0.57, 0.58],
    "num_generations=16 optimizer.lr=0.0003": [0.81, 0.80, 0.88],
}


def test_settings_are_compared_with_the_first(tmp_path) -> None:
    sweep = read_sweep(made_up_sweep(tmp_path, RIGHT))
    assert [setting.name for setting in sweep.arms] == list(RIGHT)
    assert sweep.factors == ["num_generations", "optimizer.lr"] and not sweep.unfinished and sweep.job_count == 12
    first, *others = RIGHT
    found = compute_contrasts(sweep, choose_baseline(sweep, None))
    assert list(found) == others
    expected = [stats.ttest_rel(RIGHT[name], RIGHT[first]) for name in others]
    assert [found[name].paired.p for name in others] == pytest.approx([each.pvalue for each in expected])
    adjusted = multipletests([each.pvalue for each in expected], method="holm")[1]
    assert [found[name].p_holm for name in others] == pytest.approx(adjusted)
    assert sweep.metrics[0] == "strict_format" and PRIMARY_METRIC not in sweep.metrics
    assert {"train_seconds", "reward", "rewards/xmlcount"} <= set(sweep.metrics)


def test_the_effect_of_a_factor_is_that_of_a_model_with_seed_blocks(tmp_path) -> None:
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


def test_a_factor_is_compared_where_all_its_levels_are(tmp_path) -> None:
    folder = made_up_sweep(tmp_path, RIGHT)
    (folder / "11" / "results.json").unlink()
    sweep = read_sweep(folder)
    by_k, by_lr = factor_effects(sweep, choose_baseline(sweep, None))
    assert by_k.left_out == by_lr.left_out == 1
    means = [(0.50 + 0.60) / 2, (0.54 + 0.70) / 2, 0.52], [(0.55 + 0.81) / 2, (0.57 + 0.80) / 2, 0.58]
    assert [list(level.by_seed.values()) for level in by_k.levels] == [pytest.approx(of) for of in means]
    # Where two factors go together, neither's effect can be told.
    apart = {"num_generations=4 prompts_per_step=16": [0.5, 0.6], "num_generations=8 prompts_per_step=8": [0.6, 0.7]}
    sweep = read_sweep(made_up_sweep(tmp_path / "apart", apart))
    assert [(effect.levels, effect.left_out) for effect in factor_effects(sweep, choose_baseline(sweep, None))] == [
        ([], 4),
        ([], 4),
    ]


def test_intervals_over_problems_are_those_of_the_mean_over_seeds(tmp_path) -> None:
    rng = np.random.default_rng(0)
    right = {(k, seed): (rng.random(40) < 0.5).tolist() for k in (4, 8) for seed in (0, 1)}
    for (k, seed), problems in right.items():
        made_up(tmp_path / f"{k}-{seed}", f"num_generations={k}", f"seed={seed}", right=problems)

    def found() -> dict:
        sweep = read_sweep(tmp_path)
        return intervals_over_problems(sweep, choose_baseline(sweep, None))

    change = np.mean([np.subtract(right[8, seed], right[4, seed], dtype=float) for seed in (0, 1)], axis=0)
    (expected,) = bootstrap_intervals(change[None])
    assert found()["num_generations=8"][PRIMARY_METRIC] == expected
    table = pd.read_parquet(tmp_path / "8-1" / "evaluations" / "after.parquet")
    table["question"] = "another"
    table.to_parquet(tmp_path / "8-1" / "evaluations" / "after.parquet")
    assert found() == {}
    (tmp_path / "8-1" / "evaluations" / "after.parquet").write_bytes(b"PAR1")
    assert found() == {}


@pytest.mark.parametrize(
    "runs,names",
    [
        # What follows from a setting, and what is the same for all, names nothing.
        (
            [
                ["num_generations=4", "prompts_per_step=16", "max_steps=5", "seed=0"],
                ["num_generations=8", "prompts_per_step=16", "max_steps=5", "seed=0"],
            ],
            ["num_generations=4", "num_generations=8"],
        ),
        # What is not typed has its value from the settings, a group its file.
        ([["rewards=no_format"], ["seed=1"], ["+rewards=default", "seed=2"]], None),
        (
            [["rewards=no_xmlcount", "seed=0"], ["num_generations=8"], []],
            [
                "rewards=no_xmlcount num_generations=16",
                "rewards=default num_generations=8",
                "rewards=default num_generations=16",
            ],
        ),
        # One value in two ways of writing; what does not touch the numbers.
        ([["optimizer.lr=2e-4", "threads=1", "tracking=none"], ["optimizer.lr=0.0002", "seed=1"]], ["all runs"]),
        # Names that do not tell settings apart: all settings do.
        ([["+experiment=a", "max_steps=7"], ["+experiment=a", "max_steps=7", "num_generations=4"]], None),
        ([["reward_files=[]"], ["+rewards.int2=0.1", "seed=1"]], None),
    ],
)
def test_a_setting_is_named_by_what_was_typed(tmp_path, runs, names) -> None:
    for number, overrides in enumerate(runs):
        typed = [each for each in overrides if each not in ("+rewards.int2=0.1", "+rewards=default")]
        folder = made_up(tmp_path / str(number), *typed)
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
        if "+rewards.int2=0.1" in overrides:
            config = (folder / ".hydra" / "config.yaml").read_text()
            (folder / ".hydra" / "config.yaml").write_text(config.replace("  int: 1.0", "  int: 1.0\n  int2: 0.1"))
    sweep = read_sweep(tmp_path)
    found = [setting.name for setting in sweep.arms]
    if names is not None:
        assert found == names
    elif "rewards=no_format" in runs[0]:
        assert found == ["rewards=no_format", "rewards=default"] and list(sweep.arms[1].runs) == [1, 2]
    elif "max_steps=7" in runs[0]:
        assert found == ["num_generations=16", "num_generations=4"]
    else:
        assert found == ["rewards.int2=not set", "rewards.int2=0.1"]


def test_an_expression_names_nothing(tmp_path) -> None:
    for number, k in enumerate((4, 8)):
        folder = made_up(tmp_path / str(number), f"num_generations={k}", f"prompts_per_step={64 // k}")
        typed = [f"num_generations={k}", "prompts_per_step=${divide:64,${num_generations}}"]
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(typed))
    assert read_sweep(tmp_path).factors == ["num_generations"]


def test_jobs_follow_by_number_and_repeats_are_said(tmp_path) -> None:
    for number in (9, 10, 11):
        made_up(tmp_path / str(number), f"num_generations={number}")
    made_up(tmp_path / "later" / "3", "num_generations=10", right=0.75)
    os.utime(tmp_path / "10" / "results.json", (0, 0))
    sweep = read_sweep(tmp_path)
    assert [setting.name for setting in sweep.arms] == [f"num_generations={n}" for n in (9, 10, 11)]
    assert sweep.repeated == [("10", "later/3")] and sweep.arms[1].values(PRIMARY_METRIC) == {0: 0.75}


def test_jobs_that_are_not_done_are_named_with_the_reason(tmp_path) -> None:
    folder = made_up_sweep(tmp_path, RIGHT)
    plan(folder, *(f"{name} seed={seed}" for name in [*RIGHT, "num_generations=32"] for seed in (0, 1, 2)))
    (folder / "0" / "results.json").unlink()
    (folder / "4" / "results.json").unlink()
    (folder / "4" / "error.txt").write_text("out of memory\nlower micro_batch_size\n")
    (folder / "5" / "results.json").write_text("{}")
    (folder / "12").mkdir()
    (folder / "12" / "error.txt").write_text("num_generations=32: refused")
    sweep = read_sweep(folder)
    assert [(job.folder, job.state) for job in sweep.unfinished] == [
        ("0", "unfinished"),
        ("4", "failed"),
        ("5", "damaged"),
        ("12", "failed"),
        ("13", "not started"),
        ("14", "not started"),
    ]
    assert sweep.unfinished[0].reason == "interrupted, or still running: 10 steps logged"
    assert sweep.unfinished[1].reason == "out of memory\nlower micro_batch_size"
    assert sweep.job_count == 15 and verdict(sweep).endswith("6 of 15 jobs are missing from this.")
    assert list(choose_baseline(sweep, None).runs) == [1, 2]
    console = Console(width=80, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    console.print(sweep_table(sweep))
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= 80
    for text in ("baseline", "95% interval", "Holm p", "12  failed", "refused", "2  not started  13, 14"):
        assert text in said


def test_the_baseline_by_a_part_of_its_name(tmp_path) -> None:
    sweep = read_sweep(made_up_sweep(tmp_path, RIGHT))
    names = list(RIGHT)
    assert choose_baseline(sweep, None).name == names[0]
    assert choose_baseline(sweep, names[3]).name == names[3]
    assert choose_baseline(sweep, "optimizer.lr=3e-4 num_generations=4").name == names[1]
    with pytest.raises(UserError, match="2 arms match; name one: num_generations=4 optimizer.lr=0.0001; "):
        choose_baseline(sweep, "num_generations=4")
    with pytest.raises(UserError, match=r"no arm of this sweep matches\..*Known: num_generations=16 "):
        choose_baseline(sweep, "num_generations=5")


@pytest.mark.parametrize(
    "right,words",
    [
        (
            {"num_generations=4": [0.90, 0.91, 0.92], "num_generations=8": [0.95, 0.96, 0.98]},
            "num_generations=8 had the most right answers on 100 held-out problems, 96.3% over 3 seeds: 5.3 points more "
            "than num_generations=4 (95% interval +3.9 to +6.8, Holm p 0.0039).",
        ),
        (
            {"num_generations=4": [0.90, 0.91, 0.92], "num_generations=8": [0.92, 0.90, 0.93]},
            "These 3 seeds show no significant difference between the arms: the difference in right answers from num_generations=4, +0.7 "
            "points of num_generations=8, has a 95% interval from -3.1 to +4.5 (Holm p 0.53).",
        ),
        (
            {
                "num_generations=4": [0.87, 0.92, 0.88],
                "num_generations=8": [0.92, 0.93, 0.95],
                "num_generations=16": [0.95, 0.96, 0.96],
            },
            "3 seeds are too few to decide which arms differ. The largest difference in right answers from num_generations=4, +6.7 "
            "points of num_generations=16, would be significant alone (95% interval from +0.9 to +12.4, p 0.038), but is not "
            "as one of 2 comparisons (Holm p 0.075).",
        ),
        (
            {
                "num_generations=4": [0.90, 0.91, 0.92],
                "num_generations=8": [0.30, 0.32, 0.31],
                "num_generations=16": [0.92, 0.90, 0.93],
                "num_generations=32": [0.50, 0.52, 0.51],
            },
            "num_generations=8 had 60.0 points fewer right answers than num_generations=4 on 100 held-out problems, "
            "31.0% over 3 seeds against 91.0% (95% interval -62.5 to -57.5, Holm p below 0.001). num_generations=32 "
            "(-40.0) also differs from num_generations=4. The other arm does not differ significantly from num_generations=4 "
            "over 3 seeds.",
        ),
        (
            {"num_generations=4": [0.9], "num_generations=8": [0.95]},
            "Each arm has a single seed: the spread over seeds is unknown, so no conclusion about the arms is possible.",
        ),
        (
            {"num_generations=4": [0.9, 0.8], "num_generations=8": [0.95]},
            "No arm shares two seeds with num_generations=4, so no conclusion about the arms is possible.",
        ),
        (
            {"num_generations=4": [0.0, 0.0], "num_generations=8": [0.0, 0.0]},
            "In each of 2 seeds all arms had the same share of right answers.",
        ),
        (
            {"num_generations=4": [0.5, 0.6], "num_generations=8": [0.6, 0.7]},
            "num_generations=8 had the most right answers on 100 held-out problems, 65.0% over 2 seeds: 10.0 points "
            "more than num_generations=4 (the same in each of 2 seeds, so its spread is unknown).",
        ),
        (
            {"num_generations=4": [0.9, 0.8], "num_generations=8": [0.95], "num_generations=16": [0.9, 0.81]},
            "These 2 seeds show no significant difference between the arms: the difference in right answers from num_generations=4, +0.5 "
            "points of num_generations=16, has a 95% interval from -5.9 to +6.9 (Holm p 0.5). 1 arm has fewer than "
            "two seeds in common with num_generations=4 and is not tested.",
        ),
        (
            {"num_generations=4": [0.5, 0.6]},
            "One arm: 55.0% right answers on 100 held-out problems, the mean of 2 seeds (95% interval -8.5 to 118.5). There "
            "is no other arm to compare it with.",
        ),
        (
            {"num_generations=4": [0.5]},
            "One run: 50.0% right answers on 100 held-out problems. There is no other arm to compare it with.",
        ),
        (
            {
                "num_generations=4 optimizer.lr=0.0001": [0.5, 0.7, 0.6],
                "num_generations=4 optimizer.lr=0.0003": [0.7, 0.8, 0.8],
                "num_generations=8 optimizer.lr=0.0001": [0.6, 0.5, 0.5],
                "num_generations=8 optimizer.lr=0.0003": [0.75, 0.75, 0.68],
            },
            "Averaged over the other factors, optimizer.lr=0.0003 had 18.0 points more right answers than optimizer.lr=0.0001 "
            "(95% interval +15.8 to +20.2, Holm p 0.0015).",
        ),
    ],
)
def test_the_verdict_is_as_sure_as_the_figures(tmp_path, right, words: str) -> None:
    said = verdict(read_sweep(made_up_sweep(tmp_path, right)))
    assert words in said if words.startswith("Averaged over") else said == words


def test_a_pareto_front_is_what_nothing_beats() -> None:
    points = [(1, 1), (2, 2), (3, 1), (1, 3), (2, 2), (0, 3)]
    assert pareto_front(points, [True, True]) == [1, 2, 3, 4]
    assert pareto_front(points, [False, True]) == [5]
    assert pareto_front([(1.0,), (3.0,), (3.0,)], [True]) == [1, 2] and pareto_front([], [True]) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_a_pareto_front_by_its_definition(points) -> None:
    def beats(a, b) -> bool:
        a, b = (a[0], -a[1], a[2]), (b[0], -b[1], b[2])
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    front = [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
    assert pareto_front(points, [True, False, True]) == front


def test_a_search_names_its_best_trials(tmp_path) -> None:
    right = {"num_generations=4": [0.5], "num_generations=8": [0.8], "num_generations=16": [0.7]}
    folder = made_up_sweep(tmp_path, right)
    made_up(folder / "3", "num_generations=32", right=0.9, stopped_by="pruning", steps=4)
    plan(folder, *right, "num_generations=32", maximize=["accuracy_strict"], minimize=[])
    sweep = read_sweep(folder)
    assert [(job.state, job.reason) for job in sweep.unfinished] == [("pruned", "at step 4")] and not sweep.missing
    assert verdict(sweep) == (
        "Of 3 trials, num_generations=8 had the highest value of correct inside <answer>, 80.0%. Each is a single "
        "run, and the best of many is partly luck: run it again with other seeds."
    )
    plan(folder, *right, "num_generations=32", maximize=["accuracy_strict"], minimize=["mean_completion_tokens"])
    assert [trial.name for trial in search_trials(read_sweep(folder)) if trial.best] == list(right)
    assert verdict(read_sweep(folder)).startswith(
        "Of 3 trials, 3 are on the Pareto front of correct inside <answer> and mean completion tokens."
    )


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"jobs": [{"folder": "0"}]}', '{"jobs": [{"folder": "../x", "name": "", "overrides": []}]}']
)
def test_a_damaged_plan_is_named(tmp_path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        read_sweep(tmp_path)


def test_a_setting_without_any_run_keeps_its_row(tmp_path) -> None:
    right = {"num_generations=8": [0.9, 0.8, 0.85], "num_generations=16": [0.9, 0.81, 0.8]}
    made_up_sweep(tmp_path, right)
    for number in reversed(range(6)):
        (tmp_path / str(number)).rename(tmp_path / str(number + 3))
    names = [f"num_generations={k} seed={seed}" for k in (4, 8, 16) for seed in range(3)]
    plan(tmp_path, *names)
    sweep = read_sweep(tmp_path)
    assert [(setting.name, len(setting.runs)) for setting in sweep.arms] == [
        ("num_generations=4", 0),
        ("num_generations=8", 3),
        ("num_generations=16", 3),
    ]
    assert verdict(sweep).endswith(
        "num_generations=4 has no finished run: the others are compared with num_generations=8. 3 of 9 jobs are missing "
        "from this."
    )
    with pytest.raises(UserError, match="none of its runs has finished"):
        choose_baseline(sweep, "num_generations=4")
