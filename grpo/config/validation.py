"""Checks of a config: each value against its rule, then combinations of values.

Called when settings are composed or read from a run. It needs no torch, so a mistake is reported before torch is
imported; checks that need the machine are in `grpo.policy`.
"""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from grpo.config.algorithm_settings import check_algorithm
from grpo.config.data_settings import check_data
from grpo.config.keys import get_setting, list_settings
from grpo.config.limits import MAX_COMPLETIONS
from grpo.config.rules import COMMON_RULES, FORMAT_RULES, RULES, SCHEDULE_RULES, WEIGHT_RULE
from grpo.config.samplers import (
    CORRECTION_SETTINGS,
    ENGINES,
    SAMPLER_SETTINGS,
    SAMPLING_PARAMETERS,
    VLLM_ENGINES,
    non_neutral_sampling,
)
from grpo.config.schema import (
    AnyConfig,
    AuditConfig,
    CommonConfig,
    Config,
    EvaluateConfig,
    FormatConfig,
    ModelConfig,
    PreflightConfig,
    RolloutConfig,
)
from grpo.core.errors import UserError, shorten
from grpo.core.paths import path_fault

# Arguments of transformers' apply_chat_template, and what it passes to every template.
TEMPLATE_ARGUMENTS = (
    "conversation",
    "messages",
    "tools",
    "documents",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "sanitize_control_tokens",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
)

# The settings that are paths.
PATH_SETTINGS = (
    "model.path",
    "model.gguf",
    "model.tokenizer",
    "model.adapter",
    "data.path",
    "data.train_file",
    "data.test_file",
    "data.validation_file",
    "data.difficulty",
    "reward_files",
    "resume",
    "run",
    "baseline",
    "completions",
    "probes",
)


# The settings that are mappings to which any name can be added; their type alone lets OmegaConf take any value.
MAPPINGS = ("reward_args", "chat_template_kwargs")


def check_lists_and_paths(config: AnyConfig) -> None:
    """Check the types of mappings and list elements, which OmegaConf does not check, and that paths are possible.

    Raises:
        UserError: a value or an element of another type, or a path that no file can have.
    """
    for key in MAPPINGS:
        if not isinstance(value := getattr(config, key, {}), dict):
            raise UserError(f"{key}={shorten('null' if value is None else value)}: must be a mapping, in braces.")
    for key, kind in list_settings(type(config)).items():
        values: Any = get_setting(config, key) or []
        if not all(isinstance(value, kind) for value in values):
            elements = "text" if kind is str else "whole numbers"
            raise UserError(
                f"{key}={shorten(values)}: must be a list of {elements}, with no list or mapping inside it."
            )
    for key in PATH_SETTINGS:
        for path in _paths_of(config, key):
            if fault := path_fault(path):
                raise UserError(f"{key}={shorten(path)}: {fault}.")


def check_config(config: AnyConfig) -> None:
    """Check every value and every combination of values.

    Raises:
        UserError: a value breaks its rule, or two values exclude each other.
    """
    common = COMMON_RULES if isinstance(config, CommonConfig) else {}
    for key, (is_allowed, rule) in (common | RULES.get(type(config), {})).items():
        check_value(key, get_setting(config, key), is_allowed, rule)
    _check_weights(config.rewards)
    check_format(config.format)
    _check_overlong(config)
    if isinstance(config, AuditConfig):
        if config.probes is not None and config.completions is not None:
            raise UserError(f"probes={config.probes}: completions= is scored instead of probes; give one of them.")
        return
    check_data(config.data)
    _check_template_kwargs(config)
    _check_sampler_settings(config.rollout)
    _check_engine(config)
    _check_model(config.model)
    if isinstance(config, Config):
        if config.trust_run and config.resume is None:
            raise UserError("trust_run=true: applies to resume=FOLDER only; leave it out.")
        _check_batch(config)
        check_algorithm(config)
        if config.prefix_attention != "sdpa" and not config.share_prompts:
            raise UserError(
                f"prefix_attention={config.prefix_attention}: applies to shared prompts only; leave it out, or "
                "set share_prompts=true."
            )
        if config.model.load_in_4bit and not config.model.trains_adapter:
            raise UserError("model.load_in_4bit=true: 4-bit weights are not trained; add model.lora_rank=16.")
    if isinstance(config, EvaluateConfig):
        _check_evaluation(config)
    if isinstance(config, PreflightConfig):
        _check_preflight(config)


