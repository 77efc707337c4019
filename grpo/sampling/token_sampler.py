"""The next token of each completion: logits from a decoder, then greedy choice or inverse-CDF sampling.

Called for every decode step by `trie_decode` and `cuda_graphs`. It does not know how completions are assigned to slots.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from grpo.policy.prefix_sharing import PackedBatch, forward_packed
from grpo.sampling.kv_cache import KVCache
from grpo.sampling.slot_cache import SlotCache

# Tokens between two checks for ended completions; a check waits for the device.
END_CHECK_INTERVAL = 8


class Decoder(Protocol):
    def update_weights(self) -> None:
        """Read the policy's current weights."""

    def logits(self, batch: PackedBatch) -> Tensor:
        """(S, V) in float32: the logits after the last token of each of the S slots, `batch.ids`."""


class TransformersDecoder:
    """A `Decoder` that runs transformers' modules, for any architecture."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def update_weights(self) -> None:
        """The modules always read the policy's own weights."""

    def logits(self, batch: PackedBatch) -> Tensor:
        """(S, V) in float32."""
        logits: Tensor = forward_packed(self.policy, batch).logits[0]
        return logits.float()


def sample_inverse_cdf(logits: Tensor, uniforms: Tensor, slot: Tensor, temperature: float) -> Tensor:
    """Tokens (B,) from the softmax of logits (S, V) / temperature: for each uniform number of [0, 1) (B,), the first
    token at which the cumulative sum of its slot's probabilities exceeds it; `slot` (B,) may repeat slots."""
    if temperature != 1:
        logits = logits / temperature
    # Cumulative sums are in float64, because in float32 rounding would lose the tail of a large vocabulary. The sums of
    # slot i are raised by 2 i, above those of the slots before it, so that one search over the flattened sums serves
    # the completions of all slots.
    slots, vocabulary = logits.shape
    sums = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    offsets = 2.0 * torch.arange(slots, device=logits.device)
    targets = (uniforms * sums[:, -1][slot]).add_(offsets[slot])
    positions = torch.searchsorted(sums.add_(offsets[:, None]).view(-1), targets, right=True)
    return (positions - slot * vocabulary).clamp_(0, vocabulary - 1)


@dataclass
class TokenSampler:
    """Chooses the next token from a decoder's logits.

    Attributes:
        temperature: None decodes greedily.
        is_end_token: (V,) whether a token ends a completion.
        sample: `sample_inverse_cdf` or a function that computes the same.
    """

    decoder: Decoder
    temperature: float | None
    is_end_token: Tensor
    sample: Callable[[Tensor, Tensor, Tensor, float], Tensor]

    def next(self, cache: KVCache | SlotCache, uniforms: Tensor | None, slot: Tensor) -> Tensor:
        """The next tokens (B,) of the completions in the slots `slot` (B,), from uniforms in [0, 1) (B,)."""
        cache.start_step()
        logits = self.decoder.logits(cache)
        if self.temperature is None or uniforms is None:
            return logits.argmax(-1)[slot]
        return self.sample(logits, uniforms, slot, self.temperature)
