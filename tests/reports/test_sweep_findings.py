"""The findings of a sweep, sentence by sentence."""

import json

import pytest

from grpo.core.errors import UserError
from grpo.reports.baseline import choose_baseline
from grpo.reports.sweep_findings import findings, verdict
from grpo.reports.sweep_results import read_sweep
from grpo.reports.sweep_statistics import (
    search_trials,
)
from tests.helpers.made_up import made_up, made_up_sweep, plan

SITUATIONS = [
    pytest.param(
        {
            "rewards=default": [0.94, 0.96, 0.96, 0.95, 0.97],
            "rewards=no_correctness": [0.69, 0.5, 0.41, 0.55, 0.6],
            "rewards=no_int": [0.95, 0.96, 0.97, 0.95, 0.96],
            "rewards=no_xmlcount": [0.95, 0.96, 0.98, 0.94, 0.97],
        },
        [
            "Without correctness, 55.0% of answers are right; with it, 95.6%.",
            "All 5 seeds agree: the difference on 100 held-out problems, -40.6 points, has a 95% interval over seeds and problems from -56.8 to -24.4 (p 0.0015, Holm p 0.0046 for 3 comparisons).",
            "The other 2 arms do not differ significantly from rewards=default; their 95% intervals over seeds and problems exclude differences above 2.0 points.",
            "Each of the 5 runs with rewards=no_correctness is below each of the 15 other runs.",
        ],
        id="a reward matters, the others do not",
    ),
    pytest.param(
        {
            "rewards=default": [0.94, 0.96, 0.96],
            "rewards=no_correctness": [0.69, 0.5, 0.41],
            "rewards=no_int": [0.95, 0.96, 0.97],
            "rewards=no_xmlcount": [0.95, 0.96, 0.98],
        },
        [
            "Without correctness, 53.3% of answers are right; with it, 95.3%.",
            "All 3 seeds agree, but 3 seeds are too few to exclude chance among 3 comparisons: the difference on 100 held-out problems, -42.0 points, has a 95% interval over seeds and problems from -81.2 to -2.8 (p 0.044, Holm p 0.13 for 3 comparisons).",
            "If its size and spread are those of these seeds, 5 seeds find it in 80% of sweeps.",
            "The other 2 arms do not differ significantly from rewards=default; their 95% intervals over seeds and problems exclude differences above 3.8 points.",
        ],
        id="the same with three seeds",
    ),
    pytest.param(
        {"rewards=no_correctness": [0.69, 0.5, 0.41, 0.55, 0.6], "rewards=default": [0.94, 0.96, 0.96, 0.95, 0.97]},
        [
            "With correctness, 95.6% of answers are right; without it, 55.0%.",
            "All 5 seeds agree: the difference on 100 held-out problems, +40.6 points, has a 95% interval over seeds and problems from +24.4 to +56.8 (p 0.0015).",
            "Each of the 5 runs with rewards=default is above each of the 5 other runs.",
        ],
        id="a reward that the baseline lacks",
    ),
    pytest.param(
        {"rewards=default": [0.94, 0.96, 0.96, 0.95, 0.97], "rewards=no_format": [0.69, 0.5, 0.41, 0.55, 0.6]},
        [
            "Without strict_format, soft_format and xmlcount, 55.0% of answers are right; with them, 95.6%.",
            "All 5 seeds agree: the difference on 100 held-out problems, -40.6 points, has a 95% interval over seeds and problems from -56.8 to -24.4 (p 0.0015).",
            "Each of the 5 runs with rewards=no_format is below each of the 5 other runs.",
        ],
        id="several rewards",
    ),
    pytest.param(
        {"num_generations=4": [0.9, 0.91, 0.92], "num_generations=8": [0.95, 0.96, 0.98]},
        [
            "With num_generations=8, 96.3% of answers are right; with num_generations=4, 91.0%.",
            "All 3 seeds agree: the difference on 100 held-out problems, +5.3 points, has a 95% interval over seeds and problems from +1.1 to +9.5 (p 0.019).",
            "Each of the 3 runs with num_generations=8 is above each of the 3 other runs.",
        ],
        id="all seeds agree",
    ),
    pytest.param(
        {"num_generations=4": [0.5, 0.6, 0.7, 0.5, 0.6], "num_generations=8": [0.75, 0.82, 0.95, 0.72, 0.55]},
        [
            "With num_generations=8, 75.8% of answers are right; with num_generations=4, 58.0%.",
            "4 of 5 seeds agree: the difference on 100 held-out problems, +17.8 points, has a 95% interval over seeds and problems from +1.2 to +34.4 (p 0.041).",
        ],
        id="a clear effect in most seeds",
    ),
    pytest.param(
        {"num_generations=4": [0.9, 0.91], "num_generations=8": [0.95, 0.98]},
        [
            "With num_generations=8, 96.5% of answers are right; with num_generations=4, 90.5%.",
            "Both seeds agree, but 100 held-out problems are too few to exclude chance: the difference on 100 held-out problems, +6.0 points, has a 95% interval over seeds and problems from -7.4 to +19.4 (p 0.13).",
            "If its size and spread are those of these seeds, more seeds alone do not find it: more held-out problems are needed.",
        ],
        id="separate, but too few problems for one comparison",
    ),
    pytest.param(
        {
            "num_generations=4": [0.87, 0.92, 0.88],
            "num_generations=8": [0.92, 0.93, 0.95],
            "num_generations=16": [0.95, 0.96, 0.96],
        },
        [
            "With num_generations=16, 95.7% of answers are right; with num_generations=4, 89.0%.",
            "All 3 seeds agree, but 100 held-out problems are too few to exclude chance among 2 comparisons: the difference on 100 held-out problems, +6.7 points, has a 95% interval over seeds and problems from -0.6 to +13.9 (p 0.061, Holm p 0.12 for 2 comparisons).",
            "If its size and spread are those of these seeds, more seeds alone do not find it: more held-out problems are needed.",
            "The other arm does not differ significantly from num_generations=4; its 95% interval over seeds and problems excludes differences above 12.6 points.",
        ],
        id="separate, but too few problems for two comparisons",
    ),
    pytest.param(
        {"num_generations=4": [0.9, 0.91, 0.92], "num_generations=8": [0.92, 0.9, 0.93]},
        [
            "No arm differs significantly from num_generations=4 over 3 seeds.",
            "The largest difference on 100 held-out problems, +0.7 points with num_generations=8, has a 95% interval over seeds and problems from -3.2 to +4.6 (p 0.56).",
        ],
        id="nothing clear",
    ),
    pytest.param(
        {
            "num_generations=4": [0.9, 0.91, 0.92],
            "num_generations=8": [0.92, 0.9, 0.93],
            "num_generations=16": [0.91, 0.9, 0.93],
        },
        [
            "No arm differs significantly from num_generations=4 over 3 seeds.",
            "The largest difference on 100 held-out problems, +0.7 points with num_generations=8, has a 95% interval over seeds and problems from -3.2 to +4.6 (p 0.56, Holm p 1 for 2 comparisons).",
            "The other arm does not differ significantly from num_generations=4; its 95% interval over seeds and problems excludes differences above 3.3 points.",
        ],
        id="nothing clear in several arms",
    ),
    pytest.param(
        {
            "num_generations=4": [0.9, 0.91, 0.92],
            "num_generations=8": [0.3, 0.32, 0.31],
            "num_generations=16": [0.92, 0.9, 0.93],
            "num_generations=32": [0.5, 0.52, 0.51],
        },
        [
            "With num_generations=8, 31.0% of answers are right; with num_generations=4, 91.0%.",
            "All 3 seeds agree: the difference on 100 held-out problems, -60.0 points, has a 95% interval over seeds and problems from -69.9 to -50.1 (p below 0.001, Holm p below 0.001 for 3 comparisons).",
            "num_generations=32 (-40.0) also differs from num_generations=4.",
            "The other arm does not differ significantly from num_generations=4; its 95% interval over seeds and problems excludes differences above 4.6 points.",
            "Each of the 3 runs with num_generations=8 is below each of the 9 other runs.",
        ],
        id="arms below the baseline, one of them not clearly",
    ),
    pytest.param(
        {
            "num_generations=4": [0.5, 0.51, 0.52, 0.5],
            "num_generations=8": [0.3, 0.32, 0.31, 0.3],
            "num_generations=16": [0.72, 0.7, 0.73, 0.71],
        },
        [
            "With num_generations=16, 71.5% of answers are right; with num_generations=4, 50.8%.",
            "All 4 seeds agree: the difference on 100 held-out problems, +20.8 points, has a 95% interval over seeds and problems from +12.7 to +28.8 (p below 0.001, Holm p below 0.001 for 2 comparisons).",
            "num_generations=8 (-20.0) also differs from num_generations=4.",
            "Each of the 4 runs with num_generations=16 is above each of the 8 other runs.",
        ],
        id="opposite signs",
    ),
    pytest.param(
        {
            "num_generations=4": [0.9, 0.91, 0.92],
            "num_generations=8": [0.3, 0.32, 0.31],
            "num_generations=16": [0.69, 0.5, 0.41],
            "num_generations=32": [0.92, 0.9, 0.93],
        },
        [
            "With num_generations=8, 31.0% of answers are right; with num_generations=4, 91.0%.",
            "All 3 seeds agree: the difference on 100 held-out problems, -60.0 points, has a 95% interval over seeds and problems from -69.9 to -50.1 (p below 0.001, Holm p below 0.001 for 3 comparisons).",
            "num_generations=16 (-37.7) lies apart from every run of num_generations=4, but not significantly.",
            "The other arm does not differ significantly from num_generations=4; its 95% interval over seeds and problems excludes differences above 4.6 points.",
            "Each of the 3 runs with num_generations=8 is below each of the 9 other runs.",
        ],
        id="an effect that is clear and one that is not",
    ),
    pytest.param(
        {"num_generations=4": [0.9], "num_generations=8": [0.95], "num_generations=16": [0.91]},
        [
            "With num_generations=8, 95.0% of answers are right; with num_generations=4, 90.0%.",
            "This is one seed: the spread over seeds is unknown, so no conclusion about the arms is possible.",
        ],
        id="a single seed",
    ),
    pytest.param(
        {"num_generations=4": [0.9], "num_generations=8": [0.9]},
        [
            "All arms had the same share of right answers.",
            "This is one seed: the spread over seeds is unknown, so no conclusion about the arms is possible.",
        ],
        id="a single seed and a tie",
    ),
    pytest.param(
        {"num_generations=4": [0.9, 0.8], "num_generations=8": [0.95]},
        [
            "With num_generations=8, 95.0% of answers are right; with num_generations=4, 90.0%.",
            "This is one seed: the spread over seeds is unknown, so no conclusion about the arms is possible.",
        ],
        id="a single seed in common",
    ),
    pytest.param(
        {"num_generations=4": [0.9, 0.91, 0.92, 0.93], "num_generations=8": [0.5, 0.52, 0.51]},
        [
            "With num_generations=8, 51.0% of answers are right; with num_generations=4, 91.0%.",
            "All 3 shared seeds agree: the difference on 100 held-out problems, -40.0 points, has a 95% interval over seeds and problems from -49.9 to -30.1 (p below 0.001).",
            "Each of the 3 runs with num_generations=8 is below each of the 4 other runs.",
        ],
        id="unequal seeds",
    ),
    pytest.param(
        {"num_generations=4": [0.9, 0.8], "num_generations=8": [0.95], "num_generations=16": [0.9, 0.81]},
        [
            "No arm differs significantly from num_generations=4 over 2 seeds.",
            "The largest difference on 100 held-out problems, +0.5 points with num_generations=16, has a 95% interval over seeds and problems from -5.9 to +6.9 (p 0.56).",
            "1 arm has fewer than two seeds in common with num_generations=4 and is not tested.",
        ],
        id="an arm with too few seeds",
    ),
    pytest.param(
        {"num_generations=4": [0.0, 0.0], "num_generations=8": [0.0, 0.0]},
        ["In each of 2 seeds all arms had the same share of right answers."],
        id="a tie",
    ),
    pytest.param(
        {"num_generations=4": [0.5, 0.6], "num_generations=8": [0.6, 0.7]},
        [
            "No arm differs significantly from num_generations=4 over 2 seeds.",
            "The largest difference on 100 held-out problems, +10.0 points with num_generations=8, is the same in each of 2 seeds: without spread over seeds there is no test.",
        ],
        id="the same difference in each seed",
    ),
    pytest.param(
        {"num_generations=4": [0.0, 0.0, 0.0], "num_generations=8": [1.0, 1.0, 1.0]},
        [
            "With num_generations=8, 100.0% of answers are right; with num_generations=4, 0.0%.",
            "All 3 seeds agree: the difference on 100 held-out problems, +100.0 points, is the same in each of 3 seeds: without spread over seeds there is no test.",
            "Each of the 3 runs with num_generations=8 is above each of the 3 other runs.",
        ],
        id="all against nothing",
    ),
    pytest.param(
        {"num_generations=4": [0.5, 0.6]},
        [
            "One arm: 55.0% right answers on 100 held-out problems, the mean of 2 seeds (95% interval -8.5 to 118.5). There is no other arm to compare it with."
        ],
        id="one arm",
    ),
    pytest.param(
        {"num_generations=4": [0.5]},
        ["One run: 50.0% right answers on 100 held-out problems. There is no other arm to compare it with."],
        id="one run",
    ),
]


