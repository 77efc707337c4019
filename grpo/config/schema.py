"""The typed schema of `conf/`, the checks across its fields, and readable words for what Hydra refuses.

Values and what they mean stand in `conf/*.yaml`; here stand the types. Nothing here imports torch.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from grpo.config.hints import hint
from grpo.config.overrides import BROKEN_INTERPOLATION, MOST_JOBS, typed_in_shell, unreadable
from grpo.core.errors import UserError, first_line, nearest, shortened
from grpo.core.files import path_fault, read, yaml_settings
from grpo.core.redact import from_environment, relocated, unread, unset_variables

# A checkout has conf/ beside the package; a wheel carries it inside.
CONF = next(
    folder for folder in (Path(__file__).parents[2] / "conf", Path(__file__).parents[1] / "conf") if folder.is_dir()
)


@dataclass
class ModelConfig:
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


@dataclass
class DataConfig:
    name: str
    path: str | None
    train_problems: int | None
    eval_problems: int | None
    validation_problems: int | None
    seed: int
    answer_match: str
    # arithmetic alone
    min_steps: int | None = None
    max_steps: int | None = None
    max_number: int | None = None
    # gsm8k and jsonl
    train_file: str | None = None
    test_file: str | None = None
    validation_file: str | None = None
    question_column: str | None = None
    answer_column: str | None = None
    gold: str | None = None


@dataclass
class OptimizerConfig:
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
    loss_type: str
    beta: float
    kl_bias_correction: bool
    scale_rewards: str
    epsilon: float
    epsilon_high: float | None
    importance_sampling_level: str
    num_iterations: int
    steps_per_generation: int
    mask_truncated_completions: bool


@dataclass
class RolloutConfig:
    """Which of these each sampler has stands in `SETTINGS`."""

    name: str
    native: bool | None = None
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
    name: str
    project: str | None
    run_name: str | None
    group: str | None
    completions_every: int
    completions_rows: int
    entity: str | None = None


@dataclass
class Common:
    """What every command that runs a policy is told."""

    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    rewards: dict[str, float]
    reward_files: list[str]
    seed: int
    device: str
    threads: int | None
    bf16: bool
    deterministic: bool
    max_completion_length: int
    system_prompt: str
    eval_batch_size: int


@dataclass
class Config(Common):
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
    logging_steps: int
    eval_steps: int | None
    save_steps: int | None
    save_total_limit: int | None
    resume: str | None
    trust_run: bool
    on_nonfinite: str
    alarm_window: int
    stop_on: list[str]


@dataclass
class EvaluateConfig(Common):
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
    answer_match: str


@dataclass
class AuditConfig:
    """A stack of rewards put to the test; no policy, no problems."""

    data: AuditDataConfig
    rewards: dict[str, float]
    reward_files: list[str]
    completions: str | None
    fail_on: str | None


@dataclass
class HardwareConfig:
    name: str
    device: str
    memory: float
    flops_bf16: float
    flops_fp32: float
    bandwidth: float
    link: float


@dataclass
class PlanConfig(Config):
    """A training run, and what it shall run on."""

    world_size: int
    sharding: str
    hardware: HardwareConfig | None = None


@dataclass
class SweeperConfig:
    """conf/hydra/sweeper/grid.yaml, and what optuna.yaml shares with it."""

    params: dict[str, Any]
    parallel: int | None
    step_seconds: float | None


@dataclass
class SearchConfig(SweeperConfig):
    """conf/hydra/sweeper/optuna.yaml"""

    n_trials: int
    maximize: list[str]
    minimize: list[str]
    pruning: bool
    seed: int
    storage: str | None
    study_name: str
    trial: int | None


AnyConfig = Common | AuditConfig

ConfigStore.instance().store(name="schema", node=Config)
ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
ConfigStore.instance().store(name="audit_schema", node=AuditConfig)
ConfigStore.instance().store(name="plan_schema", node=PlanConfig)


def divide(whole: int, part: int) -> int:
    """`${divide:64,${num_generations}}`

    Raises:
        ValueError: something would be left over.
    """
    if part < 1 or whole % part:
        raise ValueError(f"{whole} cannot be divided by {part}")
    return whole // part


OmegaConf.register_new_resolver("divide", divide, replace=True)

Rule = tuple[Callable[[Any], bool], str]


def one_of(*names: str) -> Rule:
    return lambda value: value in names, f"must be one of {', '.join(names)}"


def between(low: float, high: float, reason: str = "") -> Rule:
    return lambda value: low <= value <= high, f"must be between {low:,} and {high:,}" + (
        f": {reason}" if reason else ""
    )


below_one: Rule = (lambda value: 0 <= value < 1, "must be at least 0 and below 1")

# Upper limits. A larger value is a typing error, and would end in hours of waiting or in an error of the operating
# system.
STEPS = PROBLEMS = 10_000_000
TOKENS = COMPLETIONS = 1_000_000

# What grpo/training/alarms.py watches for.
ALARMS = (
    "truncated",
    "constant_reward",
    "no_signal",
    "reward_hacking",
    "length_collapse",
    "length_limit",
    "entropy_collapse",
    "not_finite",
)

# How an answer is compared with the reference answer: the values of data.answer_match.
ANSWER_MATCHES = ("number", "text", "strict")

# The most distinct problems that data=arithmetic generates. Any settings can generate as many: those with the fewest
# problems, four steps and no number above 100, have 157,673 for training and 22,631 held out; the defaults 9.8 and 1.4
# million.
DISTINCT = {"training": 100_000, "held-out": 12_000}
GSM8K_TRAIN = 7_472  # training problems of GSM8K without the showcase question

# What each sampler of conf/rollout/ may be told; what has no None among its values must be told.
SAMPLING = ("top_p", "top_k", "min_p", "repetition_penalty")
CORRECTION = ("correction", "correction_max", "correction_min")
SETTINGS: dict[str, tuple[str, ...]] = {
    "fast": ("native",),
    "generate": SAMPLING,
    "continuous_batching": (),
    "vllm": (*SAMPLING, *CORRECTION, "memory", "sleep", "tensor_parallel"),
    "vllm_server": (*SAMPLING, *CORRECTION, "server", "server_timeout", "group_port"),
}
VLLM = ("vllm", "vllm_server")
# Those of other projects: they train, by way of TRL, and never evaluate.
ENGINES = ("continuous_batching", *VLLM)

# The values each field may take, beyond its type. None is left to the type.
COMMON: dict[str, Rule] = {
    "seed": between(0, 2**32 - 1),
    "device": one_of("cpu", "cuda"),
    "threads": between(1, 1_024),
    "max_completion_length": between(1, TOKENS),
    "eval_batch_size": between(1, COMPLETIONS),
    "model.parameters": between(1, 1e14),
    "model.init": one_of("pretrained", "random"),
    "model.num_layers": between(1, 1_000),
    "model.dtype": one_of("float32", "bfloat16"),
    "model.lora_rank": between(0, 8_192),
    "model.lora_alpha": between(1, 65_536),
    "model.lora_dropout": below_one,
    "data.name": one_of("arithmetic", "gsm8k", "jsonl"),
    "data.train_problems": between(1, PROBLEMS),
    "data.eval_problems": between(1, PROBLEMS),
    "data.validation_problems": between(1, PROBLEMS),
    "data.seed": between(0, 2**32 - 1),
    "data.min_steps": between(1, 4),
    "data.max_steps": between(1, 4),
    "data.max_number": between(100, 10_000),
    "data.gold": one_of("number", "text"),
    "data.answer_match": one_of(*ANSWER_MATCHES),
    "rollout.name": one_of(*SETTINGS),
    "rollout.top_p": (lambda value: 0 < value <= 1, "must lie above 0 and not above 1"),
    "rollout.top_k": between(0, 1_000_000),
    "rollout.min_p": between(0, 1),
    "rollout.repetition_penalty": between(0.01, 100),
    "rollout.correction": one_of("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "rollout.correction_max": between(1, 1_000_000, "a ratio of 1 is right where the engine and the trainer agree"),
    "rollout.correction_min": between(0, 1),
    "rollout.memory": (lambda value: 0 < value < 1, "must lie above 0 and below 1"),
    "rollout.tensor_parallel": between(1, 1_024),
    "rollout.server": (
        lambda value: re.fullmatch(r"https?://[\w.\[\]:-]+(/[\w./-]*)?", value) is not None,
        "must be an address such as http://localhost:8000",
    ),
    "rollout.server_timeout": between(0, 86_400),
    "rollout.group_port": between(1, 65535),
}
RULES: dict[type, dict[str, Rule]] = {
    Config: {
        "num_generations": between(2, 65_536, "an advantage compares the completions of one prompt"),
        "prompts_per_step": between(1, 65_536),
        "micro_batch_size": between(1, COMPLETIONS),
        "max_steps": between(1, STEPS),
        "num_train_epochs": between(0.0001, 100_000),
        "max_prompt_length": between(1, TOKENS),
        "logging_steps": between(1, STEPS),
        "eval_steps": between(1, STEPS),
        "save_steps": between(1, STEPS),
        "save_total_limit": between(2, STEPS, "a damaged checkpoint must leave one to go back to"),
        "on_nonfinite": one_of("stop", "skip"),
        "alarm_window": between(2, STEPS),
        "stop_on": (lambda value: set(value) <= set(ALARMS), f"must be a list of {', '.join(ALARMS)}"),
        "temperature": between(0.0001, 100),
        "optimizer.name": one_of("adamw_torch", "adamw_8bit", "adafactor", "sgd"),
        "optimizer.lr": between(1e-12, 100),
        "optimizer.weight_decay": between(0, 100),
        "optimizer.beta1": below_one,
        "optimizer.beta2": below_one,
        "optimizer.max_grad_norm": between(1e-9, 1e9),
        "optimizer.schedule": one_of("cosine", "linear", "constant", "constant_with_warmup"),
        "optimizer.warmup": (
            lambda value: 0 <= value < 1 or STEPS >= value == int(value) >= 1,
            f"must be a share of the steps below 1, or a whole number of steps up to {STEPS:,}",
        ),
        "algorithm.loss_type": one_of("grpo", "bnpo", "dr_grpo", "dapo"),
        "algorithm.beta": between(0, 1_000),
        "algorithm.scale_rewards": one_of("group", "batch", "none"),
        "algorithm.epsilon": between(1e-6, 100),
        "algorithm.epsilon_high": between(1e-6, 100),
        "algorithm.importance_sampling_level": one_of("token", "sequence"),
        "algorithm.num_iterations": between(1, 1_000),
        "algorithm.steps_per_generation": between(1, 1_000),
        "tracking.name": one_of("wandb", "trackio", "tensorboard", "none"),
        "tracking.completions_every": between(1, STEPS),
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
            "must be 0, which answers greedily, or between 0.0001 and 100",
        ),
        "show": between(0, PROBLEMS),
    },
    AuditConfig: {"fail_on": one_of("warning", "note"), "data.answer_match": one_of(*ANSWER_MATCHES)},
}
WEIGHT = between(-10_000, 10_000, "advantages are computed in float32")  # as in grpo/rewards/registry.py
# The settings that name a file or a folder.
PATHS = (
    "model.path",
    "data.path",
    "data.train_file",
    "data.test_file",
    "data.validation_file",
    "reward_files",
    "resume",
    "run",
    "baseline",
    "completions",
)
RULES[PlanConfig] = RULES[Config] | {
    "world_size": between(1, 1_000_000),
    "sharding": one_of("ddp", "zero2", "zero3", "fsdp2"),
    "hardware.device": one_of("cpu", "cuda"),
    "hardware.memory": between(0.1, 1_000_000),
    "hardware.flops_bf16": between(1, 1e21),
    "hardware.flops_fp32": between(1, 1e21),
    "hardware.bandwidth": between(1, 1e18),
    "hardware.link": between(1, 1e18),
}


Schema = TypeVar("Schema", bound=AnyConfig)


def load(composed: DictConfig | ListConfig, schema: type[Schema]) -> Schema:
    """The composed settings as a typed `schema`, checked.

    Raises:
        UserError: a key that no setting has, a value out of its range, or two values that exclude each other.
    """
    config = typed(composed, schema)
    check(config)
    return located(config)


def typed(composed: DictConfig | ListConfig, schema: type[Schema]) -> Schema:
    """The composed settings as a `schema`, with names, types and the form of paths checked, but not values.

    Raises:
        UserError: a key that no setting has, or a value of another type.
    """
    with readable(schema):
        _refuse_unknown_keys(composed, schema, "")
        resolved = OmegaConf.to_object(composed)
    config = from_environment(resolved, OmegaConf.to_container(composed, resolve=False))
    assert isinstance(config, schema)
    _check_shape(config)
    return config


def located(config: Schema) -> Schema:
    """The settings with absolute paths, which mean the same from any working directory."""
    config.reward_files = [absolute(file) for file in config.reward_files]
    if isinstance(config, Common):
        if config.data.path is not None:
            config.data.path = absolute(config.data.path)
        folder = absolute(config.model.path)
        if os.path.exists(folder):  # else it is a policy of the hub, or an embedded one
            config.model.path = folder
    return config


def absolute(path: str) -> str:
    return relocated(path, os.path.abspath(Path(path).expanduser()))


def _refuse_unknown_keys(node: Any, schema: Any, prefix: str) -> None:
    """The schema refuses a plain misspelt key by itself; `+key=` gets past it."""
    known = settings_of_schema(schema)
    for key in node:
        if f"{prefix}{key}" not in known:
            raise UserError(no_such_setting(f"{prefix}{key}", schema))
        if is_dataclass(known[f"{prefix}{key}"]):
            _refuse_unknown_keys(node[key], schema, f"{prefix}{key}.")


def _check_shape(config: AnyConfig) -> None:
    """Check the elements of lists, whose types the schema does not check, and refuse paths that no file can have."""
    for key, kind in _lists(type(config)).items():
        values: Any = value_of(config, key) or []
        if not all(isinstance(value, kind) for value in values):
            what = "text" if kind is str else "whole numbers"
            raise UserError(f"{key}={shortened(values)}: must be a list of {what}, with no list or mapping inside it.")
    for key in PATHS:
        for path in _paths(config, key):
            if fault := path_fault(path):
                raise UserError(f"{key}={shortened(path)}: {fault}.")


def check(config: AnyConfig) -> None:
    common = COMMON if isinstance(config, Common) else {}
    for key, (holds, rule) in (common | RULES.get(type(config), {})).items():
        _check_value(key, value_of(config, key), holds, rule)
    for name, weight in config.rewards.items():
        _check_value(f"rewards.{name}", weight, *WEIGHT)
    if isinstance(config, AuditConfig):
        return
    _check_data(config.data)
    _check_rollout(config)
    if config.model.num_layers is not None and config.model.init != "random":
        raise UserError(
            f"model.num_layers={config.model.num_layers}: cuts an architecture without weights; add model.init=random."
        )
    if config.model.load_in_4bit and config.model.init == "random":
        raise UserError(
            "model.load_in_4bit=true: quantizes weights as they are loaded, and model.init=random has none."
        )
    if isinstance(config, Config):
        if config.trust_run and config.resume is None:
            raise UserError("trust_run=true: applies to resume=FOLDER only; leave it out.")
        _check_batch(config)
        if config.model.load_in_4bit and not config.model.lora_rank:
            raise UserError("model.load_in_4bit=true: weights of 4 bits are not trained; add model.lora_rank=16.")
    if isinstance(config, EvaluateConfig):
        _check_sampling(config)


def _check_value(key: str, value: Any, holds: Callable[[Any], bool], rule: str) -> None:
    finite = not isinstance(value, float) or math.isfinite(value)
    if value is not None and not (finite and holds(value)):
        raise UserError(f"{key}={shortened(value)}: {rule if finite else 'must be a finite number'}.")


def value_of(config: Any, key: str) -> Any:
    """The value of the setting `key`, as in `optimizer.lr`; None where its group is not set or there is none."""
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def _lists(schema: type[Any]) -> dict[str, type]:
    """The settings that are lists, with the type of their elements."""
    found = {}
    for item in fields(schema):
        for kind in (item.type, *get_args(item.type)):
            if get_origin(kind) is list:
                found[item.name] = get_args(kind)[0]
    return found


def _paths(config: Any, key: str) -> list[str]:
    value = value_of(config, key)
    return value if isinstance(value, list) else [] if value is None else [value]


def _check_batch(config: Config) -> None:
    completions = config.prompts_per_step * config.num_generations * config.algorithm.steps_per_generation
    if completions > COMPLETIONS:
        steps = config.algorithm.steps_per_generation
        raise UserError(
            f"prompts_per_step={config.prompts_per_step} x num_generations={config.num_generations}"
            + f" x algorithm.steps_per_generation={steps}" * (steps > 1)
            + f" = {completions:,} completions sampled at once: at most {COMPLETIONS:,} are possible."
        )


def _check_rollout(config: Common) -> None:
    rollout = config.rollout
    own = SETTINGS[rollout.name]
    for name, value in distorting(rollout).items():
        if name not in own:
            raise UserError(
                f"rollout.{name}={value}: rollout={rollout.name} samples from the policy's own distribution and has no "
                f"such setting; take rollout=generate rollout.{name}={value}."
            )
    for item in fields(rollout):
        value = getattr(rollout, item.name)
        if value is not None and item.name not in ("name", *SAMPLING, *own):
            having = " or ".join(f"rollout={name}" for name, settings in SETTINGS.items() if item.name in settings)
            raise UserError(
                f"rollout.{item.name}={value}: rollout={rollout.name} has no such setting; {having} has it."
            )
        if value is None and item.name in own and item.name not in (*SAMPLING, *CORRECTION):
            raise UserError(f"rollout.{item.name}=null: rollout={rollout.name} needs a value there.")
    truncates = rollout.correction in ("token_truncate", "sequence_truncate")
    if truncates and rollout.correction_max is None and rollout.correction_min is None:
        raise UserError(
            f"rollout.correction={rollout.correction}: needs a bound to cut ratios off at, rollout.correction_max=2.0."
        )
    if rollout.name in ENGINES and isinstance(config, EvaluateConfig):
        raise UserError(
            f"rollout={rollout.name}: it samples in training alone; evaluate with rollout=fast, as a run does itself."
        )
    if rollout.name == "vllm" and config.model.init == "random" and config.model.lora_rank:
        raise UserError(
            f"model.init=random model.lora_rank={config.model.lora_rank}: rollout=vllm loads its copy of the policy "
            "from a folder, and random weights with adapters have none; leave one of the two out."
        )
    if rollout.name in VLLM and config.device == "cpu":
        raise UserError(
            f"device=cpu: rollout={rollout.name} needs a GPU, device=cuda; on a CPU take rollout=fast, which is also "
            "the fastest there."
        )


def _check_data(data: DataConfig) -> None:
    made = ["min_steps", "max_steps", "max_number"]
    read = ["train_file", "question_column", "answer_column", "gold"]
    if data.name == "arithmetic":
        needed = [*made, "train_problems", "eval_problems", "validation_problems"]
        foreign = [*read, "path", "test_file", "validation_file"]
    else:
        needed, foreign = read, made
    for name in needed:
        if getattr(data, name) is None:
            raise UserError(f"data.{name}=null: data={data.name} needs a value there.")
    for name in foreign:
        if (value := getattr(data, name)) is not None:
            raise UserError(
                f"data.{name}={value}: data={data.name} has no such setting; choose the dataset with data=."
            )
    if data.min_steps is not None and data.max_steps is not None and data.min_steps > data.max_steps:
        raise UserError(f"data.min_steps={data.min_steps}: must not exceed data.max_steps={data.max_steps}.")
    if data.name == "jsonl" and data.path is None:
        raise UserError("data.path: data=jsonl needs the folder of your files, data.path=FOLDER, or one file.")
    if data.name == "arithmetic":
        for names, split in ((["train_problems"], "training"), (["eval_problems", "validation_problems"], "held-out")):
            if sum(getattr(data, name) for name in names) > DISTINCT[split]:
                given = ", ".join(f"data.{name}={getattr(data, name)}" for name in names)
                raise UserError(
                    f"{given}: data=arithmetic makes at most {DISTINCT[split]:,} distinct {split} problems; set fewer."
                )


def _check_sampling(config: EvaluateConfig) -> None:
    if config.samples > 1 and config.temperature == 0:
        raise UserError(f"samples={config.samples}: greedy answers are all alike; add temperature=1.0.")
    if config.k is not None and (not config.k or min(config.k) < 1 or max(config.k) > COMPLETIONS):
        raise UserError(f"k={shortened(config.k)}: must be a list of whole numbers from 1 to {COMPLETIONS:,}, k=[1,8].")
    if config.k is not None and config.completions is None and max(config.k) > config.samples:
        raise UserError(f"k={config.k}: must not exceed samples={config.samples}.")
    for name, value in distorting(config.rollout).items():
        if config.temperature == 0 and name != "repetition_penalty":
            raise UserError(f"rollout.{name}={value}: greedy answers have no use for it; add temperature=1.0.")


# What these are where samples come from the policy's own distribution.
NEUTRAL: dict[str, float | None] = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}


def distorting(rollout: RolloutConfig) -> dict[str, float]:
    """The settings that make samples come from another distribution than the policy's own."""
    given = {name: getattr(rollout, name) for name in NEUTRAL}
    return {name: value for name, value in given.items() if value is not None and value != NEUTRAL[name]}


