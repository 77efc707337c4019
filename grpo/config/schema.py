"""The typed schema of `conf/`: one dataclass per group and per command, registered with Hydra.

The values and their meanings are in `conf/*.yaml`. A field has a default here if older runs did not save it, or if only
some options of a group have it. Nothing in `grpo.config` imports torch.
"""

import os
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

DEFAULT_CORRECT_BY = "correctness"  # the value of correct_by in conf/common.yaml, and of runs that did not save it


# data.solve_rate in every file of conf/data/.
SOLVE_RATE = (0.1, 0.9)
# The values of algorithm.scale_rewards -> the estimators that they select.
TRL_SCALES = {"group": "group_std", "batch": "batch_std", "none": "no_scaling"}


def free_mapping() -> Any:
    """An empty mapping to which `NAME.KEY=VALUE` adds keys: unlike the other settings, it takes any name without +."""
    return DictConfig({}, key_type=str, flags={"struct": False})


@dataclass
class ModelConfig:
    """The policy, and how it is loaded and trained."""

    path: str
    revision: str | None
    parameters: float | None
    init: str
    num_layers: int | None
    dtype: str
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    load_in_4bit: bool
    trust_pickle: bool
    trust_remote_code: bool
    gguf: str | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    merge_adapter: bool = False

    @property
    def name(self) -> str:
        """The place of the weights: a hub id, an embedded policy, a folder or a GGUF file."""
        return self.path if self.gguf is None else os.path.join(self.path, self.gguf)

    @property
    def setting(self) -> str:
        """The setting that selects the weights, with its value, as messages begin with it."""
        return f"model.path={self.path}" if self.gguf is None else f"model.gguf={self.name}"

    @property
    def trains_adapter(self) -> bool:
        """Whether LoRA adapters are trained instead of all weights."""
        return self.lora_rank > 0 or (self.adapter is not None and not self.merge_adapter)


@dataclass
class DataConfig:
    """A dataset: its problems, and what counts as a right answer."""

    name: str
    path: str | None
    train_problems: int | None
    eval_problems: int | None
    validation_problems: int | None
    seed: int
    answer: str
    # only of arithmetic
    min_steps: int | None = None
    max_steps: int | None = None
    max_number: int | None = None
    task: str | None = None  # only of reasoning_gym
    # only of countdown
    min_numbers: int | None = None
    max_numbers: int | None = None
    max_operand: int | None = None
    max_target: int | None = None
    # only of datasets in files and of the hub
    train_file: str | None = None
    test_file: str | None = None
    validation_file: str | None = None
    subset: str | None = None
    split: str | None = None
    question_column: str | None = None
    answer_column: str | None = None
    answer_marker: str | None = None
    filter: Any = None  # a mapping; OmegaConf would not add keys to an empty one
    difficulty: str | None = None
    solve_rate: list[float] = field(default_factory=lambda: list(SOLVE_RATE))
    curriculum: Any = None  # a mapping


@dataclass
class FormatConfig:
    """The answer format; `reasoning` and `answer` are the names of its tags, and only those of tags."""

    name: str = "tags"
    reasoning: str | None = "reasoning"
    answer: str | None = "answer"


@dataclass
class OptimizerConfig:
    """The optimizer and its learning rate schedule."""

    name: str
    lr: float
    weight_decay: float
    beta1: float
    beta2: float
    max_grad_norm: float
    schedule: str
    warmup: float


@dataclass
class AlgorithmConfig:
    """The loss and the advantages."""

    loss_type: str
    beta: float
    kl_bias_correction: bool
    epsilon: float
    epsilon_high: float | None
    importance_sampling_level: str
    num_iterations: int
    steps_per_generation: int
    mask_truncated_completions: bool
    estimator: str = "group_std"
    scale_rewards: str | None = None
    pass_k: int = 4
    gate: str = "off"
    delta: float | None = None
    top_entropy_quantile: float = 1.0
    entropy_coef: float = 0.0
    entropy_target: float | None = None
    off_policy_mask_threshold: float | None = None
    resample: int = 0

    @property
    def advantage_estimator(self) -> str:
        """The name of the estimator, which `scale_rewards` may select by its name in TRL."""
        return TRL_SCALES[self.scale_rewards] if self.scale_rewards is not None else self.estimator


@dataclass
class RolloutConfig:
    """A sampler of completions. `SAMPLER_SETTINGS` of `samplers.py` says which of these settings each sampler has."""

    name: str
    native: bool | None = None
    kernels: str | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    correction: str | None = None
    correction_max: float | None = None
    correction_min: float | None = None
    memory: float | None = None
    sleep: bool | None = None
    tensor_parallel: int | None = None
    server: str | None = None
    server_timeout: float | None = None
    group_port: int | None = None


@dataclass
class TrackingConfig:
    """The experiment tracker."""

    name: str
    project: str | None
    run_name: str | None
    group: str | None
    completions_every: int
    completions_rows: int
    entity: str | None = None


