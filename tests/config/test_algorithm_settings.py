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
        (
            ["algorithm=dr_grpo", "algorithm.scale_rewards=batch"],
            "algorithm.scale_rewards=batch: is another name of algorithm.estimator=batch_std, and "
            "algorithm.estimator=no_scaling is chosen; leave out one of them.",
        ),
        (
            ["+rewards.overlong=1", "reward_args.overlong.free=100"],
            "reward_args.overlong.free=100: must be at least 0 and below max_completion_length=64.",
        ),
        (
            ["+rewards.overlong=1", "reward_args.overlong={free: 100, limit: 100}"],
            "reward_args.overlong.free=100: must be at least 0 and below reward_args.overlong.limit=100.",
        ),
        (
            ["+rewards.overlong=1", "reward_args.overlong.limit=0"],
            "reward_args.overlong.limit=0: must be at least 1.",
        ),
        (
            ["algorithm.loss_type=cispo"],
            "algorithm.epsilon_high=null: with loss_type=cispo it is the largest ratio itself, at least 1, as in "
            "algorithm.epsilon_high=5.0.",
        ),
        (
            ["algorithm=sapo", "algorithm.epsilon_high=0.28"],
            "algorithm.epsilon_high=0.28: loss_type=sapo does not clip; set algorithm.epsilon_high=null.",
        ),
        (
            ["algorithm=vespo", "algorithm.delta=4"],
            "algorithm.delta=4.0: loss_type=vespo has no such bound; set algorithm.delta=null, or use one of grpo, bnpo, "
            "dr_grpo, dapo, luspo.",
        ),
        (
            ["algorithm.delta=1.25", "algorithm.epsilon_high=0.28"],
            "algorithm.delta=1.25: must be above 1.28, the upper clip bound 1 + epsilon_high; INTELLECT-2 uses "
            "algorithm.delta=4.0.",
        ),
        (
            ["algorithm.loss_type=luspo"],
            "algorithm.importance_sampling_level=token: loss_type=luspo needs "
            "algorithm.importance_sampling_level=sequence.",
        ),
        (
            ["algorithm=gspo", "algorithm.loss_type=vespo", "algorithm.epsilon_high=null"],
            "algorithm.importance_sampling_level=sequence: loss_type=vespo needs "
            "algorithm.importance_sampling_level=token.",
        ),
        (
            ["rollout=vllm", "device=cuda", "algorithm=vespo", "rollout.correction=sequence_mask"],
            "rollout.correction=sequence_mask: loss_type=vespo has a weight of its own for each completion; use "
            "rollout.correction=token_truncate or token_mask.",
        ),
        (
            ["algorithm.off_policy_mask_threshold=0.5"],
            "algorithm.off_policy_mask_threshold=0.5: no completion is of an older policy, so nothing is masked; add "
            "algorithm.num_iterations=2 or algorithm.steps_per_generation=4.",
        ),
        (["algorithm.top_entropy_quantile=0"], "algorithm.top_entropy_quantile=0.0: must be above 0 and at most 1."),
        (["algorithm.entropy_coef=-1"], "algorithm.entropy_coef=-1.0: must be between 0 and 100."),
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
    same = compose([f"algorithm.estimator={estimator}"])
    assert config_from_saved(saved, Config).algorithm == same.algorithm
    assert same.algorithm.advantage_estimator == estimator
    assert compose([f"algorithm.scale_rewards={scale}"]).algorithm.advantage_estimator == estimator