def undistorted(rollout: RolloutConfig) -> RolloutConfig:
    """How a run that trains with `rollout` is evaluated: from the policy's own distribution, and in this process."""
    if rollout.name in ENGINES:
        return RolloutConfig("fast", native=True)
    return replace(rollout, top_p=None, top_k=None, min_p=None, repetition_penalty=None)


SWEEPER: dict[str, Rule] = {
    "parallel": between(1, 1_000),
    "step_seconds": between(0.001, 1_000_000),
    "n_trials": between(1, MOST_JOBS),
    "seed": between(0, 2**31),
    "trial": between(0, MOST_JOBS),
}
Sweeper = TypeVar("Sweeper", bound=SweeperConfig)


def load_sweeper(composed: DictConfig, schema: type[Sweeper]) -> Sweeper:
    """The settings of a sweeper as a typed `schema`, checked.

    Raises:
        UserError: a value that is none for its setting.
    """
    settings = OmegaConf.structured(schema)
    for item in fields(schema):
        value: Any = composed[item.name]
        try:
            settings[item.name] = value
        except OmegaConfBaseException as error:
            raise UserError(
                f"hydra.sweeper.{item.name}={shortened(value)}: {type_rule(str(error)) or first_line(error)}."
            ) from error
        if item.name in SWEEPER:
            _check_value(f"hydra.sweeper.{item.name}", settings[item.name], *SWEEPER[item.name])
    loaded = OmegaConf.to_object(settings)
    assert isinstance(loaded, schema)
    for name in _lists(schema):
        if not all(isinstance(each, str) for each in getattr(loaded, name)):
            raise UserError(f"hydra.sweeper.{name}={shortened(getattr(loaded, name))}: must be a list of text.")
    return loaded


