"""The typed schema of `conf/`, the checks across its fields, and readable words for what Hydra refuses.

Values and what they mean stand in `conf/*.yaml`; here stand the types. Nothing here imports torch.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from grpo.arithmetic import DISTINCT
from grpo.errors import UserError, first_line, nearest
from grpo.files import read, yaml_settings
from grpo.redact import from_environment, relocated, unset_variables

# A checkout has conf/ beside the package; a wheel carries it inside.
CONF = next(
    folder for folder in (Path(__file__).parent.parent / "conf", Path(__file__).parent / "conf") if folder.is_dir()
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
class AuditConfig:
    """A stack of rewards put to the test; no policy, no data."""

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


def at_least(low: float, reason: str = "") -> Rule:
    return lambda value: value >= low, f"must be at least {low}" + (f": {reason}" if reason else "")


def between(low: float, high: float) -> Rule:
    return lambda value: low <= value <= high, f"must lie within {low} and {high}"


above_zero: Rule = (lambda value: value > 0, "must be above 0")
below_one: Rule = (lambda value: 0 <= value < 1, "must be at least 0 and below 1")

# What grpo/alarms.py watches for.
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
    "threads": at_least(1),
    "max_completion_length": at_least(1),
    "eval_batch_size": at_least(1),
    "model.init": one_of("pretrained", "random"),
    "model.num_layers": at_least(1),
    "model.dtype": one_of("float32", "bfloat16"),
    "model.lora_rank": at_least(0),
    "model.lora_alpha": at_least(1),
    "model.lora_dropout": below_one,
    "data.name": one_of("arithmetic", "gsm8k", "jsonl"),
    "data.train_problems": at_least(1),
    "data.eval_problems": at_least(1),
    "data.validation_problems": at_least(1),
    "data.min_steps": between(1, 4),
    "data.max_steps": between(1, 4),
    "data.max_number": between(100, 10_000),
    "data.gold": one_of("number", "text"),
    "rollout.name": one_of(*SETTINGS),
    "rollout.top_p": (lambda value: 0 < value <= 1, "must lie above 0 and not above 1"),
    "rollout.top_k": at_least(0),
    "rollout.min_p": between(0, 1),
    "rollout.repetition_penalty": above_zero,
    "rollout.correction": one_of("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "rollout.correction_max": at_least(1, "a ratio of 1 is right where the engine and the trainer agree"),
    "rollout.correction_min": (lambda value: 0 <= value <= 1, "must lie within 0 and 1"),
    "rollout.memory": (lambda value: 0 < value < 1, "must lie above 0 and below 1"),
    "rollout.tensor_parallel": at_least(1),
    "rollout.server": (
        lambda value: re.fullmatch(r"https?://[\w.\[\]:-]+(/[\w./-]*)?", value) is not None,
        "must be an address such as http://localhost:8000",
    ),
    "rollout.server_timeout": at_least(0),
    "rollout.group_port": between(1, 65535),
}
RULES: dict[type, dict[str, Rule]] = {
    Config: {
        "num_generations": at_least(2, "an advantage compares the completions of one prompt"),
        "prompts_per_step": at_least(1),
        "micro_batch_size": at_least(1),
        "max_steps": at_least(1),
        "num_train_epochs": above_zero,
        "max_prompt_length": at_least(1),
        "logging_steps": at_least(1),
        "eval_steps": at_least(1),
        "save_steps": at_least(1),
        "save_total_limit": at_least(2, "a damaged checkpoint must leave one to go back to"),
        "on_nonfinite": one_of("stop", "skip"),
        "alarm_window": at_least(2),
        "stop_on": (lambda value: set(value) <= set(ALARMS), f"must be a list of {', '.join(ALARMS)}"),
        "temperature": above_zero,
        "optimizer.name": one_of("adamw_torch", "adamw_8bit", "adafactor", "sgd"),
        "optimizer.lr": above_zero,
        "optimizer.weight_decay": at_least(0),
        "optimizer.beta1": below_one,
        "optimizer.beta2": below_one,
        "optimizer.max_grad_norm": above_zero,
        "optimizer.schedule": one_of("cosine", "linear", "constant", "constant_with_warmup"),
        "optimizer.warmup": (
            lambda value: 0 <= value < 1 or value == int(value) >= 1,
            "must be a share of the steps below 1, or a whole number of steps",
        ),
        "algorithm.loss_type": one_of("grpo", "bnpo", "dr_grpo", "dapo"),
        "algorithm.beta": at_least(0),
        "algorithm.scale_rewards": one_of("group", "batch", "none"),
        "algorithm.epsilon": above_zero,
        "algorithm.epsilon_high": above_zero,
        "algorithm.importance_sampling_level": one_of("token", "sequence"),
        "algorithm.num_iterations": at_least(1),
        "algorithm.steps_per_generation": at_least(1),
        "tracking.name": one_of("wandb", "trackio", "tensorboard", "none"),
        "tracking.completions_every": at_least(1),
        "tracking.completions_rows": at_least(0),
    },
    EvaluateConfig: {
        "name": (
            lambda value: re.fullmatch(r"[\w.-]*\w", value) is not None,
            "must be a file name of letters, digits, dots, dashes and underscores",
        ),
        "samples": between(1, 256),
        "temperature": at_least(0),
        "show": at_least(0),
    },
    AuditConfig: {"fail_on": one_of("warning", "note")},
}
RULES[PlanConfig] = RULES[Config] | {
    "world_size": at_least(1),
    "sharding": one_of("ddp", "zero2", "zero3", "fsdp2"),
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
    """The composed settings as a `schema`, unchecked but for the names and types.

    Raises:
        UserError: a key that no setting has.
    """
    _refuse_unknown_keys(composed, schema, "")
    config = from_environment(OmegaConf.to_object(composed), OmegaConf.to_container(composed, resolve=False))
    assert isinstance(config, schema)
    return config


def located(config: Schema) -> Schema:
    """The settings with absolute paths, which mean the same from any working directory.

    Raises:
        UserError: a path in the home of a user that does not exist.
    """
    config.reward_files = [absolute("reward_files", file) for file in config.reward_files]
    if isinstance(config, Common):
        if config.data.path is not None:
            config.data.path = absolute("data.path", config.data.path)
        folder = absolute("model.path", config.model.path)
        if os.path.exists(folder):  # else it is a policy of the hub, or an embedded one
            config.model.path = folder
    return config


def absolute(setting: str, path: str) -> str:
    try:
        return relocated(path, os.path.abspath(Path(path).expanduser()))
    except RuntimeError as error:
        raise UserError(f"{setting}={path}: there is no such user; give a path that starts with / or ~/.") from error


def _refuse_unknown_keys(node: Any, schema: Any, prefix: str) -> None:
    """The schema refuses a plain misspelt key by itself; `+key=` gets past it."""
    known = {item.name: item.type for item in fields(schema)}
    for key in node:
        if key not in known:
            raise UserError(f"{prefix}{key}: there is no such setting.{nearest(str(key), known)}")
        if is_dataclass(known[key]):
            _refuse_unknown_keys(node[key], known[key], f"{prefix}{key}.")


def check(config: AnyConfig) -> None:
    common = COMMON if isinstance(config, Common) else {}
    for key, (holds, rule) in (common | RULES.get(type(config), {})).items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        finite = not isinstance(value, float) or math.isfinite(value)
        if value is not None and not (finite and holds(value)):
            raise UserError(f"{key}={value}: {rule if finite else 'must be a finite number'}.")
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
            raise UserError("trust_run=true: is about the run directory of resume=FOLDER; leave it out.")
        if config.model.load_in_4bit and not config.model.lora_rank:
            raise UserError("model.load_in_4bit=true: weights of 4 bits are not trained; add model.lora_rank=16.")
    if isinstance(config, EvaluateConfig):
        _check_sampling(config)


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
    if config.k is not None and (not config.k or min(config.k) < 1):
        raise UserError(f"k={config.k}: must be a list of whole numbers from 1 on, k=[1,8].")
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


SWEEPER: dict[str, Rule] = {"parallel": at_least(1), "step_seconds": above_zero, "n_trials": at_least(1)}
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
            raise UserError(f"hydra.sweeper.{item.name}={value}: {first_line(error)}.") from error
        holds, rule = SWEEPER.get(item.name, (bool, ""))
        if rule and settings[item.name] is not None and not holds(settings[item.name]):
            raise UserError(f"hydra.sweeper.{item.name}={value}: {rule}.")
    loaded = OmegaConf.to_object(settings)
    assert isinstance(loaded, schema)
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
        policy = f" A policy that it saved can be named all the same, model.path={saved[-1]}." if saved else ""
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


def saved_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run was started with.

    Raises:
        UserError: the folder is not that of a run, or they are damaged.
    """
    saved = folder / ".hydra" / "config.yaml"
    if not saved.is_file():
        raise UserError(
            f"{folder} is not the folder of a run; give the one that a run named at its end, outputs/DATE/TIME."
        )
    settings: Any = read(saved, lambda text: OmegaConf.to_container(yaml_settings(text)))
    if not isinstance(settings, dict):
        raise UserError(f"{saved} is damaged: it holds no settings.")
    return settings


