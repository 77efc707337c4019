"""Which settings each sampler of `conf/rollout/` has, and which of them change the distribution of its samples."""

from dataclasses import replace

from grpo.config.schema import RolloutConfig

# What each sampler of conf/rollout/ may be told; what has no None among its values must be told.
SAMPLING_PARAMETERS = ("top_p", "top_k", "min_p", "repetition_penalty")

CORRECTION_SETTINGS = ("correction", "correction_max", "correction_min")

SAMPLER_SETTINGS: dict[str, tuple[str, ...]] = {
    "fast": ("native",),
    "generate": SAMPLING_PARAMETERS,
    "continuous_batching": (),
    "vllm": (*SAMPLING_PARAMETERS, *CORRECTION_SETTINGS, "memory", "sleep", "tensor_parallel"),
    "vllm_server": (*SAMPLING_PARAMETERS, *CORRECTION_SETTINGS, "server", "server_timeout", "group_port"),
}

VLLM_ENGINES = ("vllm", "vllm_server")

# Those of other projects: they train, by way of TRL, and never evaluate.
ENGINES = ("continuous_batching", *VLLM_ENGINES)

# What these are where samples come from the policy's own distribution.
NEUTRAL_SAMPLING: dict[str, float | None] = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}


def non_neutral_sampling(rollout: RolloutConfig) -> dict[str, float]:
    """The settings that make samples come from another distribution than the policy's own."""
    given = {name: getattr(rollout, name) for name in NEUTRAL_SAMPLING}
    return {name: value for name, value in given.items() if value is not None and value != NEUTRAL_SAMPLING[name]}


def evaluation_rollout(rollout: RolloutConfig) -> RolloutConfig:
    """How a run that trains with `rollout` is evaluated: from the policy's own distribution, and in this process."""
    if rollout.name in ENGINES:
        return RolloutConfig("fast", native=True)
    return replace(rollout, top_p=None, top_k=None, min_p=None, repetition_penalty=None)