@contextmanager
def configs() -> Iterator[None]:
    """Let `compose` find `conf/`; inside one of the project's Hydra apps it does already."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield


def compose(overrides: Sequence[str] = ()) -> Config:
    """The run that `python -m grpo.train <overrides>` would compose.

    Raises:
        UserError: an override that names no setting, or a value that the schema refuses.
    """
    with configs(), readable():
        return load(hydra_compose("config", list(overrides)), Config)


def load_run(folder: Path) -> Common:
    """What a finished run shares with other commands: `model` is what it was trained from, `rollout` undistorted.

    Raises:
        UserError: the folder does not hold a finished run, or one whose settings are not those of this version.
    """
    settings = saved_settings(folder)
    if not (folder / "policy" / "config.json").is_file() or not (folder / "results.json").is_file():
        saved = sorted((folder / "checkpoints").glob("checkpoint-*"))
        policy = f" The policy that it saved can be used as well, model.path={saved[-1]}." if saved else ""
        raise UserError(
            f"{folder} holds a run that was not finished; python -m grpo.train resume={folder} completes it.{policy}"
        )
    try:
        config = as_schema(settings, Common)
    except NotSet as error:
        raise UserError(f"{folder}: {error}") from error
    except UserError as error:
        raise UserError(
            f"{folder} was made by another version of this project, or its settings were changed: {error} Its policy "
            f"can still be named, model.path={folder}/policy."
        ) from error
    config.model.lora_rank = 0  # an adapter that has not learnt adds nothing, and one that has is merged
    config.rollout = undistorted(config.rollout)  # however training sampled
    return config


def require_run(folder: Path) -> None:
    """
    Raises:
        UserError: the folder is not that of a run.
    """
    if (folder / ".hydra" / "config.yaml").is_file():
        return
    if (folder / "sweep.json").is_file():
        raise UserError(f"{folder} is the folder of a sweep; give that of one of its runs, such as {folder / '0'}.")
    missing = "" if folder.exists() else ": it does not exist"
    raise UserError(
        f"{folder} is not the folder of a run{missing}; give the one that a run named at its end, outputs/DATE/TIME."
    )


def saved_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run was started with.

    Raises:
        UserError: the folder is not that of a run, or they are damaged.
    """
    require_run(folder)
    saved = folder / ".hydra" / "config.yaml"
    settings: Any = read(saved, lambda text: OmegaConf.to_container(yaml_settings(text)))
    if not isinstance(settings, dict):
        raise UserError(f"{saved} is damaged: it holds no settings.")
    return settings


