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
from grpo.runs.provenance import problems_digest
from grpo.tasks.example import Example

ANSWER_MATCH_RULES = {
    "number": "holding one number, the one of the gold answer; golds without one are compared as text",
    "text": "equal to the gold answer as text, apart from case and surrounding punctuation",
    "strict": "equal to the gold answer as nothing but a number, else as text",
}


def describe_extraction(answer_match: str) -> dict[str, str]:
    """A description of how answers are extracted from completions and compared."""
    return {
        "strict": f"the last closed <answer> block, {ANSWER_MATCH_RULES[answer_match]}",
        "flexible": "the last number anywhere",
    }


def evaluation_protocol(
    config: CommonConfig,
    split: str,
    examples: Sequence[Example],
    policy: dict[str, Any],
    samples: int = 1,
    temperature: float = 0.0,
) -> dict[str, Any]:
    """How completions are generated and scored: everything the figures depend on, except the end tokens."""
    decoding: dict[str, Any] = {"samples": samples, "temperature": temperature}
    decoding |= (NEUTRAL_SAMPLING if temperature else {}) | non_neutral_sampling(config.rollout)
    if temperature:
        decoding["seed"] = config.seed
    settings = asdict(config.data).items()
    unused = "train_" if split == "validation" else ("train_", "validation_")
    return {
        "policy": policy,
        "split": split,
        "data": {name: value for name, value in settings if value is not None and not name.startswith(unused)},
        "problems": problems_digest(examples),
        "system_prompt": config.system_prompt,
        "decoding": decoding,
        "max_completion_length": config.max_completion_length,
        "extraction": describe_extraction(config.data.answer_match),
        "rewards": config.rewards,
        "reward_files": {name: file_sha256(Path(name).expanduser()) for name in config.reward_files},
        "computing": {
            "weights": config.model.dtype,
            "autocast": "bfloat16" if config.bf16 else None,
            "device": config.device,
            "rollout": config.rollout.name,
            "native": config.rollout.native,
        },
    }
