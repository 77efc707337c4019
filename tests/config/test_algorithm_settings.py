"""Settings of the algorithm that exclude each other, refused in one line before torch; settings of older runs."""

from dataclasses import asdict

import pytest

from grpo.config.composition import compose, config_from_saved
from grpo.config.schema import Config
from tests.helpers.refusals import refusal_of

# The settings of conf/algorithm/ that such runs saved, but for scale_rewards.
OLD = (
    *("loss_type", "beta", "kl_bias_correction", "epsilon", "epsilon_high", "importance_sampling_level"),
    *("num_iterations", "steps_per_generation", "mask_truncated_completions"),
)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["algorithm=passk", "num_generations=4"],
            "algorithm.pass_k=4: must be below num_generations=4, because sets of k completions are compared. Lower it "
            "or raise num_generations, num_generations=8.",
        ),
        (
            ["algorithm=rloo", "algorithm.scale_rewards=batch"],
            "algorithm.scale_rewards=batch: is another name of algorithm.estimator=batch_std, and "
            "algorithm.estimator=rloo is chosen; leave out one of them.",
        ),
    ],
)
def test_settings_that_exclude_each_other(overrides: list[str], message: str) -> None:
    assert refusal_of(*overrides) == message


@pytest.mark.parametrize(
    ("scale", "estimator"), [("group", "group_std"), ("batch", "batch_std"), ("none", "no_scaling")]
)
def test_settings_of_a_run_from_before_there_were_estimators(scale: str, estimator: str) -> None:
    saved = asdict(compose())
    saved["algorithm"] = {name: saved["algorithm"][name] for name in OLD} | {"scale_rewards": scale}
    algorithm = config_from_saved(saved, Config).algorithm
    assert algorithm.advantage_estimator == estimator and algorithm.gate == "off"
