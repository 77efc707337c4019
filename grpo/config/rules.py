"""The values that each setting may take, in addition to its type. `validation.py` applies these rules to a config.

Checks across several settings are in `validation.py`, too.
"""

import re
from collections.abc import Callable
from typing import Any

from grpo.config.data_settings import DATA_SETTINGS
from grpo.config.limits import MAX_COMPLETIONS, MAX_JOBS, MAX_PROBLEMS, MAX_STEPS, MAX_TOKENS, MAX_WEIGHT
from grpo.config.samplers import SAMPLER_SETTINGS
from grpo.config.schema import TRL_SCALES, AuditConfig, Config, EvaluateConfig, PlanConfig, PreflightConfig

# Whether a value is allowed, and the rule as text.
Rule = tuple[Callable[[Any], bool], str]


def one_of(*names: str) -> Rule:
    return lambda value: value in names, f"must be one of {', '.join(names)}"


def between(low: float, high: float, reason: str = "") -> Rule:
    return lambda value: low <= value <= high, f"must be between {low:,} and {high:,}" + (
        f": {reason}" if reason else ""
    )


BELOW_ONE: Rule = (lambda value: 0 <= value < 1, "must be at least 0 and below 1")

# The alarms of grpo/training/alarms.py: the values of stop_on.
ALARM_NAMES = (
    "truncated",
    "constant_reward",
    "no_signal",
    "reward_hacking",
    "length_collapse",
    "length_limit",
    "entropy_collapse",
    "phantom",
    "not_finite",
)

# The losses that clip the probability ratio on both sides.
CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")

# The advantage estimators of grpo/rewards/estimators.py.
ESTIMATOR_NAMES = ("group_std", "batch_std", "no_scaling", "gdpo", "rloo", "reinforce_pp", "maxrl", "passk")

# What counts as a right answer: the values of data.answer.
ANSWER_TYPE_NAMES = ("number", "strict", "text", "choice", "math", "equation", "reasoning_gym")

# Rules of how rewards are executed, for every command that scores completions.
REWARD_RULES: dict[str, Rule] = {
    "reward_timeout": between(0.001, 1_000_000),
    "on_reward_timeout": one_of("score", "stop"),
    "reward_workers": between(0, 1_024),
    "reward_concurrency": between(1, 100_000),
}

_TAG_NAME: Rule = (
    # Hydra turns true and false into True and False.
    lambda value: re.fullmatch(r"(?!(True|False)$)[A-Za-z_][A-Za-z0-9_.-]{0,39}", value) is not None,
    "must be the name of a tag without brackets, as in think: letters A to Z, digits, _, . and -, a letter first, at "
    "most 40 characters, and not true or false",
)
# Rules of the answer format, for every command that scores completions.
FORMAT_RULES: dict[str, Rule] = {
    "format.name": one_of("tags", "boxed"),
    "format.reasoning": _TAG_NAME,
    "format.answer": _TAG_NAME,
}