def _check_weights(rewards: dict[str, Any]) -> None:
    for name, weight in rewards.items():
        if isinstance(weight, dict):
            for key, rule in SCHEDULE_RULES.items():
                check_value(f"rewards.{name}.{key}", weight[key], *rule)
        else:
            check_value(f"rewards.{name}", weight, *WEIGHT_RULE)


def _check_overlong(config: AnyConfig) -> None:
    """Check the limits of the reward `overlong`; their types are checked with those of all rewards."""
    limits = config.reward_args.get("overlong")
    if "overlong" not in config.rewards or not isinstance(limits, dict):
        return
    limit, free = limits.get("limit"), limits.get("free")
    if limit is None and isinstance(config, CommonConfig):
        limit = config.max_completion_length
    if isinstance(limit, int) and isinstance(free, int) and not 0 <= free < limit:
        name = "max_completion_length" if limits.get("limit") is None else "reward_args.overlong.limit"
        raise UserError(f"reward_args.overlong.free={free}: must be at least 0 and below {name}={limit}.")
    if isinstance(limit, int) and limit < 1:
        raise UserError(f"reward_args.overlong.limit={limit}: must be at least 1.")


def _check_template_kwargs(config: CommonConfig) -> None:
    for name, value in config.chat_template_kwargs.items():
        if name in TEMPLATE_ARGUMENTS:
            raise UserError(
                f"chat_template_kwargs.{name}={shorten(value)}: {name} is no variable of a chat template but set for "
                "all of them; leave it out. A variable is given as in chat_template_kwargs.enable_thinking=false."
            )


def check_format(answer_format: FormatConfig) -> None:
    """
    Raises:
        UserError: a value breaks its rule, or the names do not belong to the format.
    """
    for key, (is_allowed, rule) in FORMAT_RULES.items():
        check_value(key, getattr(answer_format, key.removeprefix("format.")), is_allowed, rule)
    names = {"reasoning": answer_format.reasoning, "answer": answer_format.answer}
    if answer_format.name != "tags" and None not in names.values():
        raise UserError(
            f"format.name={answer_format.name}: set format={answer_format.name} instead, without format.reasoning and "
            "format.answer; it has no tags."
        )
    for key, name in names.items():
        if answer_format.name == "tags" and name is None:
            raise UserError(f"format.{key}=null: format=tags needs the name of a tag there.")
        if answer_format.name != "tags" and name is not None:
            raise UserError(
                f"format.{key}={name}: format={answer_format.name} has no tags; leave it out, and choose the format "
                "with format=."
            )
    if answer_format.name == "tags" and answer_format.reasoning == answer_format.answer:
        raise UserError(
            f"format.reasoning={answer_format.reasoning} format.answer={answer_format.answer}: the two tags need "
            "different names."
        )


def _check_model(model: ModelConfig) -> None:
    if model.num_layers is not None and model.init != "random":
        raise UserError(
            f"model.num_layers={model.num_layers}: applies to random weights only; add model.init=random, or leave it "
            "out."
        )
    if model.load_in_4bit and model.init == "random":
        raise UserError(
            "model.load_in_4bit=true: quantizes weights while they are loaded, and model.init=random loads none; leave "
            "out one of them."
        )
    for name, value in (("gguf", model.gguf), ("adapter", model.adapter)):
        if value is not None and model.init == "random":
            raise UserError(
                f"model.{name}={value}: has trained weights, and model.init=random has none; leave out one."
            )
    if model.gguf is not None and model.load_in_4bit:
        raise UserError(
            f"model.gguf={model.gguf}: its weights are dequantized to model.dtype, not loaded in 4 bits; leave out "
            "model.load_in_4bit=true, or give the folder of the original weights, model.path=FOLDER."
        )
    if model.merge_adapter and model.adapter is None:
        raise UserError("model.merge_adapter=true: there is no adapter to merge; add model.adapter=FOLDER.")
    if model.merge_adapter and model.load_in_4bit:
        raise UserError(
            "model.merge_adapter=true: adapters are not merged into 4-bit weights; leave out model.load_in_4bit=true."
        )


def check_value(key: str, value: Any, is_allowed: Callable[[Any], bool], rule: str) -> None:
    finite = not isinstance(value, float) or math.isfinite(value)
    if value is not None and not (finite and is_allowed(value)):
        raise UserError(f"{key}={shorten(value)}: {rule if finite else 'must be a finite number'}.")


def _paths_of(config: Any, key: str) -> list[str]:
    value = get_setting(config, key)
    return value if isinstance(value, list) else [] if value is None else [value]