class NotSet(UserError):
    """Saved settings refer to an environment variable that is not set."""


def as_schema(settings: dict[str, Any], schema: type[Schema]) -> Schema:
    """What of saved settings belongs to `schema`, checked.

    Raises:
        UserError: something is missing, or is not as this version has it.
    """
    shared = {item.name: settings.get(item.name, MISSING) for item in fields(schema)}
    if missing := [name for name, value in shared.items() if value == MISSING]:
        raise UserError(f"there is no {', '.join(missing)}.")
    if unset := unset_variables(shared):
        raise NotSet(
            f"the run takes settings from the environment variable {', '.join(unset)}, which is not set; set it."
        )
    with readable(schema):
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), shared))
    config = from_environment(merged, shared)
    assert isinstance(config, schema)
    _check_shape(config)
    check(config)
    return located(config)


def trained(model: ModelConfig, run: Path) -> ModelConfig:
    """The final policy of a run that was trained from `model`."""
    # Saved plain, whatever it was trained in.
    path = os.path.abspath(run / "policy")
    return replace(model, path=path, revision=None, init="pretrained", num_layers=None, load_in_4bit=False)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full keys, `group.name`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@contextmanager
def readable(schema: type[Any] = Config) -> Iterator[None]:
    """Turn what Hydra and OmegaConf refuse into a `UserError` that says what would work."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, schema)) from error
    except (ValueError, RuntimeError, OverflowError) as error:
        ours = ("Config group override", "too large to convert", "Unable to configure")
        # A log that cannot be opened is no mistake in the settings of logging.
        if not any(text in str(error) for text in ours) or isinstance(error.__cause__, OSError):
            raise
        raise UserError(explain(error, schema)) from error


def explain(error: Exception, schema: type[Any]) -> str:
    """What Hydra or OmegaConf refused, in one line: the key, the value, the rule, the known names."""
    text, cause = unread(str(error)), unread(str(error.__cause__ or ""))
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if isinstance(error, MissingConfigException) and (match := re.search(r"primary config '([^']+)'", text)):
        return f"--config-name {match[1]}: there is no file {match[1]}.yaml in conf/ or in the folder of --config-dir."
    if match := re.search(r"Could not override '([^']+)'(?:.*\+([^\n]*))?", text, re.DOTALL):
        return no_such_setting(match[1], schema)
    if match := re.search(r"Could not (?:find|load) '((?:hydra/)?[^'/]+)/([^']*?)(?:\.yaml)?'", text):
        return _no_such_option(match[1], match[2], getattr(error, "options", None))
    if match := re.search(r"Key '([^']+)' not in '\w+'\s*full_key: (\S+)", text + cause):
        return no_such_setting(match[2], schema)
    if match := re.search(r"Interpolation key '([^']+)' not found\s*full_key: (\S+)", text):
        return f"{match[2]}=${{{match[1]}}}: there is no setting {match[1]} to take a value from."
    if match := re.search(r"Unsupported interpolation type (\S+)\s*full_key: (\S+)", text):
        return f"{match[2]}=${{{match[1]}:...}}: there is no resolver {match[1]}."
    if match := re.search(r"Environment variable '(\w+)' not found.*full_key: (\S+)", text, re.DOTALL):
        return (
            f"{match[2]}: the environment variable {match[1]} is not set; set it, or give a default, "
            f"${{oc.env:{match[1]},DEFAULT}}."
        )
    if match := re.search(
        r"raised while resolving interpolation:.*positional argument.*full_key: (\S+)", text, re.DOTALL
    ):
        return f"{match[1]}: a resolver in ${{...}} has too few or too many arguments."
    if match := re.search(r"missing \d+ required positional arguments?: ([^\n]+)", text):
        return f"{match[1]}: removed or missing; every setting needs a value, null where that is possible."
    if match := re.search(r"raised while resolving interpolation: (.*)\n\s*full_key: (\S+)", text):
        return f"{match[2]}: {match[1]}."
    if match := re.search(r"too large to convert to float\s*full_key: (\S+)", text):
        return f"{match[1]}: a number of hundreds of digits is too large for any setting."
    if match := re.search(r"Error merging override (.+)", text, re.DOTALL):
        given = shortened(match[1])
        if "is not a ListConfig" in cause:
            key, _, value = match[1].partition("=")
            return f"{given}: a list is written in brackets, {key}=[{shortened(value)}]."
        if "is not Optional" in cause:
            return f"{given}: it needs a value."
        if rule := type_rule(cause):
            return f"{given}: {rule}."
        if isinstance(error.__cause__, GrammarParseError):
            return f"{given}: {BROKEN_INTERPOLATION}."
        return f"{given}: {shortened(cause.splitlines()[0]).rstrip('.')}."
    if (rule := type_rule(text)) and (
        match := re.search(r"(?:Value|to string:) '(.*)'.*full_key: (\S+)", text, re.DOTALL)
    ):
        value = re.sub(r"' (?:of type|is not a valid|to string).*", "", match[1], flags=re.DOTALL)
        return f"{match[2]}={shortened(value)}: {rule}."
    if match := re.search(r"Multiple values for (\w+)", text):
        return f"+{match[1]}=...: {match[1]} has a place in the defaults already; leave out the plus."
    if match := re.search(r"Ambiguous value for argument '(.+)'\n1\.", text, re.DOTALL):
        return _several_values(match[1], schema)
    if match := re.search(r"Sweep parameters '(.+)' requires --multirun", text, re.DOTALL):
        return _several_values(match[1], schema)
    if "Unable to configure" in text:
        why = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
        return f"hydra/job_logging, hydra/hydra_logging: logging cannot be set up so{why}; leave these settings out."
    if "Config group override" in text:
        return f"{text.rstrip('.')}; a group takes the name of one of its files, as in model=tiny."
    if match := re.search(r"Could not (?:delete from config|append to config)[^']*'?([\w.@/]+)", text):
        return f"{match[1]}: {text.splitlines()[0]}"
    return " ".join(text.split())


TYPES = {
    "could not be converted to Integer": "must be a whole number",
    "could not be converted to Float": "must be a number",
    "is not a valid bool": "must be true or false",
    "to string": "must be a text",
    "Cannot merge DictConfig with ListConfig": "must be a list, in brackets",
}


def type_rule(refusal: str) -> str | None:
    """What OmegaConf's `refusal` of a value's type means; None where it says something else."""
    return next((rule for part, rule in TYPES.items() if part in refusal), None)


def _no_such_option(group: str, name: str, known: Sequence[str] | None) -> str:
    """`known`: the options that Hydra finds in conf/, in its own package and in the user's folders."""
    other = " For any other policy: model.path=HUB_ID_OR_FOLDER." if group == "model" else ""
    names = options(group) if known is None else known
    return f"{group}={name}: {group} has no option '{name}'.{nearest(name, names)}{other}"