@pytest.mark.parametrize("right,sentences", SITUATIONS)
def test_each_situation_has_its_sentences(tmp_path, right: dict[str, list[float]], sentences: list[str]) -> None:
    assert findings(read_sweep(made_up_sweep(tmp_path, right))) == sentences


@pytest.mark.parametrize(
    ("right", "sentences"),
    [
        (
            {"rewards=default": [0.8], "rewards=placebo": [0.1]},
            [
                "With rewards=placebo, 10.0% of answers are right inside <answer> and 40.0% right as last number; with "
                "rewards=default, 80.0% and 80.0%.",
            ],
        ),
        (
            {"rewards=default": [0.8, 0.81, 0.82], "rewards=placebo": [0.1, 0.12, 0.11]},
            [
                "With rewards=placebo, 11.0% of answers are right inside <answer> and 40.0% right as last number; with "
                "rewards=default, 81.0% and 81.0%.",
            ],
        ),
    ],
    ids=["one seed", "three seeds"],
)
def test_both_accuracies_if_they_differ(tmp_path, right: dict[str, list[float]], sentences: list[str]) -> None:
    made_up_sweep(tmp_path, right)
    for results in tmp_path.glob("*/results.json"):
        written = json.loads(results.read_text())
        if written["after"]["accuracy_strict"] < 0.5:
            written["after"]["accuracy_flexible"] = 0.4
        results.write_text(json.dumps(written))
    assert findings(read_sweep(tmp_path))[:1] == sentences


