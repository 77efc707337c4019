"""Checks across the settings of `algorithm`: which of them exclude each other.

`grpo.config.validation` calls it. It needs no torch.
"""

from grpo.config.rules import CLIPPED_LOSSES
from grpo.config.samplers import VLLM_ENGINES
from grpo.config.schema import TRL_SCALES, AlgorithmConfig, Config
from grpo.core.errors import UserError


def check_algorithm(config: Config) -> None:
    """Check the settings of the advantages and of the loss.

    Raises:
        UserError: two settings exclude each other.
    """
    _check_estimator(config.algorithm, config.num_generations)
    _check_clipping(config.algorithm)
    _check_importance_sampling(config)


def _check_estimator(algorithm: AlgorithmConfig, num_generations: int) -> None:
    if algorithm.scale_rewards is not None and algorithm.estimator not in ("group_std", algorithm.advantage_estimator):
        raise UserError(
            f"algorithm.scale_rewards={algorithm.scale_rewards}: is another name of "
            f"algorithm.estimator={TRL_SCALES[algorithm.scale_rewards]}, and algorithm.estimator={algorithm.estimator} "
            "is chosen; leave out one of them."
        )
    if algorithm.estimator == "passk" and algorithm.pass_k >= num_generations:
        raise UserError(
            f"algorithm.pass_k={algorithm.pass_k}: must be below num_generations={num_generations}, because sets of k "
            f"completions are compared. Lower it or raise num_generations, num_generations={2 * algorithm.pass_k}."
        )


def _check_clipping(algorithm: AlgorithmConfig) -> None:
    loss, high = algorithm.loss_type, algorithm.epsilon_high
    if loss == "cispo" and (high is None or high < 1):
        raise UserError(
            f"algorithm.epsilon_high={'null' if high is None else high}: with loss_type=cispo it is the largest ratio "
            "itself, at least 1, as in algorithm.epsilon_high=5.0."
        )
    if loss in ("sapo", "vespo") and high is not None:
        raise UserError(
            f"algorithm.epsilon_high={high}: loss_type={loss} does not clip; set algorithm.epsilon_high=null."
        )
    if algorithm.delta is None:
        return
    if loss not in CLIPPED_LOSSES:
        raise UserError(
            f"algorithm.delta={algorithm.delta}: loss_type={loss} has no such bound; set algorithm.delta=null, or use "
            f"one of {', '.join(CLIPPED_LOSSES)}."
        )
    upper = 1 + (algorithm.epsilon if high is None else high)
    if algorithm.delta <= upper:
        raise UserError(
            f"algorithm.delta={algorithm.delta}: must be above {upper:g}, the upper clip bound 1 + epsilon_high; "
            "INTELLECT-2 uses algorithm.delta=4.0."
        )


def _check_importance_sampling(config: Config) -> None:
    algorithm, rollout = config.algorithm, config.rollout
    needed = {"luspo": "sequence", "vespo": "token"}.get(algorithm.loss_type)
    if needed and algorithm.importance_sampling_level != needed:
        raise UserError(
            f"algorithm.importance_sampling_level={algorithm.importance_sampling_level}: "
            f"loss_type={algorithm.loss_type} needs algorithm.importance_sampling_level={needed}."
        )
    if algorithm.loss_type == "vespo" and rollout.correction in ("sequence_truncate", "sequence_mask"):
        raise UserError(
            f"rollout.correction={rollout.correction}: loss_type=vespo has a weight of its own for each completion; "
            "use rollout.correction=token_truncate or token_mask."
        )
    on_policy = algorithm.num_iterations == algorithm.steps_per_generation == 1 and rollout.name not in VLLM_ENGINES
    if algorithm.off_policy_mask_threshold is not None and on_policy:
        raise UserError(
            f"algorithm.off_policy_mask_threshold={algorithm.off_policy_mask_threshold}: no completion is of an older "
            "policy, so nothing is masked; add algorithm.num_iterations=2 or algorithm.steps_per_generation=4."
        )
