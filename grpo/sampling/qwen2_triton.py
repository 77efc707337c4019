"""The decode step of `FusedQwen2Decoder` with Triton kernels: eight kernels per layer, four of them matrix products.

The prefix-sharing sampler uses it for `rollout.kernels=triton`. The class that it extends is its reference. It does not
know how tokens are chosen in a run.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo.policy.prefix_sharing import PackedBatch, forward_packed
from grpo.sampling import kernels
from grpo.sampling.kv_cache import KVCache, PromptPrefill
from grpo.sampling.policy_state import sampling_mode
from grpo.sampling.qwen2 import FusedQwen2Decoder
from grpo.sampling.token_sampler import sample_inverse_cdf


class TritonQwen2Decoder(FusedQwen2Decoder):
    """A `Decoder` for policies of the Qwen2 architecture; its batches are a `KVCache`."""

    def _logits(self, batch: PackedBatch) -> Tensor:
        assert isinstance(batch, KVCache)
        epsilon, slots, dim = self.model.config.rms_norm_eps, len(batch.ids), self.head_dim
        cos, sin = self._rotary_tables(batch.positions)
        x = F.embedding(batch.ids, self.model.model.embed_tokens.weight)
        y = None  # the output of the last sublayer, which the next kernel adds to x
        for index, layer in enumerate(self.layers):
            normed = kernels.add_norm(x, y, epsilon, self.dtype)
            attended = kernels.attend(
                torch.addmm(layer.qkv_bias, normed, layer.qkv.T).view(slots, -1, dim),
                *(cos, sin, batch.positions, batch.length),
                (batch.prompt_keys[index], batch.prompt_values[index]) if batch.prompt_keys else None,
                batch.completion_storage(index, self.key_heads, dim, self.dtype),
                batch.slots,
                dim**-0.5,
            )
            normed = kernels.add_norm(x, attended.view(slots, -1) @ layer.out.T, epsilon, self.dtype)
            y = kernels.silu_gate(normed @ layer.gate_up.T) @ layer.down.T
        return self._head(kernels.add_norm(x, y, epsilon, self.dtype))

    def difference(self, policy: Any, bf16: bool, prompts: list[list[int]], slots: int, steps: int) -> float:
        """The difference of log-probabilities between decode steps with and without the kernels.

        It is the mean absolute difference over the vocabulary, in the step and slot in which this mean is largest. It
        is infinite if more than a tenth of the tokens that are sampled from equal logits differ; rounding changes a
        few. The call compiles every kernel for this policy.

        Args:
            slots: completions of each prompt.
            steps: tokens of each completion.
        """
        device, differences, sampled_others = self.model.device, [], 0
        self.update_weights()
        with sampling_mode(policy, bf16):
            prefill = PromptPrefill(prompts, device)
            forward_packed(self.model.base_model, prefill)
            cache, reference_cache = (KVCache(prefill, slots, steps) for _ in range(2))
            slot = torch.arange(len(prompts) * slots, device=device)
            generator = torch.Generator().manual_seed(0)
            uniforms = torch.rand(steps, len(slot), dtype=torch.float64, generator=generator).to(device)
            with torch.autocast(device.type, enabled=False):
                for step in range(steps):
                    reference_cache.completion_bias.index_fill_(0, reference_cache.length, 0.0)
                    logits, reference = self._logits(cache), super()._logits(reference_cache)
                    differences.append(float((logits.log_softmax(-1) - reference.log_softmax(-1)).abs().mean(-1).max()))
                    tokens = sample_inverse_cdf(reference, uniforms[step], slot, 0.9)
                    sampled_others += int((tokens != kernels.sample(reference, uniforms[step], slot, 0.9)).sum())
                    cache.append(tokens)
                    reference_cache.append(tokens)
        return max(differences) if sampled_others <= uniforms.numel() / 10 else float("inf")