def test_a_factor_can_matter_although_no_arm_differs_clearly(tmp_path) -> None:
    right = {
        "num_generations=4 optimizer.lr=0.0001": [0.5, 0.7, 0.6],
        "num_generations=4 optimizer.lr=0.0003": [0.7, 0.8, 0.8],
        "num_generations=8 optimizer.lr=0.0001": [0.6, 0.5, 0.5],
        "num_generations=8 optimizer.lr=0.0003": [0.75, 0.75, 0.68],
    }
    assert findings(read_sweep(made_up_sweep(tmp_path, right)))[2] == (
        "Averaged over the other factors, optimizer.lr=0.0003 had 18.0 points more right answers than "
        "optimizer.lr=0.0001 (95% interval +15.8 to +20.2, Holm p 0.0015)."
    )


def test_sentences_name_no_interval_over_problems_without_the_problems(tmp_path) -> None:
    folder = made_up_sweep(tmp_path, {"num_generations=4": [0.90, 0.91, 0.92], "num_generations=8": [0.95, 0.96, 0.98]})
    (folder / "4" / "evaluations" / "after.parquet").unlink()
    assert findings(read_sweep(folder))[1] == (
        "All 3 seeds agree: the difference on 100 held-out problems, +5.3 points, has a 95% interval over seeds from +3.9 "
        "to +6.8 (p 0.0039)."
    )


