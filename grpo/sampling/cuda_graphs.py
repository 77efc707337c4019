"""Decoding with CUDA graphs: one launch per token instead of hundreds.

Called by the prefix-sharing sampler on a GPU with the fused decoder. Results are those of `trie_decode`.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo.policy.buffer_sizes import GRAPH_TOKEN_MULTIPLE
from grpo.sampling.kv_cache import Cache, Prefill
from grpo.sampling.token_sampler import EOS_CHECK_INTERVAL, TokenSampler


class CudaGraphs:
    """Decodes with CUDA graphs: one launch for a token instead of hundreds.

    Every completion has a slot of its own. A graph is captured for each number of prompts and slots, and each bucket
    of prompt width and of tokens sampled so far, and replayed over the same storage from then on, in all rollouts.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[Any, ...], StaticSlots] = {}
        self.graphs: dict[tuple[Any, ...], Any] = {}
        self.pool: Any = None  # of memory: graphs never run at the same time, so they may share it
        self.mode: tuple[int, bool] | None = None

    def run(
        self, sampler: TokenSampler, prefill: Prefill, group: list[int], uniforms: Tensor | None, limit: int
    ) -> list[list[int]]:
        """As `decode_trie`."""
        if self.mode != (mode := (limit, uniforms is None)):
            # What an evaluation held is not kept through training, nor the other way round.
            self.forget()
            self.mode = mode
        try:
            return self._run(sampler, prefill, group, uniforms, limit)
        except BaseException:
            # Out of memory, maybe: what is held must not stand in the way of a smaller batch.
            self.forget()
            raise

    def forget(self) -> None:
        self.held.clear()
        self.graphs.clear()
        self.pool = None  # torch ends a pool with its last graph

    def _run(
        self, sampler: TokenSampler, prefill: Prefill, group: list[int], uniforms: Tensor | None, limit: int
    ) -> list[list[int]]:
        rows = StaticSlots.start(prefill, group, uniforms, limit)
        # One row more takes what idle slots sample.
        picked = torch.full((len(group) + 1, limit), -1, device=prefill.last.device)
        for done in range(0, limit, EOS_CHECK_INTERVAL):
            shape = rows.shape
            held = self.held.setdefault(shape, rows)
            if held is not rows:
                held.load(rows)
                rows = held
            until = min(done + EOS_CHECK_INTERVAL, limit)
            rows.cache.width = min(-(-until // GRAPH_TOKEN_MULTIPLE) * GRAPH_TOKEN_MULTIPLE, limit)
            key = (*shape, rows.cache.width, sampler.temperature)
            if key not in self.graphs:
                self.graphs[key] = self.capture(rows, sampler)
            for _ in range(until - done):
                self.graphs[key].replay()
            picked[rows.rows] = rows.picked
            if not rows.alive.any():
                break
            rows = rows.halved(until)
        return [[token for token in row if token >= 0] for row in picked[:-1].tolist()]

    def capture(self, rows: "StaticSlots", sampler: TokenSampler) -> Any:
        changing = (rows.cache.ids, rows.cache.positions, rows.cache.t, rows.cache.own_bias, rows.alive, rows.picked)
        saved = [tensor.clone() for tensor in changing]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries set themselves up in the first steps, which a capture must not see
                rows.step(sampler)
                for tensor, value in zip(changing, saved, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self.pool):
            rows.step(sampler)
        return graph


@dataclass
class StaticSlots:
    """Completions with a slot each, in static storage."""

    cache: Cache
    rows: Tensor  # (S,) which completion is in a slot; B in an idle one
    alive: Tensor  # (S,) whether it goes on
    picked: Tensor  # (S, limit) its tokens so far, -1 after the end
    uniforms: Tensor | None  # (S, limit)

    @classmethod
    def start(cls, prefill: Prefill, group: list[int], uniforms: Tensor | None, limit: int) -> "StaticSlots":
        device = prefill.last.device
        members: list[list[int]] = [[] for _ in prefill.last]
        for row, prompt in enumerate(group):
            members[prompt].append(row)
        slots = max(map(len, members))
        rows = torch.tensor([of + [len(group)] * (slots - len(of)) for of in members], device=device).flatten()
        if uniforms is not None:
            uniforms = uniforms.to(device)[rows.clamp(max=len(group) - 1)]
        picked = torch.full((len(rows), limit), -1, device=device)
        return cls(Cache(prefill, slots, limit, GRAPH_TOKEN_MULTIPLE), rows, rows < len(group), picked, uniforms)

    def __post_init__(self) -> None:
        self.slot = torch.arange(len(self.rows), device=self.rows.device)

    @property
    def shape(self) -> tuple[Any, ...]:
        cache = self.cache
        return cache.prompts, cache.slots, cache.prompt_bias.shape[-1], cache.limit, self.uniforms is None

    def step(self, sampler: TokenSampler) -> None:
        """Sample the next token of every row; ended ones sample on, unrecorded."""
        uniforms = None if self.uniforms is None else self.uniforms.index_select(1, self.cache.t)[:, 0]
        tokens = sampler.next(self.cache, uniforms, self.slot)
        self.picked.index_copy_(1, self.cache.t, tokens.where(self.alive, -1)[:, None])
        self.alive &= ~sampler.is_eos[tokens]
        self.cache.append(tokens)

    def halved(self, done: int) -> "StaticSlots":
        """In half as many slots, or a quarter and so on, where those that go on fit into them."""
        cache = copy.copy(self.cache)
        alive = self.alive.view(cache.prompts, cache.slots)
        most, fewer = int(alive.sum(1).max()), cache.slots
        while fewer > 1 and (fewer + 1) // 2 >= most:
            fewer = (fewer + 1) // 2
        if fewer == cache.slots:
            return self
        order = alive.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :fewer]
        prompts = torch.arange(cache.prompts, device=alive.device)
        kept = (prompts[:, None] * cache.slots + order).flatten()
        cache.own_keys, cache.own_values = dict(cache.own_keys), dict(cache.own_values)
        cache.t, cache.own_bias = cache.t.clone(), cache.own_bias.clone()
        cache.select(prompts, order, done)
        uniforms = None if self.uniforms is None else self.uniforms[kept]
        return StaticSlots(cache, self.rows[kept], self.alive[kept], self.picked[kept], uniforms)

    def load(self, other: "StaticSlots") -> None:
        """Take over the values of another one of the same shape, into the same storage."""
        for mine, its in zip(self._tensors(), other._tensors(), strict=False):
            mine.copy_(its)

    def _tensors(self) -> list[Tensor]:
        cache = self.cache
        state = [self.rows, self.alive, self.picked, *([] if self.uniforms is None else [self.uniforms])]
        state += [cache.ids, cache.positions, cache.t, cache.prompt_bias, cache.own_bias]
        kept = (
            cache.prompt_keys,
            cache.prompt_values,
            cache.own_keys,
            cache.own_values,
        )  # the last two may be empty yet
        return state + [states[layer] for states in kept for layer in sorted(states)]