@dataclass(kw_only=True)
class CommonConfig:
    """The settings of every command that runs a policy."""

    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    format: FormatConfig = field(default_factory=FormatConfig)
    rewards: dict[str, Any]
    reward_files: list[str]
    correct_by: str = DEFAULT_CORRECT_BY
    placebo: bool = False
    reward_args: dict[str, Any] = field(default_factory=free_mapping)
    reward_timeout: float | None = None
    on_reward_timeout: str = "score"
    reward_workers: int = 0
    reward_concurrency: int = 16
    seed: int
    device: str
    threads: int | None
    bf16: bool
    deterministic: bool
    max_completion_length: int
    system_prompt: str
    chat_template_kwargs: dict[str, Any] = field(default_factory=free_mapping)
    eval_batch_size: int


@dataclass(kw_only=True)
class Config(CommonConfig):
    """A training run."""

    optimizer: OptimizerConfig
    algorithm: AlgorithmConfig
    tracking: TrackingConfig
    num_generations: int
    prompts_per_step: int
    micro_batch_size: int
    max_steps: int | None
    num_train_epochs: float
    max_prompt_length: int | None
    temperature: float
    activation_checkpointing: bool
    share_prompts: bool
    prefix_attention: str = "sdpa"
    logging_steps: int
    eval_steps: int | None
    eval_samples: int | None = None
    save_steps: int | None
    save_total_limit: int | None
    watch: bool = True
    resume: str | None
    trust_run: bool
    on_nonfinite: str
    alarm_window: int
    stop_on: list[str]


@dataclass(kw_only=True)
class EvaluateConfig(CommonConfig):
    """An evaluation."""

    run: str | None
    baseline: str | None
    trust_run: bool
    completions: str | None
    name: str | None
    samples: int
    k: list[int] | None
    temperature: float
    show: int


@dataclass
class AuditDataConfig:
    """What counts as a right answer in the audit."""

    answer: str


@dataclass(kw_only=True)
class AuditConfig:
    """A test of a stack of rewards, without policy and problems."""

    data: AuditDataConfig
    format: FormatConfig
    system_prompt: str
    rewards: dict[str, Any]
    reward_files: list[str]
    correct_by: str
    placebo: bool
    reward_args: dict[str, Any] = field(default_factory=free_mapping)
    reward_timeout: float | None
    on_reward_timeout: str
    reward_workers: int
    reward_concurrency: int
    completions: str | None
    probes: str | None
    fail_on: str | None


@dataclass
class HardwareConfig:
    """A device of the planner: memory in GiB, rates in FLOP/s, bandwidths in bytes/s."""

    name: str
    device: str
    memory: float
    flops_bf16: float
    flops_fp32: float
    bandwidth: float
    link: float


@dataclass(kw_only=True)
class PlanConfig(Config):
    """A training run, and the hardware that it would run on."""

    world_size: int
    sharding: str
    reward_seconds: float | None
    hardware: HardwareConfig | None = None


@dataclass(kw_only=True)
class PreflightConfig(PlanConfig):
    """A training run whose policy is asked before it is trained."""

    problems: int
    samples: int | None
    minutes: float | None
    fail_on: str | None


@dataclass
class SweeperConfig:
    """The settings of conf/hydra/sweeper/grid.yaml, which optuna.yaml has as well."""

    params: dict[str, Any]
    parallel: int | None
    step_seconds: float | None
    share_evaluation: bool


@dataclass
class SearchConfig(SweeperConfig):
    """The settings of conf/hydra/sweeper/optuna.yaml."""

    n_trials: int
    maximize: list[str]
    minimize: list[str]
    pruning: bool
    seed: int
    storage: str | None
    study_name: str
    trial: int | None


def extension(schema: type[Any], base: type[Any]) -> DictConfig:
    """A node of `schema` that is composed after the values of `base` and leaves them as they are."""
    node: DictConfig = OmegaConf.structured(schema)
    for item in fields(base):
        node[item.name] = MISSING
    return node


AnyConfig = CommonConfig | AuditConfig  # the settings of a command

ConfigStore.instance().store(name="schema", node=Config)
ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
ConfigStore.instance().store(name="audit_schema", node=AuditConfig)
ConfigStore.instance().store(name="plan_schema", node=extension(PlanConfig, Config))
ConfigStore.instance().store(name="preflight_schema", node=extension(PreflightConfig, PlanConfig))


def divide(number: int, divisor: int) -> int:
    """The resolver of `${divide:64,${num_generations}}`.

    Raises:
        ValueError: the division has a remainder.
    """
    if divisor < 1 or number % divisor:
        raise ValueError(f"{number} cannot be divided by {divisor}")
    return number // divisor


def full_or_lora(full: float, lora: float, *, _root_: DictConfig) -> float:
    """The resolver of `${full_or_lora:5e-6,5e-5}`: one value if all weights are trained, another for LoRA adapters."""
    model = _root_.model
    return lora if model.lora_rank > 0 or (model.adapter is not None and not model.merge_adapter) else full


OmegaConf.register_new_resolver("divide", divide, replace=True)
OmegaConf.register_new_resolver("full_or_lora", full_or_lora, replace=True)