def options(group: str) -> list[str]:
    """The files of a group of `conf/`."""
    return [file.stem for file in (CONF / group).glob("*.yaml")]


def _several_values(override: str, schema: type[Any]) -> str:
    """The message for several values of a setting outside a sweep; it depends on the type of the setting."""
    key, _, value = override.lstrip("+").partition("=")
    kind = settings_of_schema(schema).get(key)
    given = shortened(override)
    if kind in (str, str | None) and not re.match(r"\w+\(", value):
        return (
            f"{given}: a text with a comma needs quotes within quotes, {typed_in_shell(key, value)}; a sweep needs -m."
        )
    if key in _lists(schema):
        return f"{given}: a list is written in brackets, {key}=[{shortened(value)}]; a sweep needs -m."
    return f"{given}: several values are a sweep, which needs -m."


def settings_of_schema(schema: type[Any], prefix: str = "") -> dict[str, Any]:
    """Every setting of a schema by its full key, with its type; a group by its name, with its schema."""
    found: dict[str, Any] = {}
    for item in fields(schema):
        found[f"{prefix}{item.name}"] = item.type
        for kind in (item.type, *get_args(item.type)):
            if is_dataclass(kind) and isinstance(kind, type):
                found |= settings_of_schema(kind, f"{prefix}{item.name}.")
    return found


