"""Keys and values of prompts, each stored once, and of the completions that grow from them.

`PromptPrefill` computes the prompts; `KVCache` is the batch of every decode step with CUDA graphs, and `SlotCache` of
`slot_cache` without them. All are packed batches of `grpo.policy.prefix_sharing`, whose `attend` a forward pass calls
in every layer. Nothing here chooses tokens.

Shapes: G distinct prompts of T tokens in all, A slots per prompt, S = G * A slots, P prompt tokens and C completion
tokens (padded), H key heads, Q query heads per key head, D head size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo.policy.ragged_rows import RaggedRows


class PromptPrefill:
    """G distinct prompts, packed, each without its last token; stores the keys and values of every layer.

    The last token of a prompt is the first that each of its completions feeds to the policy.

    Attributes:
        last_ids: (G,) the last token of each prompt.
        ids, positions: (T,) the other tokens, one prompt after another.
        keys, values: layer -> (G, H, P, D).
    """

    def __init__(self, prompts: list[list[int]], device: torch.device) -> None:
        self.last_ids = torch.tensor([ids[-1] for ids in prompts], device=device)
        self.prompts = RaggedRows(torch.tensor([len(ids) - 1 for ids in prompts], device=device))
        self.ids = torch.tensor([token for ids in prompts for token in ids[:-1]], device=device)
        self.positions = self.prompts.columns.expand(len(prompts), -1)[self.prompts.mask]
        self.longest = self.prompts.width + 1
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Queries (T, H * Q, D), keys and values (T, H, D) -> causal attention within each prompt (T, H * Q, D)."""
        query, key, value = (self.prompts.pad(states) for states in (query, key, value))
        self.keys[layer], self.values[layer] = key.to(value.dtype), value
        grouped = query.shape[1] != key.shape[1]
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
        return self.prompts.unpad(attended)


