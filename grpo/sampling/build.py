"""The choice of a sampler: the one that the configuration names, or transformers' own if the policy needs it.

Every command that samples calls this once. It knows both samplers, and nothing of training.
"""

from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo.config.samplers import non_neutral_sampling
from grpo.config.schema import CommonConfig
from grpo.core.console import say
from grpo.policy.prefix_sharing import PrefixSharingUnsupported
from grpo.sampling.generate_sampler import GenerateSampler
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler, fallback_message
from grpo.sampling.sampler import Sampler


def build_sampler(policy: Any, tokenizer: PreTrainedTokenizerBase, config: CommonConfig) -> Sampler:
    """The sampler that `config.rollout` names; prints a message if the policy needs `generate` instead."""
    if config.rollout.name == "fast":
        try:
            fused, triton = bool(config.rollout.native), config.rollout.kernels == "triton"
            return PrefixSharingSampler(policy, tokenizer, config.bf16, fused, triton)
        except PrefixSharingUnsupported as reason:
            say(fallback_message(reason))
    return GenerateSampler(policy, tokenizer, config.bf16, **non_neutral_sampling(config.rollout))