def no_such_setting(key: str, schema: type[Any]) -> str:
    """The message for an unknown `key`, with the names that it may mean."""
    if "@" in key or key.partition(".")[0] == "experiment":
        own = _experiment_typed() or key
        return f"{own}: a file of the group experiment starts with the line `# @package _global_`; add it."
    if key.startswith("rewards."):
        return f"{key}: the composed stack has no such reward; add one with +{key}=WEIGHT."
    if is_dataclass(group := {item.name: item.type for item in fields(schema)}.get(key)):
        own = ", ".join(f"{key}.{item.name}" for item in fields(group))
        return f"{key}: this command has no group {key}, only {own}."
    return f"{key}: there is no such setting.{likely(key, schema)}"


def _experiment_typed() -> Path | None:
    """The file of `experiment=NAME` in the folder of --config-dir, as this process was started."""
    folders = [after for before, after in pairwise(sys.argv) if before in ("--config-dir", "-cd")]
    folders += [word.partition("=")[2] for word in sys.argv if word.startswith("--config-dir=")]
    names = [word.partition("=")[2] for word in sys.argv if word.lstrip("+").startswith("experiment=")]
    files = (Path(folder) / "experiment" / f"{name}.yaml" for folder in folders for name in names)
    return next((file for file in files if file.is_file()), None)


