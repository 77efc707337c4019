"""Checks across the settings of `algorithm`: which of them exclude each other.

`grpo.config.validation` calls it. It needs no torch.
"""

from grpo.config.schema import TRL_SCALES, AlgorithmConfig
from grpo.core.errors import UserError


def check_algorithm(algorithm: AlgorithmConfig, num_generations: int) -> None:
    """Check the settings of the advantages and of the loss.

    Raises:
        UserError: two settings exclude each other.
    """
    if algorithm.scale_rewards is not None and algorithm.estimator not in TRL_SCALES.values():
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