# Rules of the settings of every command that runs a policy. None is not checked: the type tells where it is allowed.
COMMON_RULES: dict[str, Rule] = {
    **REWARD_RULES,
    "seed": between(0, 2**32 - 1),
    "device": (lambda value: value in ("cpu", "cuda"), "must be one of cpu, cuda; on a Mac use device=cpu bf16=false"),
    "threads": between(1, 1_024),
    "max_completion_length": between(1, MAX_TOKENS),
    "eval_batch_size": between(1, MAX_COMPLETIONS),
    "model.parameters": between(1, 1e14),
    "model.init": one_of("pretrained", "random"),
    "model.num_layers": between(1, 1_000),
    "model.dtype": one_of("float32", "bfloat16"),
    "model.lora_rank": between(0, 8_192),
    "model.lora_alpha": between(1, 65_536),
    "model.lora_dropout": BELOW_ONE,
    "data.name": one_of(*DATA_SETTINGS),
    "data.train_problems": between(1, MAX_PROBLEMS),
    "data.eval_problems": between(1, MAX_PROBLEMS),
    "data.validation_problems": between(1, MAX_PROBLEMS),
    "data.seed": between(0, 2**32 - 1),
    "data.min_steps": between(1, 4),
    "data.max_steps": between(1, 4),
    "data.max_number": between(100, 10_000),
    "data.task": (lambda value: value.isidentifier(), "must be the name of a task of reasoning_gym, as in chain_sum"),
    "data.min_numbers": between(2, 6),
    "data.max_numbers": between(2, 6),
    "data.max_operand": between(10, 1_000),
    "data.max_target": between(10, 10_000),
    "data.answer": one_of(*ANSWER_TYPE_NAMES),
    "rollout.name": one_of(*SAMPLER_SETTINGS),
    "rollout.kernels": one_of("torch", "triton"),
    "rollout.top_p": (lambda value: 0 < value <= 1, "must be above 0 and at most 1"),
    "rollout.top_k": between(0, 1_000_000),
    "rollout.min_p": between(0, 1),
    "rollout.repetition_penalty": between(0.01, 100),
    "rollout.correction": one_of("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "rollout.correction_max": between(1, 1_000_000, "the ratio is 1 where the engine and the trainer agree"),
    "rollout.correction_min": between(0, 1),
    "rollout.memory": (lambda value: 0 < value < 1, "must be above 0 and below 1"),
    "rollout.tensor_parallel": between(1, 1_024),
    "rollout.server": (
        lambda value: re.fullmatch(r"https?://[\w.\[\]:-]+(/[\w./-]*)?", value) is not None,
        "must be an address such as http://localhost:8000",
    ),
    "rollout.server_timeout": between(0, 86_400),
    "rollout.group_port": between(1, 65535),
}

# Rules of the other settings of each command.
RULES: dict[type, dict[str, Rule]] = {
    Config: {
        "num_generations": between(2, 65_536, "an advantage compares the completions of one prompt"),
        "prompts_per_step": between(1, 65_536),
        "micro_batch_size": between(1, MAX_COMPLETIONS),
        "max_steps": between(1, MAX_STEPS),
        "num_train_epochs": between(0.0001, 100_000),
        "max_prompt_length": between(1, MAX_TOKENS),
        "prefix_attention": one_of("sdpa", "flex"),
        "logging_steps": between(1, MAX_STEPS),
        "eval_steps": between(1, MAX_STEPS),
        "eval_samples": between(2, 256, "one completion of each problem is greedy in any case; null samples no others"),
        "save_steps": between(1, MAX_STEPS),
        "save_total_limit": between(2, MAX_STEPS, "if one checkpoint is damaged, another must remain"),
        "on_nonfinite": one_of("stop", "skip"),
        "alarm_window": between(2, MAX_STEPS),
        "stop_on": (lambda value: set(value) <= set(ALARM_NAMES), f"must be a list of {', '.join(ALARM_NAMES)}"),
        "temperature": between(0.0001, 100),
        "optimizer.name": one_of("adamw_torch", "adamw_8bit", "adafactor", "sgd"),
        "optimizer.lr": between(1e-12, 100),
        "optimizer.weight_decay": between(0, 100),
        "optimizer.beta1": BELOW_ONE,
        "optimizer.beta2": BELOW_ONE,
        "optimizer.max_grad_norm": between(1e-9, 1e9),
        "optimizer.schedule": one_of("cosine", "linear", "constant", "constant_with_warmup"),
        "optimizer.warmup": (
            lambda value: 0 <= value < 1 or MAX_STEPS >= value == int(value) >= 1,
            f"must be a fraction of the steps below 1, or a whole number of steps up to {MAX_STEPS:,}",
        ),
        "algorithm.loss_type": one_of(*CLIPPED_LOSSES, "cispo", "sapo", "vespo"),
        "algorithm.beta": between(0, 1_000),
        "algorithm.estimator": one_of(*ESTIMATOR_NAMES),
        "algorithm.scale_rewards": one_of(*TRL_SCALES),
        "algorithm.pass_k": between(2, 65_536, "k = 1 is estimator=group_std"),
        "algorithm.gate": (
            lambda value: value in ("off", "correctness", "none_right"),
            'must be one of off, correctness, none_right; in a YAML file in quotes, "off", because off is false there',
        ),
        "algorithm.resample": between(0, 1_000),
        "algorithm.epsilon": between(1e-6, 100),
        "algorithm.epsilon_high": between(1e-6, 100),
        "algorithm.delta": between(1, 1_000_000),
        "algorithm.top_entropy_quantile": (lambda value: 0 < value <= 1, "must be above 0 and at most 1"),
        "algorithm.entropy_coef": between(0, 100),
        "algorithm.entropy_target": between(1e-6, 100),
        "algorithm.off_policy_mask_threshold": between(1e-6, 1_000),
        "algorithm.importance_sampling_level": one_of("token", "sequence"),
        "algorithm.num_iterations": between(1, 1_000),
        "algorithm.steps_per_generation": between(1, 1_000),
        "tracking.name": one_of("wandb", "trackio", "tensorboard", "none"),
        "tracking.completions_every": between(1, MAX_STEPS),
        "tracking.completions_rows": between(0, 100_000),
    },
    EvaluateConfig: {
        "name": (
            lambda value: re.fullmatch(r"[\w.-]{0,99}\w", value) is not None,
            "must be a file name of at most 100 letters, digits, dots, dashes and underscores",
        ),
        "samples": between(1, 256),
        "temperature": (
            lambda value: value == 0 or 0.0001 <= value <= 100,
            "must be 0 for greedy decoding, or between 0.0001 and 100",
        ),
        "show": between(0, MAX_PROBLEMS),
    },
    AuditConfig: {
        **REWARD_RULES,
        "fail_on": one_of("warning", "note"),
        "data.answer": one_of(*ANSWER_TYPE_NAMES),
    },
}
RULES[PlanConfig] = RULES[Config] | {
    "world_size": between(1, 1_000_000),
    "sharding": one_of("ddp", "zero2", "zero3", "fsdp2"),
    "reward_seconds": between(0, 1_000_000),
    "hardware.device": one_of("cpu", "cuda"),
    "hardware.memory": between(0.1, 1_000_000),
    "hardware.flops_bf16": between(1, 1e21),
    "hardware.flops_fp32": between(1, 1e21),
    "hardware.bandwidth": between(1, 1e18),
    "hardware.link": between(1, 1e18),
}
RULES[PreflightConfig] = RULES[PlanConfig] | {
    "problems": between(1, MAX_PROBLEMS),
    "samples": between(2, 1_000, "a group has at least two completions"),
    "minutes": between(0.01, 100_000),
    "fail_on": one_of("warning", "note"),
}

WEIGHT_RULE = between(-MAX_WEIGHT, MAX_WEIGHT, "advantages are computed in float32")
# Rules of a weight schedule, {start: 1.0, end: 0.0, until: 0.5}.
SCHEDULE_RULES: dict[str, Rule] = {
    "start": WEIGHT_RULE,
    "end": WEIGHT_RULE,
    "until": (lambda value: 0 < value <= 1, "must be above 0 and at most 1: a share of the optimizer steps"),
}

# Rules of hydra.sweeper, without that prefix.
SWEEPER_RULES: dict[str, Rule] = {
    "parallel": between(1, 1_000),
    "step_seconds": between(0.001, 1_000_000),
    "n_trials": between(1, MAX_JOBS),
    "seed": between(0, 2**31),
    "trial": between(0, MAX_JOBS),
}