class KVCache:
    """The keys and values of G prompts, each once, and of A slots per prompt with completions of equal length.

    A decode step changes tensors in place and never reads a value on the host, so a CUDA graph can capture it.

    Attributes:
        ids: (S,) the last token of each slot; the slots of a prompt are adjacent.
        positions: (S,) the position of that token.
        length: (1,) the number of completion tokens in the cache.
        read_width: the number of completion tokens that a step reads; those beyond `length` are masked.
        prompt_bias: (G, 1, P) and completion_bias: (C,): 0 where there is a token, else -inf.
        prompt_keys, prompt_values: layer -> (G * H, P, D).
        completion_keys, completion_values: layer -> (G * H * A, C, D).
    """

    def __init__(self, prefill: PromptPrefill, slots: int, max_new_tokens: int, width_multiple: int = 1) -> None:
        """Pads the prompts to a multiple of `width_multiple` tokens."""
        device = prefill.last_ids.device
        padding = -prefill.prompts.width % width_multiple
        mask = F.pad(prefill.prompts.mask, (0, padding))[:, None]
        self.num_prompts, self.max_new_tokens, self.read_width = len(prefill.last_ids), max_new_tokens, max_new_tokens
        self.ids = prefill.last_ids.repeat_interleave(slots)
        self.positions = prefill.prompts.lengths.repeat_interleave(slots)
        self.length = torch.zeros(1, dtype=torch.long, device=device)
        self.prompt_bias = torch.zeros(mask.shape, device=device).masked_fill_(~mask, -torch.inf)
        self.completion_bias = torch.full((max_new_tokens,), -torch.inf, device=device)

        def by_head(states: dict[int, Tensor]) -> dict[int, Tensor]:
            return {
                layer: F.pad(tensor, (0, 0, 0, padding)).flatten(0, 1).contiguous() for layer, tensor in states.items()
            }

        self.prompt_keys, self.prompt_values = by_head(prefill.keys), by_head(prefill.values)
        self.completion_keys: dict[int, Tensor] = {}
        self.completion_values: dict[int, Tensor] = {}

    @property
    def slots(self) -> int:
        """A, the slots of each prompt."""
        return len(self.ids) // self.num_prompts

    @property
    def longest(self) -> int:
        """Tokens of the longest text that can be in the cache."""
        return self.prompt_bias.shape[-1] + self.max_new_tokens

    def start_step(self) -> None:
        """Unmask the column for the keys and values of the last tokens; called before their forward pass."""
        self.completion_bias.index_fill_(0, self.length, 0.0)

    def append(self, ids: Tensor) -> None:
        """Add the next token (S,) of every slot."""
        self.ids.copy_(ids)
        self.positions.add_(1)
        self.length.add_(1)

    def completion_storage(self, layer: int, kv: int, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer's completions (G * H * A, C, D), with H = `kv`; zero before the first step."""
        for stored in (self.completion_keys, self.completion_values):
            if layer not in stored:
                shape = (len(self.ids) * kv, self.max_new_tokens, dim)
                stored[layer] = torch.zeros(shape, dtype=dtype, device=self.ids.device)
        return self.completion_keys[layer], self.completion_values[layer]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store the last tokens' keys and values (S, H, D); queries (S, H * Q, D) -> attention (S, H * Q, D).

        The slots of a prompt attend to its one copy of keys with one product per prompt and key head.
        """
        slots, heads, dim = query.shape
        g, a, kv, dtype = self.num_prompts, self.slots, key.shape[1], value.dtype
        repeats, width = heads // kv, self.prompt_bias.shape[-1] if self.prompt_keys else 0

        def by_prompt(states: Tensor) -> Tensor:  # (S, heads, D) -> (G * H * A, heads / H, D)
            return states.to(dtype).view(g, a, kv, -1).transpose(1, 2).reshape(g * kv * a, -1, dim)

        own_keys, own_values = self.completion_storage(layer, kv, dim, dtype)
        own_keys.index_copy_(1, self.length, by_prompt(key))
        own_values.index_copy_(1, self.length, by_prompt(value))
        completion_key, completion_value = own_keys[:, : self.read_width], own_values[:, : self.read_width]
        query = by_prompt(query)
        scores = _scores(query, completion_key, self.completion_bias[: self.read_width], scale)
        if width:  # otherwise every prompt is one token long
            bias = self.prompt_bias.expand(g, kv, width).reshape(g * kv, 1, width)
            prompt_scores = _scores(query.view(g * kv, a * repeats, dim), self.prompt_keys[layer], bias, scale)
            scores = torch.cat((prompt_scores.view(-1, repeats, width), scores), -1)
        weights = scores.softmax(-1).to(dtype)  # (G * H * A, Q, P + C)
        attended = torch.bmm(weights[..., width:], completion_value)
        if width:
            prompt_weights = weights[..., :width].view(g * kv, a * repeats, width)
            attended += torch.bmm(prompt_weights, self.prompt_values[layer]).view(attended.shape)
        return attended.view(g, kv, a, repeats * dim).transpose(1, 2).reshape(slots, heads, dim)

    def select(self, prompts: Tensor, parents: Tensor, length: int) -> None:
        """Retain the prompts (G',), each with A' slots that are copies of the slots `parents` (G', A') of that prompt.

        `length`: the number of completion tokens to copy.
        """
        old_slots, parent_slots = self.slots, prompts[:, None] * self.slots + parents
        self.ids, self.positions = self.ids[parent_slots.flatten()], self.positions[parent_slots.flatten()]
        if len(prompts) < self.num_prompts:
            for states in (self.prompt_keys, self.prompt_values):
                for layer, tensor in states.items():
                    states[layer] = tensor.unflatten(0, (self.num_prompts, -1))[prompts].flatten(0, 1)
            self.prompt_bias = self.prompt_bias[prompts]
        for states in (self.completion_keys, self.completion_values):
            for layer, tensor in states.items():
                by_head = tensor.unflatten(0, (self.num_prompts, -1, old_slots))  # (G, H, A, C, D)
                heads = torch.arange(by_head.shape[1], device=tensor.device)[:, None]
                copies = by_head[:, :, :, :length][prompts[:, None, None], heads, parents[:, None]].flatten(0, 2)
                states[layer] = F.pad(copies, (0, 0, 0, self.max_new_tokens - length))
        self.num_prompts = len(prompts)


def _scores(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> Tensor:
    """(n, q, D) x (n, k, D) + (n, 1, k) -> attention scores (n, q, k), on CUDA in float32 for every input dtype."""
    if query.device.type == "cuda" and query.dtype != torch.float32:
        return torch.bmm(query, key.transpose(1, 2), out_dtype=torch.float32).mul_(scale).add_(bias)
    return torch.baddbmm(bias.to(query.dtype), query, key.transpose(1, 2), alpha=scale)
