"""Keys and values of slots, each with its prompt and its completion, for decoding over a trie.

`trie_decode` decodes with a `SlotCache`, a packed batch of `grpo.policy.prefix_sharing`. Every slot has a copy of its
prompt, so that the attention of a layer is one operation: on a CPU, a decode step of a small policy spends most of its
time on calling operations. `KVCache` (kv_cache.py) stores each prompt once, for CUDA graphs. This module chooses no
tokens.

Shapes: S slots, P prompt tokens and C completion tokens (padded), H key heads, Q query heads per key head, D head size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo.sampling.kv_cache import PromptPrefill


class SlotCache:
    """The keys and values of S slots; at first, each prompt has one.

    Attributes:
        ids: (S,) the last token of each slot.
        positions: (S,) the position of that token.
        width: the number of columns in use.
        bias: (S, 1, 1, P + C) -inf in columns before a prompt, which is padded on the left, else 0.
        keys, values: layer -> (S or more, H, P + C, D).
    """

    def __init__(self, prefill: PromptPrefill, max_new_tokens: int, max_slots: int) -> None:
        """`max_slots`: the number of completions; more slots are never needed."""
        self.max_slots = max_slots
        lengths, self.width = prefill.prompts.lengths, prefill.prompts.width
        self.ids, self.positions = prefill.last_ids.clone(), lengths.clone()
        self.longest = self.width + max_new_tokens
        token = torch.arange(self.longest, device=lengths.device) - (self.width - lengths)[:, None]  # of each column
        padding = torch.zeros(token.shape, device=lengths.device).masked_fill_(token < 0, -torch.inf)
        self.bias = padding[:, None, None]
        padded_left = token[:, : self.width].clamp(min=0)[:, None, :, None]

        def with_room(states: dict[int, Tensor]) -> dict[int, Tensor]:
            return {
                layer: F.pad(tensor.take_along_dim(padded_left, 2), (0, 0, 0, max_new_tokens))
                for layer, tensor in states.items()
            }

        self.keys, self.values = with_room(prefill.keys), with_room(prefill.values)

    def start_step(self) -> None:
        """Reserve the column for the keys and values of the last tokens; called before their forward pass."""
        self.width += 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store the last tokens' keys and values (S, H, D); queries (S, H * Q, D) -> attention (S, H * Q, D)."""
        slots, heads, dim = query.shape
        if layer not in self.keys:  # every prompt is one token long
            shape = (slots, key.shape[1], self.longest, dim)
            self.keys[layer], self.values[layer] = value.new_zeros(shape), value.new_zeros(shape)
        keys, values = (states[layer][:slots, :, : self.width] for states in (self.keys, self.values))
        keys[:, :, -1].copy_(key)
        values[:, :, -1].copy_(value)
        # The query heads of a key head take the place of a sequence of queries.
        query = query.to(values.dtype).view(slots, -1, heads // key.shape[1], dim)
        bias = self.bias[..., : self.width].to(values.dtype)
        return F.scaled_dot_product_attention(query, keys, values, bias, scale=scale).reshape(slots, heads, dim)

    def append(self, ids: Tensor) -> None:
        """Add the next token (S,) of every slot."""
        self.ids = ids
        self.positions.add_(1)

    def add_copies(self, parents: Tensor) -> None:
        """Add a slot for each of the slots `parents` (N,), with the same tokens."""
        first, last = len(self.ids), len(self.ids) + len(parents)
        for states in (self.keys, self.values):
            for layer, tensor in states.items():
                if last > len(tensor):  # room for more than these, because growing copies all slots
                    room = min(2 * last, self.max_slots) - len(tensor)
                    tensor = states[layer] = F.pad(tensor, (0, 0, 0, 0, 0, 0, 0, room))
                filled = tensor[:, :, : self.width]
                filled[first:last] = filled.index_select(0, parents)
        self.ids, self.positions = (torch.cat((x, x[parents])) for x in (self.ids, self.positions))
        self.bias = torch.cat((self.bias, self.bias[parents]))

    def select(self, slots: Tensor) -> None:
        """Retain the slots `slots` (S',) only."""
        self.ids, self.positions, self.bias = self.ids[slots], self.positions[slots], self.bias[slots]
        for states in (self.keys, self.values):
            for tensor in states.values():
                tensor[: len(slots), :, : self.width] = tensor[:, :, : self.width].index_select(0, slots)
