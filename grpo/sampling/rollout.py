"""Samplers: from prompts to completions."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from grpo.config.schema import Common, distorting
from grpo.core.console import say
from grpo.policy.compatibility import end_tokens
from grpo.policy.prefix_sharing import NAME, Batch, Ragged, Unsupported, causal_lm, distinct, forward, share_prompts

# Tokens between two looks at which completions have ended.
BLOCK = 8
# The grain of a CUDA graph's shapes, in tokens.
GRAIN = 64


Seed = tuple[int, ...]


class Rollout(Protocol):
    ends: list[int]  # the ids that end a completion

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None = None,
        seeds: Sequence[Seed] | None = None,
    ) -> list[list[int]]:
        """One completion for each prompt, up to and with its end token; greedy without a temperature.

        With `seeds`, one for each prompt, sampling draws from them instead of torch's own generator.
        """

    def rest(self) -> None:
        """Give back the memory that is held from one call to the next."""


def build_rollout(policy: Any, tokenizer: PreTrainedTokenizerBase, config: Common) -> Rollout:
    """The sampler that `config` names; where the policy rules it out, transformers' own, aloud."""
    if config.rollout.name == "fast":
        try:
            return Fast(policy, tokenizer, config.bf16, bool(config.rollout.native))
        except Unsupported as reason:
            say(fallback(reason))
    return Generate(policy, tokenizer, config.bf16, **distorting(config.rollout))


def fallback(reason: Unsupported) -> str:
    return f"rollout=fast does not go with this policy: {reason}. Sampling goes on as with rollout=generate."


@contextmanager
def sampling(policy: Any, bf16: bool) -> Iterator[None]:
    """No gradients, no dropout, computing in the dtype of training."""
    training = policy.training
    policy.eval()
    try:
        with torch.inference_mode(), torch.autocast(policy.device.type, torch.bfloat16) if bf16 else nullcontext():
            yield
    finally:
        policy.train(training)


@contextmanager
def lent(policy: Any, bf16: bool) -> Iterator[None]:
    """The policy as transformers' engine takes it: with an attention that it knows and, with `bf16`, rounded weights.

    Afterwards the very weights are back. Buffers are left alone: rotary frequencies that are rounded too would change
    the policy as much again.
    """
    model = causal_lm(policy)
    attention = model.config._attn_implementation
    exact = [(each, each.data) for each in policy.parameters() if bf16 and each.is_floating_point()]
    if attention == NAME:
        model.set_attn_implementation("sdpa")
    try:
        for parameter, data in exact:
            parameter.data = data.to(torch.bfloat16)
        yield
    finally:
        for parameter, data in exact:
            parameter.data = data
        model.set_attn_implementation(attention)


@contextmanager
def unworn(policy: Any) -> Iterator[None]:
    """While adapters are merged into the weights and taken out again: what rounding would leave of them is undone.

    In float32 it is far less than a step changes, and a copy of the weights would be large.
    """
    frozen = [
        each for each in policy.parameters() if not each.requires_grad and each.dtype in (torch.bfloat16, torch.half)
    ]
    kept = [each.detach().clone() for each in frozen]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(frozen, kept, strict=True):
                parameter.copy_(value)


class Generate:
    """transformers' own `generate`, without what the policy's `generation_config` would add to it.

    `seeds` make a batch repeatable, not its rows: they all draw from the first one's.
    """

    def __init__(self, policy: Any, tokenizer: PreTrainedTokenizerBase, bf16: bool, **distorting: float) -> None:
        """`distorting`: any of `distorting`; left out, samples are from the policy's own distribution."""
        self.policy, self.tokenizer, self.bf16 = policy, tokenizer, bf16
        self.distorting = distorting
        self.ends = end_tokens(policy, tokenizer)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None = None,
        seeds: Sequence[Seed] | None = None,
    ) -> list[list[int]]:
        encoded = self.tokenizer.pad(
            [{"input_ids": list(ids)} for ids in prompts], padding_side="left", return_tensors="pt"
        ).to(self.policy.device)
        with sampling(self.policy, self.bf16), self._settings(temperature), torch.random.fork_rng(enabled=bool(seeds)):
            if seeds:
                torch.manual_seed(int(np.random.SeedSequence(seeds[0]).generate_state(1)[0]))
            generated = self.policy.generate(**encoded, max_new_tokens=max_new_tokens)
        rows = generated[:, encoded["input_ids"].shape[1] :].tolist()
        return [row[: next((n for n, token in enumerate(row, 1) if token in self.ends), None)] for row in rows]

    def rest(self) -> None:
        pass

    @contextmanager
    def _settings(self, temperature: float | None) -> Iterator[None]:
        # `generate` fills every value that is left unset from the policy's own config, so that is set aside meanwhile.
        holder = causal_lm(self.policy)
        own = holder.generation_config
        sampled = {"do_sample": True, "temperature": temperature, "top_k": 0}
        settings = (sampled if temperature else {"do_sample": False}) | self.distorting
        holder.generation_config = GenerationConfig(
            **settings,
            eos_token_id=self.ends,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=own.bos_token_id,
        )
        try:
            yield
        finally:
            holder.generation_config = own


