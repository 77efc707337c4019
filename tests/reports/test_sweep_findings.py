"""The findings of a sweep, sentence by sentence."""

import pytest

from grpo.core.errors import UserError
from grpo.reports.baseline import choose_baseline
from grpo.reports.sweep_findings import verdict
from grpo.reports.sweep_results import read_sweep
from grpo.reports.sweep_statistics import (
    search_trials,
)
from tests.helpers.made_up import made_up, made_up_sweep, plan


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
def test_the_findings_state_only_significant_differences(tmp_path, right, words: str) -> None:
    said = verdict(read_sweep(made_up_sweep(tmp_path, right)))
    assert words in said if words.startswith("Averaged over") else said == words


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
