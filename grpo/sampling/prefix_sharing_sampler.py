"""The project's own sampler: each distinct prompt is computed once for all of its completions.

Built by `grpo.sampling.build`. It prefills the prompts (`kv_cache`), then decodes with shared slots (`trie_decode`) or
with CUDA graphs (`cuda_graphs`). It knows nothing of rewards or training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grpo.core.console import say
from grpo.core.errors import first_line
from grpo.policy.end_tokens import find_end_token_ids
from grpo.policy.prefix_sharing import (
    PrefixSharingUnsupported,
    enable_prefix_sharing,
    forward_packed,
    number_distinct,
    unwrap_adapters,
)
from grpo.sampling.cuda_graphs import CudaGraphs
from grpo.sampling.generate_sampler import GenerateSampler
from grpo.sampling.kv_cache import PromptPrefill
from grpo.sampling.policy_state import sampling_mode
from grpo.sampling.sampler import RowSeed
from grpo.sampling.token_sampler import Decoder, TokenSampler, TransformersDecoder, sample_inverse_cdf
from grpo.sampling.trie_decode import decode_trie


def fallback_message(reason: PrefixSharingUnsupported) -> str:
    return f"rollout=fast does not work with this policy: {reason}. Sampling with rollout=generate instead."


class PrefixSharingSampler:
    """A `Sampler` that computes and caches each distinct prompt once, and equal completions once until they diverge.

    Sampling is by inverse CDF from one uniform number per token. The numbers come from torch's CPU generator, whose
    state is part of every checkpoint, and each row has its own: the tokens of a row do not depend on the other rows.
    """

    def __init__(
        self, policy: Any, tokenizer: PreTrainedTokenizerBase, bf16: bool, fused: bool, triton: bool = False
    ) -> None:
        """Choose the decoder.

        Args:
            fused: decode with a fused decoder if there is one for the policy's architecture.
            triton: on a GPU, use its Triton kernels if they work there.

        Raises:
            PrefixSharingUnsupported: the policy's attention does not support shared prompts.
        """
        enable_prefix_sharing(policy)
        self.policy, self.tokenizer, self.bf16 = policy, tokenizer, bf16
        self.fallback: GenerateSampler | None = None
        model = unwrap_adapters(policy)
        self.is_end_token = torch.zeros(
            model.config.get_text_config().vocab_size, dtype=torch.bool, device=model.device
        )
        self.end_token_ids = find_end_token_ids(policy, tokenizer)
        self.is_end_token[self.end_token_ids] = True  # (V,)
        self.decoder: Decoder = TransformersDecoder(policy)
        self.sample = sample_inverse_cdf
        self.packs_weights = False  # whether the decoder has chosen packed weights (grpo/sampling/products.py)
        self.graphs: CudaGraphs | None = None
        if fused:
            from grpo.sampling.products import PackedProducts
            from grpo.sampling.qwen2 import FusedQwen2Decoder

            if FusedQwen2Decoder.supports(policy):
                self.decoder = FusedQwen2Decoder(policy, torch.bfloat16 if bf16 else model.dtype)
                self.packs_weights = isinstance(self.decoder.products, PackedProducts)
                self.graphs = CudaGraphs() if model.device.type == "cuda" else None
                if triton and self.graphs:
                    self.use_kernels()

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None = None,
        seeds: Sequence[RowSeed] | None = None,
    ) -> list[list[int]]:
        """As `Sampler.complete`.

        Prints a message and uses `generate` from then on if the policy's attention window is shorter than a text.
        """
        if self.fallback is None:
            try:
                return self._complete(prompts, max_new_tokens, temperature, seeds)
            except PrefixSharingUnsupported as reason:
                say(fallback_message(reason))
                self.fallback = GenerateSampler(self.policy, self.tokenizer, self.bf16)
        return self.fallback.complete(prompts, max_new_tokens, temperature, seeds)

    def use_kernels(self) -> None:
        """Use Triton's kernels from now on; prints a message if they do not compile or compute something else."""
        dtype = torch.bfloat16 if self.bf16 else unwrap_adapters(self.policy).dtype
        try:
            from grpo.sampling import kernels
            from grpo.sampling.qwen2_triton import TritonQwen2Decoder

            decoder = TritonQwen2Decoder(self.policy, dtype)
            prompts = [list(range(9)), [0] * 3]
            difference = decoder.difference(self.policy, self.bf16, prompts, slots=2, steps=4)
            reason = f"log-probabilities differ by {difference:.2g} on average"
            works = difference < (1e-3 if dtype == torch.float32 else 0.2)
        except Exception as error:  # a missing package, or any exception of a compiler
            works, reason = False, first_line(error)
        if works:
            self.decoder, self.sample = decoder, kernels.sample
        else:
            say(f"rollout.kernels=triton does not work here: {reason}. Sampling with rollout.kernels=torch instead.")

    def release_memory(self) -> None:
        """Free the CUDA graphs and their storage."""
        if self.graphs:
            self.graphs.clear()

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None,
        seeds: Sequence[RowSeed] | None,
    ) -> list[list[int]]:
        model = unwrap_adapters(self.policy)
        first, prompt_of_row = number_distinct([tuple(ids) for ids in prompts])
        uniforms = None if temperature is None else draw_uniforms(len(prompts), max_new_tokens, seeds)
        with sampling_mode(self.policy, self.bf16):
            prefill = PromptPrefill([list(prompts[i]) for i in first], model.device)
            self.decoder.update_weights()
            if len(prefill.ids):
                forward_packed(model.base_model, prefill)
            if self.graphs:
                torch.clear_autocast_cache()  # weights cast for the prefill, of which the decoder has its own copies
            token_sampler = TokenSampler(self.decoder, temperature, self.is_end_token, self.sample)
            decode = self.graphs.decode if self.graphs else decode_trie
            return decode(token_sampler, prefill, prompt_of_row, uniforms, max_new_tokens)


def draw_uniforms(rows: int, max_new_tokens: int, seeds: Sequence[RowSeed] | None) -> Tensor:
    """(B, C) float64 in [0, 1) on the CPU: one number for each token of each row."""
    if seeds is None:
        return torch.rand(rows, max_new_tokens, dtype=torch.float64)
    return torch.from_numpy(np.stack([np.random.default_rng(seed).random(max_new_tokens) for seed in seeds]))