def _check_batch(config: Config) -> None:
    completions = config.prompts_per_step * config.num_generations * config.algorithm.steps_per_generation
    if completions > MAX_COMPLETIONS:
        steps = config.algorithm.steps_per_generation
        raise UserError(
            f"prompts_per_step={config.prompts_per_step} x num_generations={config.num_generations}"
            + f" x algorithm.steps_per_generation={steps}" * (steps > 1)
            + f" = {completions:,} completions sampled at once: at most {MAX_COMPLETIONS:,} are possible."
        )


def _check_sampler_settings(rollout: RolloutConfig) -> None:
    """Check that the sampler has the settings that are given, and that it is given those that it needs."""
    own_settings = SAMPLER_SETTINGS[rollout.name]
    for name, value in non_neutral_sampling(rollout).items():
        if name not in own_settings:
            raise UserError(
                f"rollout.{name}={value}: rollout={rollout.name} samples from the policy's own distribution and has no "
                f"such setting; use rollout=generate rollout.{name}={value}."
            )
    for item in fields(rollout):
        value = getattr(rollout, item.name)
        if value is not None and item.name not in ("name", *SAMPLING_PARAMETERS, *own_settings):
            samplers = " or ".join(
                f"rollout={name}" for name, settings in SAMPLER_SETTINGS.items() if item.name in settings
            )
            raise UserError(
                f"rollout.{item.name}={value}: rollout={rollout.name} has no such setting; {samplers} has it."
            )
        if (
            value is None
            and item.name in own_settings
            and item.name not in (*SAMPLING_PARAMETERS, *CORRECTION_SETTINGS)
        ):
            raise UserError(f"rollout.{item.name}=null: rollout={rollout.name} needs a value there.")
    if rollout.kernels == "triton" and not rollout.native:
        raise UserError(
            "rollout.native=false rollout.kernels=triton: the kernels are those of native decoding; give "
            "rollout.native=true, or rollout.kernels=torch."
        )
    truncates = rollout.correction in ("token_truncate", "sequence_truncate")
    if truncates and rollout.correction_max is None and rollout.correction_min is None:
        raise UserError(
            f"rollout.correction={rollout.correction}: needs a bound for the ratios, rollout.correction_max=2.0."
        )


def _check_engine(config: CommonConfig) -> None:
    """Check what a sampler of another project can be combined with."""
    rollout = config.rollout
    if rollout.name in ENGINES and isinstance(config, EvaluateConfig):
        raise UserError(
            f"rollout={rollout.name}: it samples in training only; evaluate with rollout=fast, as a run does itself."
        )
    model = config.model
    has_no_folder = model.init == "random" or model.gguf is not None or model.merge_adapter
    if rollout.name == "vllm" and model.trains_adapter and has_no_folder:
        source = "model.init=random" if model.init == "random" else model.setting
        raise UserError(
            f"{source} model.lora_rank={model.lora_rank}: rollout=vllm loads its copy of the policy from a folder, and "
            "these weights with new adapters have none; train all weights, model.lora_rank=0, or use rollout=fast."
        )
    if rollout.name in VLLM_ENGINES and config.device == "cpu":
        raise UserError(
            f"device=cpu: rollout={rollout.name} needs a GPU, device=cuda; on a CPU use rollout=fast, which is also "
            "the fastest there."
        )


def _check_evaluation(config: EvaluateConfig) -> None:
    if config.samples > 1 and config.temperature == 0:
        raise UserError(f"samples={config.samples}: greedy completions are all equal; add temperature=1.0.")
    if config.k is not None and (not config.k or min(config.k) < 1 or max(config.k) > MAX_COMPLETIONS):
        raise UserError(
            f"k={shorten(config.k)}: must be a list of whole numbers from 1 to {MAX_COMPLETIONS:,}, k=[1,8]."
        )
    if config.k is not None and config.completions is None and max(config.k) > config.samples:
        raise UserError(f"k={config.k}: must not exceed samples={config.samples}.")
    for name, value in non_neutral_sampling(config.rollout).items():
        if config.temperature == 0 and name != "repetition_penalty":
            raise UserError(f"rollout.{name}={value}: has no effect on greedy decoding; add temperature=1.0.")


def _check_preflight(config: PreflightConfig) -> None:
    if config.resume is not None:
        raise UserError(
            f"resume={config.resume}: a preflight asks a policy before its training; type the settings of the run "
            "instead of resume=."
        )
    if config.samples is not None and config.samples < config.num_generations:
        raise UserError(
            f"samples={config.samples}: a group of the run has num_generations={config.num_generations} completions, "
            f"so its forecast needs as many of each problem; set samples={config.num_generations}, or leave it out."
        )
