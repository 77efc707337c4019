"""Keys and values of prompts, each stored once, and of the completions that grow from them.

`Prefill` computes the prompts; `Cache` is the batch of every decode step after it. Both are attention batches of
`grpo.policy.prefix_sharing`. Nothing here knows how tokens are chosen.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo.policy.prefix_sharing import RaggedRows


class Prefill:
    """G distinct prompts, packed, each without its last token; keeps every layer's keys and values.

    The last token is left to the completions: it is the first that each of them feeds.
    """

    def __init__(self, prompts: list[list[int]], device: torch.device) -> None:
        self.last = torch.tensor([ids[-1] for ids in prompts], device=device)
        self.prompts = RaggedRows(torch.tensor([len(ids) - 1 for ids in prompts], device=device))
        self.ids = torch.tensor([token for ids in prompts for token in ids[:-1]], device=device)
        self.positions = self.prompts.columns.expand(len(prompts), -1)[self.prompts.mask]
        self.longest = self.prompts.width + 1
        self.keys: dict[int, Tensor] = {}  # layer -> (G, key heads, P, D)
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        query, key, value = (self.prompts.pad(states) for states in (query, key, value))
        self.keys[layer], self.values[layer] = key.to(value.dtype), value
        grouped = query.shape[1] != key.shape[1]
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
        return self.prompts.unpad(seen)


class Cache:
    """The keys and values of G prompts, each once, and of `A` slots a prompt, texts in the making of equal length.

    A step changes tensors in place, and what it does hangs on no value in them, so that it can become a CUDA graph.

    Attributes:
        ids: (S,) the last token of each of the G * A slots; those of a prompt are adjacent.
        positions: (S,) where it stands.
        t: (1,) how many tokens of the completions are in the cache.
        width: how many places for them a step reads; masked beyond `t`.
    """

    def __init__(self, prefill: Prefill, slots: int, limit: int, grain: int = 1) -> None:
        """For completions of at most `limit` tokens; the width of prompts is brought to a multiple of `grain`."""
        device = prefill.last.device
        extra = -prefill.prompts.width % grain
        mask = F.pad(prefill.prompts.mask, (0, extra))[:, None]
        self.prompts, self.limit, self.width = len(prefill.last), limit, limit
        self.ids = prefill.last.repeat_interleave(slots)
        self.positions = prefill.prompts.lengths.repeat_interleave(slots)
        self.t = torch.zeros(1, dtype=torch.long, device=device)
        # (G, 1, P) and (limit,): 0 where there is a token, else -inf
        self.prompt_bias = torch.zeros(mask.shape, device=device).masked_fill_(~mask, -torch.inf)
        self.own_bias = torch.full((limit,), -torch.inf, device=device)

        def flat(states: dict[int, Tensor]) -> dict[int, Tensor]:
            return {layer: F.pad(each, (0, 0, 0, extra)).flatten(0, 1).contiguous() for layer, each in states.items()}

        # layer -> (G * key heads, P, D), and (G * key heads * A, limit, D)
        self.prompt_keys, self.prompt_values = flat(prefill.keys), flat(prefill.values)
        self.own_keys: dict[int, Tensor] = {}
        self.own_values: dict[int, Tensor] = {}

    @property
    def slots(self) -> int:
        return len(self.ids) // self.prompts

    @property
    def longest(self) -> int:
        return self.prompt_bias.shape[-1] + self.limit

    def append(self, ids: Tensor) -> None:
        """What follows in each slot (S,)."""
        self.ids.copy_(ids)
        self.positions.add_(1)
        self.t.add_(1)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        slots, heads, dim = query.shape
        g, a, kv, dtype = self.prompts, self.slots, key.shape[1], value.dtype
        repeats, size = heads // kv, self.prompt_bias.shape[-1] if self.prompt_keys else 0

        def by_prompt(states: Tensor) -> Tensor:  # the heads of a prompt's slots side by side: (G * key heads * A, ...)
            return states.to(dtype).view(g, a, kv, -1).transpose(1, 2).reshape(g * kv * a, -1, dim)

        for kept, new in ((self.own_keys, key), (self.own_values, value)):
            if layer not in kept:
                kept[layer] = torch.zeros(slots * kv, self.limit, dim, dtype=dtype, device=query.device)
            kept[layer].index_copy_(1, self.t, by_prompt(new))
        own_key, own_value = self.own_keys[layer][:, : self.width], self.own_values[layer][:, : self.width]
        query = by_prompt(query)
        scores = _scores(query, own_key, self.own_bias[: self.width], scale)
        if size:  # else every prompt is one token long
            # All slots of a prompt against its one copy of keys: a product for each prompt and key head.
            bias = self.prompt_bias.expand(g, kv, size).reshape(g * kv, 1, size)
            of_prompt = _scores(query.view(g * kv, a * repeats, dim), self.prompt_keys[layer], bias, scale)
            scores = torch.cat((of_prompt.view(-1, repeats, size), scores), -1)
        weights = scores.softmax(-1).to(dtype)
        seen = torch.bmm(weights[..., size:], own_value)
        if size:
            of_prompt = weights[..., :size].view(g * kv, a * repeats, size)
            seen += torch.bmm(of_prompt, self.prompt_values[layer]).view(seen.shape)
        return seen.view(g, kv, a, repeats * dim).transpose(1, 2).reshape(slots, heads, dim)

    def select(self, prompts: Tensor, parents: Tensor, done: int) -> None:
        """Keep the prompts (G',) and, of each, copies of the slots `parents` (G', A'), numbered within the prompt."""
        old, chosen = self.slots, prompts[:, None] * self.slots + parents
        self.ids, self.positions = self.ids[chosen.flatten()], self.positions[chosen.flatten()]
        if len(prompts) < self.prompts:
            for states in (self.prompt_keys, self.prompt_values):
                for layer, each in states.items():
                    states[layer] = each.unflatten(0, (self.prompts, -1))[prompts].flatten(0, 1)
            self.prompt_bias = self.prompt_bias[prompts]
        for states in (self.own_keys, self.own_values):
            for layer, each in states.items():
                by_head = each.unflatten(0, (self.prompts, -1, old))
                heads = torch.arange(by_head.shape[1], device=each.device)[:, None]
                copies = by_head[:, :, :, :done][prompts[:, None, None], heads, parents[:, None]].flatten(0, 2)
                states[layer] = F.pad(copies, (0, 0, 0, self.limit - done))
        self.prompts = len(prompts)


def _scores(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Scaled and masked attention scores, in float32 on CUDA whatever the dtype of computing."""
    if query.device.type == "cuda" and query.dtype != torch.float32:
        return torch.bmm(query, key.transpose(1, 2), out_dtype=torch.float32).mul_(scale).add_(bias)
    return torch.baddbmm(bias.to(query.dtype), query, key.transpose(1, 2), alpha=scale)