class NotSet(UserError):
    """Saved settings need an environment variable that is not set."""


def as_schema(settings: dict[str, Any], schema: type[Schema]) -> Schema:
    """What of saved settings belongs to `schema`, checked.

    Raises:
        UserError: something is missing, or is not as this version has it.
    """
    shared = {item.name: settings.get(item.name, MISSING) for item in fields(schema)}
    if missing := [name for name, value in shared.items() if value == MISSING]:
        raise UserError(f"there is no {', '.join(missing)}.")
    if unset := unset_variables(shared):
        raise NotSet(f"the run takes settings from the environment, where {', '.join(unset)} is not set.")
    with readable(schema):
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), shared))
    config = from_environment(merged, shared)
    assert isinstance(config, schema)
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
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        raise UserError(explain(error, schema)) from error


def explain(error: Exception, schema: type[Any]) -> str:
    """What Hydra or OmegaConf refused, in one line: the key, the value, the rule, the known names."""
    text, cause = str(error), str(error.__cause__ or "")
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        if key.startswith("hydra."):
            return f"{key}: Hydra, its sweeper and its launcher have no such setting; theirs stand in conf/hydra/."
        if key.startswith("rewards."):
            return f"{key}: the composed stack has no such reward; add one with +{key}=WEIGHT."
        return f"{key}: there is no such setting.{_nearest_setting(key, schema)}"
    if match := re.search(r"Could not (?:find|load) '((?:hydra/)?[^'/]+)/([^']+?)(?:\.yaml)?'", text):
        group, name = match.groups()
        other = " For any other policy: model.path=HUB_ID_OR_FOLDER." if group == "model" else ""
        return f"{group}={name}: there is no such {group}.{nearest(name, options(group))}{other}"
    if match := re.search(r"raised while resolving interpolation: (.*)\n\s*full_key: (\S+)", text):
        return f"{match[2]}: {match[1]}."
    if "LexerNoViableAlt" in text:
        typed_in = text.partition(": ")[2].splitlines()[0].strip()
        return f"{typed_in}: a value with other than plain characters is quoted twice, 'key=\"value\"'."
    if match := re.search(r"Error merging override (\S+)", text):
        if "is not a ListConfig" in cause:
            key, _, value = match[1].partition("=")
            return f"{match[1]}: a list is written in brackets, {key}=[{value}]."
        return f"{match[1]}: {cause.splitlines()[0].rstrip('.')}."
    if match := re.search(r"Multiple values for (\w+)", text):
        return f"+{match[1]}=...: {match[1]} has a place in the defaults already; leave out the plus."
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]}: several values are a multirun; add -m."
    if "Config group override" in text:
        return f"{text.rstrip('.')}; a group takes the name of one of its files, as in model=tiny."
    if match := re.search(r"Could not (?:delete from config|append to config)[^']*'?([\w.@/]+)", text):
        return f"{match[1]}: {text.splitlines()[0]}"
    if "Error parsing override" in text or "mismatched input" in text or "no viable alternative" in text.lower():
        given = re.search(r"Error parsing override '([^']*)'", text)
        name = f"{given[1]}: " if given else ""
        return f"{name}not a setting; write key=value, and quote a value with = or spaces twice, 'key=\"a b\"'."
    return " ".join(
        text.replace("See https://hydra.cc/docs/1.2/advanced/override_grammar/basic for details", "").split()
    )


def options(group: str) -> list[str]:
    """The files of a group of `conf/`."""
    return [file.stem for file in (CONF / group).glob("*.yaml")] + ["basic"] * (group == "hydra/launcher")


def _nearest_setting(key: str, schema: type[Any]) -> str:
    """What may have been meant by `key`, and the names of the level it was looked for on."""
    top = {item.name for item in fields(schema)} | ({"experiment"} if issubclass(schema, Config) else set())
    levels = {
        item.name: [inner.name for inner in fields(item.type)] for item in fields(schema) if is_dataclass(item.type)
    }
    below = [f"{group}.{name}" for group, names in levels.items() for name in names]
    same_name = [dotted for dotted in below if dotted.split(".")[1] == key]
    close = same_name or get_close_matches(key, [*top, *below], n=1)
    group, _, _ = key.partition(".")
    known = levels.get(group, top) if "." in key else top
    return (f" Did you mean '{close[0]}'?" if close else "") + f" Known: {', '.join(sorted(known))}."