def test_missing_jobs_and_a_baseline_without_runs_are_named(tmp_path) -> None:
    folder = made_up_sweep(tmp_path, {"num_generations=4": [0.90, 0.91, 0.92], "num_generations=8": [0.95, 0.96, 0.98]})
    names = [f"num_generations={k} seed={seed}" for k in (4, 8) for seed in range(3)]
    plan(folder, *names)
    (folder / "1" / "results.json").unlink()
    said = findings(read_sweep(folder))
    assert said[0] == "With num_generations=8, 96.5% of answers are right; with num_generations=4, 91.0%."
    assert said[1].startswith(
        "Both shared seeds agree, but 100 held-out problems are too few to exclude chance: the difference on 100 "
    )
    assert said[-1] == "1 of 6 jobs is missing from this."
    for job in range(3):
        (folder / str(job) / "results.json").unlink(missing_ok=True)
    assert findings(read_sweep(folder))[1:] == [
        "num_generations=4 has no finished run: the others are compared with num_generations=8.",
        "3 of 6 jobs are missing from this.",
    ]


def test_a_search_names_its_best_trials(tmp_path) -> None:
    right = {"num_generations=4": [0.5], "num_generations=8": [0.8], "num_generations=16": [0.7]}
    folder = made_up_sweep(tmp_path, right)
    made_up(folder / "3", "num_generations=32", right=0.9, stopped_by="pruning", steps=4)
    plan(folder, *right, "num_generations=32", maximize=["accuracy_strict"], minimize=[])
    sweep = read_sweep(folder)
    assert [(job.state, job.reason) for job in sweep.unfinished] == [("pruned", "at step 4")] and not sweep.missing
    assert verdict(sweep) == (
        "Of 3 trials, num_generations=8 had the highest value of right inside <answer>, 80.0%. Each is a single "
        "run, and the best of many is partly luck: run it again with other seeds."
    )
    plan(folder, *right, "num_generations=32", maximize=["accuracy_strict"], minimize=["mean_completion_tokens"])
    assert [trial.name for trial in search_trials(read_sweep(folder)) if trial.best] == list(right)
    assert verdict(read_sweep(folder)).startswith(
        "Of 3 trials, 3 are on the Pareto front of right inside <answer> and mean completion tokens."
    )


def test_an_arm_without_any_run_has_a_row(tmp_path) -> None:
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