def likely(key: str, schema: type[Any]) -> str:
    """The end of a message about an unknown setting: similar names, or all names of its level if none is similar."""
    settings = settings_of_schema(schema)
    leaf = key.rpartition(".")[2]
    same = [name for name in settings if name.rpartition(".")[2] == leaf]
    if 0 < len(same) <= 3:
        return f" Did you mean {_either(same)}?"
    # A command that does not train suggests only settings that it has.
    if (known := hint(key)) and (issubclass(schema, Config) or known.ours.partition("=")[0] in settings):
        if known.ours:
            return f" Here it is {known.ours}{f' ({known.note})' if known.note else ''}."
        return f" It has no counterpart here: {known.note}."
    if key.startswith("hydra."):
        return " Those of Hydra, its sweeper and its launcher stand in conf/hydra/."
    close = get_close_matches(key, settings, n=1, cutoff=0.7) or [
        name for name in settings if get_close_matches(leaf, [name.rpartition(".")[2]], cutoff=0.8)
    ]
    if 0 < len(close) <= 3:
        return f" Did you mean {_either(close)}?"
    group = key.partition(".")[0] + "."
    level = [name.removeprefix(group) for name in settings if "." in key and name.startswith(group)]
    top = [name for name in settings if "." not in name] + ["experiment"] * issubclass(schema, Config)
    return f" Known: {', '.join(sorted(level or top))}."


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)
