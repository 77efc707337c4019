"""Which settings each sampler of `conf/rollout/` has, and which of them change the distribution of its samples.

Read by the validation of configs and by whoever chooses a sampler. It must not know how a sampler works.
"""

from dataclasses import replace

from grpo.config.schema import RolloutConfig

# Parameters that change the distribution from which tokens are sampled.
SAMPLING_PARAMETERS = ("top_p", "top_k", "min_p", "repetition_penalty")

# Importance sampling between an engine and the trainer, as conf/rollout/vllm.yaml explains it.
CORRECTION_SETTINGS = ("correction", "correction_max", "correction_min")

# The settings of each sampler, in addition to its name.
SAMPLER_SETTINGS: dict[str, tuple[str, ...]] = {
    "fast": ("native", "kernels"),
    "generate": SAMPLING_PARAMETERS,
    "continuous_batching": (),
    "vllm": (*SAMPLING_PARAMETERS, *CORRECTION_SETTINGS, "memory", "sleep", "tensor_parallel"),
    "vllm_server": (*SAMPLING_PARAMETERS, *CORRECTION_SETTINGS, "server", "server_timeout", "group_port"),
}

VLLM_ENGINES = ("vllm", "vllm_server")

# Samplers of other projects. TRL calls them in training; evaluation never uses them.
ENGINES = ("continuous_batching", *VLLM_ENGINES)

# Values with which samples come from the policy's own distribution.
NEUTRAL_SAMPLING: dict[str, float | None] = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}


def non_neutral_sampling(rollout: RolloutConfig) -> dict[str, float]:
    """The sampling parameters with which samples come from another distribution than the policy's own."""
    parameters = {name: getattr(rollout, name) for name in NEUTRAL_SAMPLING}
    return {name: value for name, value in parameters.items() if value is not None and value != NEUTRAL_SAMPLING[name]}


def evaluation_rollout(rollout: RolloutConfig) -> RolloutConfig:
    """The sampler that evaluates a run trained with `rollout`: in this process, from the policy's distribution."""
    if rollout.name in ENGINES:
        return RolloutConfig("fast", native=True, kernels="torch")
    return replace(rollout, top_p=None, top_k=None, min_p=None, repetition_penalty=None)


def sampler_in_process(rollout: RolloutConfig) -> RolloutConfig:
    """The sampler that samples in this process, and from the same distribution, as the training with `rollout` does."""
    if rollout.name not in ENGINES:
        return rollout
    if parameters := non_neutral_sampling(rollout):
        return RolloutConfig("generate", **parameters)  # type: ignore[arg-type]
    return RolloutConfig("fast", native=True, kernels="torch")
