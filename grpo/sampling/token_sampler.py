"""The next token of each completion: logits from a decoder, then greedy choice or inverse-CDF sampling.

Called for every decode step by `trie_decode` and `cuda_graphs`. It knows nothing of how slots are arranged.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from grpo.policy.prefix_sharing import PackedBatch, forward_packed
from grpo.sampling.kv_cache import Cache

# Tokens between two looks at which completions have ended.
EOS_CHECK_INTERVAL = 8


class Decoder(Protocol):
    def refresh(self) -> None:
        """Take over the policy's present weights."""

    def logits(self, batch: PackedBatch) -> Tensor:
        """(slots, vocabulary) in float32: what follows the last token of each slot, `batch.ids`."""


class TransformersDecoder:
    """Computes next-token logits with transformers' modules, whatever the architecture."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def refresh(self) -> None:
        pass  # the modules read the policy's weights as they are

    def logits(self, batch: PackedBatch) -> Tensor:
        logits: Tensor = forward_packed(self.policy, batch).logits[0]
        return logits.float()


@dataclass
class TokenSampler:
    """How tokens follow from a policy's logits."""

    decoder: Decoder
    temperature: float | None  # None: greedy
    is_eos: Tensor  # (V,)

    def next(self, cache: Cache, uniforms: Tensor | None, slot: Tensor) -> Tensor:
        """The next token (B,) of the completions in the slots (B,), from uniforms in [0, 1) (B,)."""
        cache.own_bias.index_fill_(0, cache.t, 0.0)
        logits = self.decoder.logits(cache)
        if self.temperature is None or uniforms is None:
            return logits.argmax(-1)[slot]
        if self.temperature != 1:
            logits = logits / self.temperature
        # Accumulated in float64: in float32 a large vocabulary's tail would be lost in rounding. Each slot's sums are
        # lifted above those before it, so that one search through all of them serves the completions of any slot.
        slots, vocabulary = logits.shape
        sums = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
        lift = 2.0 * torch.arange(slots, device=logits.device)
        sought = (uniforms * sums[:, -1][slot]).add_(lift[slot])
        found = torch.searchsorted(sums.add_(lift[:, None]).view(-1), sought, right=True)
        return (found - slot * vocabulary).clamp_(0, vocabulary - 1)
