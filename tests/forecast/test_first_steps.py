"""Simulated first steps: their metrics are those that training would log for the same groups."""

import numpy as np
import pytest

from grpo.core.metric_names import CORRECT, MIXED, PHANTOM, ZERO_STD, advantage_share
from grpo.forecast.first_steps import StepSettings, simulate_first_steps
from grpo.rewards.advantages import attribute, attribution_metrics
from grpo.rewards.estimators import get_estimator

NAMES = ["correctness", "style"]
# Two kinds of problems, as often as each other: with right answers sometimes, and never.
CORRECT_SAMPLES = np.array([[True, False, False, True], [False] * 4] * 10)
SCORES = np.stack([CORRECT_SAMPLES * 2.0, np.tile([0.0, 1.0, 0.0, 1.0], (20, 1))], axis=-1)


def settings(k: int, prompts: int, estimator: str = "group_std", gate: str = "off") -> StepSettings:
    return StepSettings(NAMES, np.ones(2), "correctness", k, prompts, get_estimator(estimator, 2), gate)


@pytest.mark.parametrize("estimator", ["group_std", "no_scaling", "gdpo", "batch_std", "rloo"])
def test_a_step_of_all_problems_logs_what_training_logs(estimator: str) -> None:
    simulated = simulate_first_steps(SCORES, CORRECT_SAMPLES, settings(4, 200, estimator))
    step = attribute(SCORES.reshape(-1, 2), np.ones(2), 4, get_estimator(estimator, 2))
    for name, value in attribution_metrics(step, NAMES, CORRECT_SAMPLES.reshape(-1), 4).items():
        assert float(np.mean(simulated[name])) == pytest.approx(value, abs=0.04), name


def test_the_range_of_a_small_step_is_wide_and_that_of_a_large_one_narrow() -> None:
    small, large = (simulate_first_steps(SCORES, CORRECT_SAMPLES, settings(4, prompts))[MIXED] for prompts in (2, 40))
    assert set(small) == {0.0, 0.5, 1.0} and np.mean(small) == pytest.approx(0.5, abs=0.05)
    assert np.std(large) < np.std(small) / 2
    # The 20 problems themselves are drawn, too.
    assert np.std(large) > np.std(small) / np.sqrt(20)


def test_smaller_groups_than_samples() -> None:
    simulated = simulate_first_steps(SCORES, CORRECT_SAMPLES, settings(2, 8))
    assert np.mean(simulated[MIXED]) == pytest.approx(0.5 * 4 / 6, abs=0.02)
    assert np.mean(simulated[CORRECT]) == pytest.approx(0.25, abs=0.02)


def test_a_gate_silences_groups_without_a_difference_in_right_answers() -> None:
    off = simulate_first_steps(SCORES, CORRECT_SAMPLES, settings(4, 4))
    gated = simulate_first_steps(SCORES, CORRECT_SAMPLES, settings(4, 4, gate="correctness"))
    assert np.mean(off[PHANTOM]) > 0.3 and np.nanmean(gated[PHANTOM]) == 0.0
    assert np.mean(off[ZERO_STD]) == 0.0 and np.mean(gated[ZERO_STD]) == pytest.approx(0.5, abs=0.05)
    shares = [np.nanmean(each[advantage_share("correctness")]) for each in (off, gated)]
    assert shares[1] > shares[0]