class Fast:
    """Computes each distinct prompt once, keeps its keys and values once for all of its completions, and computes
    completions once for as long as they are alike. Those that have ended are dropped.

    Sampling is by inverse CDF from one uniform number a token. The numbers come from torch's own CPU generator, whose
    state is part of every checkpoint, and belong to the rows: what a row gets does not hang on the rows beside it.
    """

    def __init__(self, policy: Any, tokenizer: PreTrainedTokenizerBase, bf16: bool, native: bool) -> None:
        """
        Raises:
            Unsupported: the policy cannot run on shared prompts.
        """
        share_prompts(policy)
        self.policy, self.tokenizer, self.bf16 = policy, tokenizer, bf16
        self.instead: Generate | None = None
        model = causal_lm(policy)
        self.is_end = torch.zeros(model.config.get_text_config().vocab_size, dtype=torch.bool, device=model.device)
        self.ends = end_tokens(policy, tokenizer)
        self.is_end[self.ends] = True
        self.decoder: Decoder = Transformers(policy)
        self.graphs: Graphs | None = None
        if native:
            from grpo.sampling.qwen2 import Qwen2

            if Qwen2.knows(policy):
                self.decoder = Qwen2(policy, torch.bfloat16 if bf16 else model.dtype)
                self.graphs = Graphs() if model.device.type == "cuda" else None

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None = None,
        seeds: Sequence[Seed] | None = None,
    ) -> list[list[int]]:
        if self.instead is None:
            try:
                return self._complete(prompts, max_new_tokens, temperature, seeds)
            except Unsupported as reason:
                say(fallback(reason))
                self.instead = Generate(self.policy, self.tokenizer, self.bf16)
        return self.instead.complete(prompts, max_new_tokens, temperature, seeds)

    def rest(self) -> None:
        if self.graphs:
            self.graphs.forget()

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None,
        seeds: Sequence[Seed] | None,
    ) -> list[list[int]]:
        model = causal_lm(self.policy)
        first, group = distinct([tuple(ids) for ids in prompts])
        uniforms = None
        if temperature is not None and seeds is None:
            uniforms = torch.rand(len(prompts), max_new_tokens, dtype=torch.float64)
        elif temperature is not None and seeds is not None:
            drawn = [np.random.default_rng(seed).random(max_new_tokens) for seed in seeds]
            uniforms = torch.from_numpy(np.stack(drawn))
        with sampling(self.policy, self.bf16):
            prefill = Prefill([list(prompts[i]) for i in first], model.device)
            self.decoder.refresh()
            if len(prefill.ids):
                forward(model.base_model, prefill)
            if self.graphs:
                torch.clear_autocast_cache()  # weights cast for the prefill, which the decoder has copies of
            sampler = Sampler(self.decoder, temperature, self.is_end)
            run = self.graphs.run if self.graphs else run_merged
            return run(sampler, prefill, group, uniforms, max_new_tokens)


class Decoder(Protocol):
    def refresh(self) -> None:
        """Take over the policy's present weights."""

    def logits(self, batch: Batch) -> Tensor:
        """(slots, vocabulary) in float32: what follows the last token of each slot, `batch.ids`."""


class Transformers:
    """Computes next-token logits with transformers' modules, whatever the architecture."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def refresh(self) -> None:
        pass  # the modules read the policy's weights as they are

    def logits(self, batch: Batch) -> Tensor:
        logits: Tensor = forward(self.policy, batch).logits[0]
        return logits.float()


class Prefill:
    """G distinct prompts, packed, each without its last token; keeps every layer's keys and values.

    The last token is left to the completions: it is the first that each of them feeds.
    """

    def __init__(self, prompts: list[list[int]], device: torch.device) -> None:
        self.last = torch.tensor([ids[-1] for ids in prompts], device=device)
        self.prompts = Ragged(torch.tensor([len(ids) - 1 for ids in prompts], device=device))
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


@dataclass
class Sampler:
    """How tokens follow from a policy's logits."""

    decoder: Decoder
    temperature: float | None  # None: greedy
    is_end: Tensor  # (V,)

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


def run_merged(
    sampler: Sampler, prefill: Prefill, group: list[int], uniforms: Tensor | None, limit: int
) -> list[list[int]]:
    """The completions of the prompts `group` (B,), with uniforms (B, limit).

    Completions that are alike so far share a slot, which splits where they part; the slots of ended ones are dropped.
    """
    cache, device = Cache(prefill, 1, limit), prefill.last.device
    completions: list[list[int]] = [[] for _ in group]
    slot_of, alive = list(group), list(range(len(group)))
    slot = torch.tensor(slot_of, device=device)
    ends = set(sampler.is_end.nonzero()[:, 0].tolist())
    if uniforms is not None:
        uniforms = uniforms.T.contiguous().to(device)
    for done in range(1, limit + 1):
        cache.width = done
        tokens = sampler.next(cache, None if uniforms is None else uniforms[done - 1], slot).tolist()
        for row in alive:
            completions[row].append(tokens[row])
        alive = [row for row in alive if tokens[row] not in ends]
        if not alive:
            break
        children: dict[tuple[int, int], list[int]] = {}
        for row in alive:
            children.setdefault((slot_of[row], tokens[row]), []).append(row)
        parted = len(children) > len({parent for parent, _ in children})
        if parted or (done % BLOCK == 0 and len(children) < len(cache.ids)):
            places = _rearrange(cache, list(children), done)
            slot_of = [0] * len(group)  # ended completions look on where they do no harm
            for place, rows in zip(places, children.values(), strict=True):
                for row in rows:
                    slot_of[row] = place
            slot = torch.tensor(slot_of, device=device)
        following = [0] * len(cache.ids)
        for row in alive:
            following[slot_of[row]] = tokens[row]
        cache.append(torch.tensor(following, device=device))
    return completions


