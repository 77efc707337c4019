"""Decoding with CUDA graphs: one launch per token instead of hundreds.

Called by the prefix-sharing sampler on a GPU with the fused decoder. The tokens are those of `trie_decode`.

Shapes: B completions of at most C tokens, in S slots of the cache.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo.policy.buffer_sizes import GRAPH_TOKEN_MULTIPLE
from grpo.sampling.kv_cache import KVCache, PromptPrefill
from grpo.sampling.token_sampler import END_CHECK_INTERVAL, TokenSampler


class CudaGraphs:
    """Captured decode steps and their storage.

    Every completion has its own slot. One graph is captured for each combination of four numbers: prompts, slots, the
    width of the prompts, and the completion tokens that a step reads. The last two are multiples of
    `GRAPH_TOKEN_MULTIPLE`. Later rollouts replay the graph on the same storage.
    """

    def __init__(self) -> None:
        self.storage: dict[tuple[Any, ...], StaticSlots] = {}
        self.graphs: dict[tuple[Any, ...], Any] = {}
        self.memory_pool: Any = None  # shared by all graphs, because they never run at the same time
        self.mode: tuple[int, bool] | None = None  # (C, greedy)

    def decode(
        self,
        token_sampler: TokenSampler,
        prefill: PromptPrefill,
        prompt_of_row: list[int],
        uniforms: Tensor | None,
        max_new_tokens: int,
    ) -> list[list[int]]:
        """As `decode_trie`."""
        if self.mode != (mode := (max_new_tokens, uniforms is None)):
            # Evaluation and training have different modes: the storage of one is freed before the other begins.
            self.clear()
            self.mode = mode
        try:
            return self._decode(token_sampler, prefill, prompt_of_row, uniforms, max_new_tokens)
        except BaseException:
            # After an out-of-memory error, a smaller batch needs the memory of this storage.
            self.clear()
            raise

    def clear(self) -> None:
        """Free all graphs and their storage."""
        self.storage.clear()
        self.graphs.clear()
        self.memory_pool = None  # torch frees a pool with its last graph

    def _decode(
        self,
        token_sampler: TokenSampler,
        prefill: PromptPrefill,
        prompt_of_row: list[int],
        uniforms: Tensor | None,
        max_new_tokens: int,
    ) -> list[list[int]]:
        slots = StaticSlots.create(prefill, prompt_of_row, uniforms, max_new_tokens)
        # The extra row receives what idle slots sample.
        completions = torch.full((len(prompt_of_row) + 1, max_new_tokens), -1, device=prefill.last_ids.device)
        for length in range(0, max_new_tokens, END_CHECK_INTERVAL):
            shape = slots.shape
            static_slots = self.storage.setdefault(shape, slots)
            if static_slots is not slots:
                static_slots.copy_from(slots)
                slots = static_slots
            end = min(length + END_CHECK_INTERVAL, max_new_tokens)
            slots.cache.read_width = min(-(-end // GRAPH_TOKEN_MULTIPLE) * GRAPH_TOKEN_MULTIPLE, max_new_tokens)
            key = (*shape, slots.cache.read_width, token_sampler.temperature)
            if key not in self.graphs:
                self.graphs[key] = self.capture(slots, token_sampler)
            for _ in range(end - length):
                self.graphs[key].replay()
            completions[slots.row_of_slot] = slots.sampled_ids
            if not slots.unfinished.any():
                break
            slots = slots.compact(end)
        return [[token for token in row if token >= 0] for row in completions[:-1].tolist()]

    def capture(self, slots: "StaticSlots", token_sampler: TokenSampler) -> Any:
        """Capture a graph of one decode step on the storage of `slots`; the values there do not change."""
        cache = slots.cache
        changed_tensors = (
            *(cache.ids, cache.positions, cache.length, cache.completion_bias),
            *(slots.unfinished, slots.sampled_ids),
        )
        saved_values = [tensor.clone() for tensor in changed_tensors]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # in the first steps libraries initialize themselves, which a graph must not capture
                slots.step(token_sampler)
                for tensor, value in zip(changed_tensors, saved_values, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.memory_pool = self.memory_pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self.memory_pool):
            slots.step(token_sampler)
        return graph


@dataclass
class StaticSlots:
    """Completions with a slot each, in tensors whose addresses never change.

    Attributes:
        row_of_slot: (S,) the completion in each slot; B in an idle slot.
        unfinished: (S,) whether that completion has not ended yet.
        sampled_ids: (S, C) the tokens of that completion so far; -1 after its end.
        uniforms: (S, C) in [0, 1), or None for greedy decoding.
    """

    cache: KVCache
    row_of_slot: Tensor
    unfinished: Tensor
    sampled_ids: Tensor
    uniforms: Tensor | None

    @classmethod
    def create(
        cls, prefill: PromptPrefill, prompt_of_row: list[int], uniforms: Tensor | None, max_new_tokens: int
    ) -> "StaticSlots":
        """Slots for the B rows of `prompt_of_row`; each prompt gets as many as the prompt with the most rows."""
        device, count = prefill.last_ids.device, len(prompt_of_row)
        rows_of_prompt: list[list[int]] = [[] for _ in prefill.last_ids]
        for row, prompt in enumerate(prompt_of_row):
            rows_of_prompt[prompt].append(row)
        slots = max(map(len, rows_of_prompt))
        rows = torch.tensor(
            [prompt_rows + [count] * (slots - len(prompt_rows)) for prompt_rows in rows_of_prompt], device=device
        ).flatten()
        if uniforms is not None:
            uniforms = uniforms.to(device)[rows.clamp(max=count - 1)]
        sampled_ids = torch.full((len(rows), max_new_tokens), -1, device=device)
        cache = KVCache(prefill, slots, max_new_tokens, GRAPH_TOKEN_MULTIPLE)
        return cls(cache, rows, rows < count, sampled_ids, uniforms)

    def __post_init__(self) -> None:
        self.slot = torch.arange(len(self.row_of_slot), device=self.row_of_slot.device)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Slots with equal shapes can use the same storage."""
        cache = self.cache
        width = cache.prompt_bias.shape[-1]
        return cache.num_prompts, cache.slots, width, cache.max_new_tokens, self.uniforms is None

    def step(self, token_sampler: TokenSampler) -> None:
        """Sample the next token of every slot; those of ended completions are not recorded."""
        uniforms = None if self.uniforms is None else self.uniforms.index_select(1, self.cache.length)[:, 0]
        tokens = token_sampler.next(self.cache, uniforms, self.slot)
        self.sampled_ids.index_copy_(1, self.cache.length, tokens.where(self.unfinished, -1)[:, None])
        self.unfinished &= ~token_sampler.is_end_token[tokens]
        self.cache.append(tokens)

    def compact(self, length: int) -> "StaticSlots":
        """The unfinished completions with fewer slots per prompt; self if they need all slots.

        The number of slots is halved as often as the prompt with the most unfinished completions permits, so that few
        different numbers occur: each needs a graph of its own.
        """
        cache = copy.copy(self.cache)
        unfinished = self.unfinished.view(cache.num_prompts, cache.slots)
        needed, slots = int(unfinished.sum(1).max()), cache.slots
        while slots > 1 and (slots + 1) // 2 >= needed:
            slots = (slots + 1) // 2
        if slots == cache.slots:
            return self
        order = unfinished.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :slots]
        prompts = torch.arange(cache.num_prompts, device=unfinished.device)
        selected = (prompts[:, None] * cache.slots + order).flatten()
        cache.completion_keys, cache.completion_values = dict(cache.completion_keys), dict(cache.completion_values)
        cache.length, cache.completion_bias = cache.length.clone(), cache.completion_bias.clone()
        cache.select(prompts, order, length)
        uniforms = None if self.uniforms is None else self.uniforms[selected]
        return StaticSlots(
            cache, self.row_of_slot[selected], self.unfinished[selected], self.sampled_ids[selected], uniforms
        )

    def copy_from(self, other: "StaticSlots") -> None:
        """Copy the values of other slots of the same shape into this storage."""
        # Not strict: the keys and values of completions may not exist in `other` yet.
        for target, source in zip(self._tensors(), other._tensors(), strict=False):
            target.copy_(source)

    def _tensors(self) -> list[Tensor]:
        cache = self.cache
        state = [self.row_of_slot, self.unfinished, self.sampled_ids]
        state += [] if self.uniforms is None else [self.uniforms]
        state += [cache.ids, cache.positions, cache.length, cache.prompt_bias, cache.completion_bias]
        layers = (cache.prompt_keys, cache.prompt_values, cache.completion_keys, cache.completion_values)
        return state + [states[layer] for states in layers for layer in sorted(states)]
