"""The project's own sampler: each distinct prompt is computed once for all of its completions.

Built by `grpo.sampling.build`. It prefills the prompts (`kv_cache`), then decodes with shared slots (`trie_decode`) or
with CUDA graphs (`cuda_graphs`). It knows nothing of rewards or training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from grpo.core.console import say
from grpo.policy.compatibility import find_eos_token_ids
from grpo.policy.prefix_sharing import (
    PrefixSharingUnsupported,
    distinct,
    enable_prefix_sharing,
    forward_packed,
    unwrap_adapters,
)
from grpo.sampling.cuda_graphs import CudaGraphs
from grpo.sampling.generate_sampler import GenerateSampler
from grpo.sampling.kv_cache import Prefill
from grpo.sampling.policy_state import sampling_mode
from grpo.sampling.sampler import RowSeed
from grpo.sampling.token_sampler import Decoder, TokenSampler, TransformersDecoder
from grpo.sampling.trie_decode import decode_trie


def fallback_message(reason: PrefixSharingUnsupported) -> str:
    return f"rollout=fast does not go with this policy: {reason}. Sampling goes on as with rollout=generate."


class PrefixSharingSampler:
    """Computes each distinct prompt once, keeps its keys and values once for all of its completions, and computes
    completions once for as long as they are alike. Those that have ended are dropped.

    Sampling is by inverse CDF from one uniform number a token. The numbers come from torch's own CPU generator, whose
    state is part of every checkpoint, and belong to the rows: what a row gets does not hang on the rows beside it.
    """

    def __init__(self, policy: Any, tokenizer: PreTrainedTokenizerBase, bf16: bool, fused: bool) -> None:
        """
        Raises:
            Unsupported: the policy cannot run on shared prompts.
        """
        enable_prefix_sharing(policy)
        self.policy, self.tokenizer, self.bf16 = policy, tokenizer, bf16
        self.instead: GenerateSampler | None = None
        model = unwrap_adapters(policy)
        self.is_eos = torch.zeros(model.config.get_text_config().vocab_size, dtype=torch.bool, device=model.device)
        self.eos_token_ids = find_eos_token_ids(policy, tokenizer)
        self.is_eos[self.eos_token_ids] = True
        self.decoder: Decoder = TransformersDecoder(policy)
        self.graphs: CudaGraphs | None = None
        if fused:
            from grpo.sampling.qwen2 import FusedQwen2Decoder

            if FusedQwen2Decoder.supports(policy):
                self.decoder = FusedQwen2Decoder(policy, torch.bfloat16 if bf16 else model.dtype)
                self.graphs = CudaGraphs() if model.device.type == "cuda" else None

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None = None,
        seeds: Sequence[RowSeed] | None = None,
    ) -> list[list[int]]:
        if self.instead is None:
            try:
                return self._complete(prompts, max_new_tokens, temperature, seeds)
            except PrefixSharingUnsupported as reason:
                say(fallback_message(reason))
                self.instead = GenerateSampler(self.policy, self.tokenizer, self.bf16)
        return self.instead.complete(prompts, max_new_tokens, temperature, seeds)

    def release_memory(self) -> None:
        if self.graphs:
            self.graphs.forget()

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None,
        seeds: Sequence[RowSeed] | None,
    ) -> list[list[int]]:
        model = unwrap_adapters(self.policy)
        first, group = distinct([tuple(ids) for ids in prompts])
        uniforms = None
        if temperature is not None and seeds is None:
            uniforms = torch.rand(len(prompts), max_new_tokens, dtype=torch.float64)
        elif temperature is not None and seeds is not None:
            drawn = [np.random.default_rng(seed).random(max_new_tokens) for seed in seeds]
            uniforms = torch.from_numpy(np.stack(drawn))
        with sampling_mode(self.policy, self.bf16):
            prefill = Prefill([list(prompts[i]) for i in first], model.device)
            self.decoder.refresh()
            if len(prefill.ids):
                forward_packed(model.base_model, prefill)
            if self.graphs:
                torch.clear_autocast_cache()  # weights cast for the prefill, which the decoder has copies of
            sampler = TokenSampler(self.decoder, temperature, self.is_eos)
            run = self.graphs.run if self.graphs else decode_trie
            return run(sampler, prefill, group, uniforms, max_new_tokens)
