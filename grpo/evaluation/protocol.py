"""The protocol of an evaluation: everything that its figures depend on.

Called by everything that saves an evaluation. It must not import torch.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo.config.samplers import NEUTRAL_SAMPLING, non_neutral_sampling
from grpo.config.schema import CommonConfig
from grpo.core.files import file_sha256
from grpo.policy.chat_template import ChatTemplate
from grpo.runs.provenance import problems_digest
from grpo.tasks.answer_format import DEFAULT_FORMAT, answer_format_of
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.example import Example

TEMPLATE_FACTS = ("stop", "opened", "system_role")  # the keys of `describe_template`


def describe_extraction(config: CommonConfig) -> dict[str, str]:
    """A description of what counts as right: in the requested format (`strict`), and anywhere in the completion."""
    answer_type = ANSWER_TYPES[config.data.answer]
    return {
        "strict": f"{config.correct_by} is above 0; the answer {answer_type.rule}",
        "flexible": answer_type.anywhere,
    }


def describe_arguments(config: CommonConfig) -> dict[str, Any]:
    """The values of reward_args, if there are any."""
    return {"reward_args": config.reward_args} if config.reward_args else {}


def describe_template(chat: ChatTemplate, end_tokens: Sequence[str]) -> dict[str, Any]:
    """What the policy's chat template adds to a protocol; it is known once the tokenizer is loaded."""
    facts: dict[str, Any] = {"stop": list(end_tokens)}
    if chat.opened:
        facts["opened"] = chat.opened
    if chat.system_prompt and "system" in chat.missing_roles:
        facts["system_role"] = False
    return facts


def describe_format(config: CommonConfig) -> dict[str, str]:
    """The settings of the answer format, if it is not the default."""
    answer_format = answer_format_of(config.format)
    return {} if answer_format == DEFAULT_FORMAT else {"format": answer_format.setting}


def evaluation_protocol(
    config: CommonConfig,
    split: str,
    examples: Sequence[Example],
    policy: dict[str, Any],
    samples: int = 1,
    temperature: float = 0.0,
) -> dict[str, Any]:
    """How completions are generated and scored: all that the figures depend on, without `describe_template`."""
    decoding: dict[str, Any] = {"samples": samples, "temperature": temperature}
    decoding |= (NEUTRAL_SAMPLING if temperature else {}) | non_neutral_sampling(config.rollout)
    if temperature:
        decoding["seed"] = config.seed
    settings = asdict(config.data).items()
    unused = ("train_", "difficulty", "solve_rate", "curriculum", *(() if split == "validation" else ("validation_",)))
    own_system_prompts = sum(example.has_system_prompt for example in examples)
    return {
        "policy": policy,
        "split": split,
        "data": {name: value for name, value in settings if value is not None and not name.startswith(unused)},
        "problems": problems_digest(examples),
        "system_prompt": config.system_prompt,
        **({"own_system_prompts": own_system_prompts} if own_system_prompts else {}),
        **({"chat_template_kwargs": config.chat_template_kwargs} if config.chat_template_kwargs else {}),
        "decoding": decoding,
        "max_completion_length": config.max_completion_length,
        **describe_format(config),
        "extraction": describe_extraction(config),
        "rewards": config.rewards,
        **describe_arguments(config),
        "reward_files": {name: file_sha256(Path(name).expanduser()) for name in config.reward_files},
        "computing": {
            "weights": config.model.dtype,
            "autocast": "bfloat16" if config.bf16 else None,
            "device": config.device,
            "rollout": config.rollout.name,
            "native": config.rollout.native,
            **({"kernels": "triton"} if config.rollout.kernels == "triton" else {}),
        },
    }