def _rearrange(cache: Cache, children: list[tuple[int, int]], done: int) -> list[int]:
    """Give each of the children (slot, token) a slot of its own; returns which."""
    old = cache.slots
    of_prompt: dict[int, list[int]] = {}
    for child, (parent, _) in enumerate(children):
        of_prompt.setdefault(parent // old, []).append(child)
    most = max(map(len, of_prompt.values()))
    places, parents = [0] * len(children), []
    for place, members in enumerate(of_prompt.values()):
        for i, child in enumerate(members):
            places[child] = place * most + i
        # A prompt with fewer than the most has idle slots.
        parents.append([children[child][0] % old for child in members] + [0] * (most - len(members)))
    device = cache.ids.device
    cache.select(torch.tensor(list(of_prompt), device=device), torch.tensor(parents, device=device), done)
    return places


class Graphs:
    """Decodes with CUDA graphs: one launch for a token instead of hundreds.

    Every completion has a slot of its own. A graph is captured for each number of prompts and slots, and each bucket
    of prompt width and of tokens sampled so far, and replayed over the same storage from then on, in all rollouts.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[Any, ...], Rows] = {}
        self.graphs: dict[tuple[Any, ...], Any] = {}
        self.pool: Any = None  # of memory: graphs never run at the same time, so they may share it
        self.mode: tuple[int, bool] | None = None

    def run(
        self, sampler: Sampler, prefill: Prefill, group: list[int], uniforms: Tensor | None, limit: int
    ) -> list[list[int]]:
        """As `run_merged`."""
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
        self, sampler: Sampler, prefill: Prefill, group: list[int], uniforms: Tensor | None, limit: int
    ) -> list[list[int]]:
        rows = Rows.start(prefill, group, uniforms, limit)
        # One row more takes what idle slots sample.
        picked = torch.full((len(group) + 1, limit), -1, device=prefill.last.device)
        for done in range(0, limit, BLOCK):
            shape = rows.shape
            held = self.held.setdefault(shape, rows)
            if held is not rows:
                held.load(rows)
                rows = held
            until = min(done + BLOCK, limit)
            rows.cache.width = min(-(-until // GRAIN) * GRAIN, limit)
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

    def capture(self, rows: "Rows", sampler: Sampler) -> Any:
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
class Rows:
    """Completions with a slot each, in static storage."""

    cache: Cache
    rows: Tensor  # (S,) which completion is in a slot; B in an idle one
    alive: Tensor  # (S,) whether it goes on
    picked: Tensor  # (S, limit) its tokens so far, -1 after the end
    uniforms: Tensor | None  # (S, limit)

    @classmethod
    def start(cls, prefill: Prefill, group: list[int], uniforms: Tensor | None, limit: int) -> "Rows":
        device = prefill.last.device
        members: list[list[int]] = [[] for _ in prefill.last]
        for row, prompt in enumerate(group):
            members[prompt].append(row)
        slots = max(map(len, members))
        rows = torch.tensor([of + [len(group)] * (slots - len(of)) for of in members], device=device).flatten()
        if uniforms is not None:
            uniforms = uniforms.to(device)[rows.clamp(max=len(group) - 1)]
        picked = torch.full((len(rows), limit), -1, device=device)
        return cls(Cache(prefill, slots, limit, GRAIN), rows, rows < len(group), picked, uniforms)

    def __post_init__(self) -> None:
        self.slot = torch.arange(len(self.rows), device=self.rows.device)

    @property
    def shape(self) -> tuple[Any, ...]:
        cache = self.cache
        return cache.prompts, cache.slots, cache.prompt_bias.shape[-1], cache.limit, self.uniforms is None

    def step(self, sampler: Sampler) -> None:
        """Sample the next token of every row; ended ones sample on, unrecorded."""
        uniforms = None if self.uniforms is None else self.uniforms.index_select(1, self.cache.t)[:, 0]
        tokens = sampler.next(self.cache, uniforms, self.slot)
        self.picked.index_copy_(1, self.cache.t, tokens.where(self.alive, -1)[:, None])
        self.alive &= ~sampler.is_end[tokens]
        self.cache.append(tokens)

    def halved(self, done: int) -> "Rows":
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
        return Rows(cache, self.rows[kept], self.alive[kept], self.picked[kept], uniforms)

    def load(self, other: "Rows") -> None:
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
