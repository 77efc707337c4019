"""Samplers: from prompts to completions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from grpo.config import Config
from grpo.shared_prompts import Ragged, Unsupported, causal_lm, distinct, forward, share_prompts

# Tokens between two looks at which rows have ended, and the grain in which the cache is read.
BLOCK = 4
CUDA_BLOCK = 64


class Rollout(Protocol):
    ends: list[int]  # the ids that end a completion

    def complete(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float | None = None
    ) -> list[list[int]]:
        """One completion for each prompt, up to and with its end token; greedy without a temperature."""


def build_rollout(policy: Any, tokenizer: PreTrainedTokenizerBase, config: Config) -> tuple[Rollout, list[str]]:
    """The sampler that `config` names, and what to tell the user where another one had to be taken."""
    if config.rollout.name == "fast":
        try:
            return Fast(policy, tokenizer, config.bf16, bool(config.rollout.native)), []
        except Unsupported as reason:
            note = f"rollout=fast does not go with this policy: {reason}. Sampling goes on as with rollout=generate."
            return Generate(policy, tokenizer, config.bf16), [note]
    return Generate(policy, tokenizer, config.bf16), []


def end_tokens(policy: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end a completion: the tokenizer's and those that the policy's config declares."""
    declared = causal_lm(policy).generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])} - {None})


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


class Generate:
    """transformers' own `generate`, without what the policy's `generation_config` would add to it."""

    def __init__(self, policy: Any, tokenizer: PreTrainedTokenizerBase, bf16: bool) -> None:
        self.policy, self.tokenizer, self.bf16 = policy, tokenizer, bf16
        self.ends = end_tokens(policy, tokenizer)

    def complete(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float | None = None
    ) -> list[list[int]]:
        encoded = self.tokenizer.pad(
            [{"input_ids": list(ids)} for ids in prompts], padding_side="left", return_tensors="pt"
        ).to(self.policy.device)
        with sampling(self.policy, self.bf16), self._neutral(temperature):
            generated = self.policy.generate(**encoded, max_new_tokens=max_new_tokens)
        rows = generated[:, encoded["input_ids"].shape[1] :].tolist()
        return [row[: next((n for n, token in enumerate(row, 1) if token in self.ends), None)] for row in rows]

    @contextmanager
    def _neutral(self, temperature: float | None) -> Iterator[None]:
        # `generate` fills every value that is left unset from the policy's own config, so that is set aside meanwhile.
        holder = causal_lm(self.policy)
        own = holder.generation_config
        sampled = {"do_sample": True, "temperature": temperature, "top_k": 0}
        holder.generation_config = GenerationConfig(
            **(sampled if temperature else {"do_sample": False}),
            eos_token_id=self.ends,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=own.bos_token_id,
        )
        try:
            yield
        finally:
            holder.generation_config = own


class Fast:
    """Computes each distinct prompt once, keeps its keys and values once for all of its completions, and drops
    completions that have ended.

    Sampling is by inverse CDF from one uniform number a token. The numbers come from torch's own CPU generator, whose
    state is part of every checkpoint, and belong to the rows: what a row gets does not hang on the rows beside it.
    """

    def __init__(self, policy: Any, tokenizer: PreTrainedTokenizerBase, bf16: bool, native: bool) -> None:
        """
        Raises:
            Unsupported: the policy cannot run on shared prompts.
        """
        share_prompts(policy)
        self.policy, self.bf16 = policy, bf16
        model = causal_lm(policy)
        self.is_end = torch.zeros(model.config.get_text_config().vocab_size, dtype=torch.bool, device=model.device)
        self.ends = end_tokens(policy, tokenizer)
        self.is_end[self.ends] = True
        self.decoder: Decoder = Transformers(policy)
        self.graphs: Graphs | None = None
        if native:
            from grpo.qwen2 import Qwen2

            if Qwen2.knows(policy):
                self.decoder = Qwen2(policy, torch.bfloat16 if bf16 else model.dtype)
                self.graphs = Graphs() if model.device.type == "cuda" else None

    def complete(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float | None = None
    ) -> list[list[int]]:
        model = causal_lm(self.policy)
        first, group = distinct([tuple(ids) for ids in prompts])
        uniforms = None
        if temperature is not None:
            uniforms = torch.rand(len(prompts), max_new_tokens, dtype=torch.float64)
        completions = torch.full((len(prompts) + 1, max_new_tokens), -1, device=model.device)  # the last: of idle rows
        with sampling(self.policy, self.bf16):
            prefill = Prefill([list(prompts[i]) for i in first], model.device)
            self.decoder.refresh(prefill.longest + max_new_tokens)
            if len(prefill.ids):
                forward(model.base_model, prefill)
            decoding = Decoding.start(prefill, group, max_new_tokens, uniforms)
            while decoding.done < max_new_tokens:
                if self.graphs:
                    decoding = self.graphs.advance(decoding, self.decoder, temperature, self.is_end)
                else:
                    decoding.advance_block(self.decoder, temperature, self.is_end)
                completions[decoding.rows] = decoding.picked
                if not decoding.alive.any():
                    break
                decoding = decoding.without_ended(halving=self.graphs is not None)
        return [[token for token in row if token >= 0] for row in completions[:-1].tolist()]


class Decoder(Protocol):
    def refresh(self, longest: int) -> None:
        """Take over the policy's present weights, for sequences up to `longest` tokens."""

    def logits(self, batch: "Decoding") -> Tensor:
        """(rows, vocabulary) in float32: what follows each of the rows' last tokens, `batch.ids`."""


class Transformers:
    """Computes next-token logits with transformers' modules, whatever the architecture."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def refresh(self, longest: int) -> None:
        pass  # the modules read the policy's weights as they are

    def logits(self, batch: "Decoding") -> Tensor:
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


@dataclass
class Decoding:
    """Completions in the making: `A` rows for each of `G` prompts (rows of a prompt adjacent), all `done` tokens long.

    A step changes tensors in place, and what it does hangs on no value in them, so it can be captured as a CUDA graph.
    """

    prompts: int  # G
    rows: Tensor  # (R,) which completion a row is
    ids: Tensor  # (R,) each row's last token
    positions: Tensor  # (R,) where it stands
    alive: Tensor  # (R,) whether the completion goes on
    t: Tensor  # (1,) `done`, for the device
    picked: Tensor  # (R, T) the tokens sampled so far, -1 after the end
    uniforms: Tensor | None  # (R, T)
    prompt_bias: Tensor  # (G, 1, P) 0 where a prompt has a token, else -inf
    own_bias: Tensor  # (T,) likewise, of the completions
    prompt_keys: dict[int, Tensor]  # layer -> (G * key heads, P, D)
    prompt_values: dict[int, Tensor]
    own_keys: dict[int, Tensor] = field(default_factory=dict)  # layer -> (G * key heads * A, T, D)
    own_values: dict[int, Tensor] = field(default_factory=dict)
    done: int = 0
    width: int = 0  # how much of the completions' keys and values a step reads; masked beyond `t`
    _bias: Tensor | None = None  # prompt_bias for every key head

    @classmethod
    def start(cls, prefill: Prefill, group: list[int], max_new_tokens: int, uniforms: Tensor | None) -> "Decoding":
        """Rows for the completions of the prompts `group` (B,). A prompt with fewer than the most gets idle rows."""
        prompts, device = len(prefill.last), prefill.last.device
        members: list[list[int]] = [[] for _ in range(prompts)]
        for row, prompt in enumerate(group):
            members[prompt].append(row)
        slots = max(map(len, members))
        rows = torch.tensor([of + [len(group)] * (slots - len(of)) for of in members], device=device).flatten()
        alive = rows < len(group)
        if uniforms is not None:
            uniforms = uniforms[rows.clamp(max=len(group) - 1).cpu()].to(device)
        # On CUDA the widths of prompts fall into a few buckets, since every shape is a graph of its own.
        extra = -prefill.prompts.width % CUDA_BLOCK if device.type == "cuda" else 0
        mask = F.pad(prefill.prompts.mask, (0, extra))[:, None]

        def own(states: dict[int, Tensor]) -> dict[int, Tensor]:
            return {layer: F.pad(each, (0, 0, 0, extra)).flatten(0, 1).contiguous() for layer, each in states.items()}

        return cls(
            prompts=prompts,
            rows=rows,
            ids=prefill.last.repeat_interleave(slots),
            positions=prefill.prompts.lengths.repeat_interleave(slots),
            alive=alive,
            t=torch.zeros(1, dtype=torch.long, device=device),
            picked=torch.full((len(rows), max_new_tokens), -1, device=device),
            uniforms=uniforms,
            prompt_bias=torch.zeros(mask.shape, device=device).masked_fill_(~mask, -torch.inf),
            own_bias=torch.full((max_new_tokens,), -torch.inf, device=device),
            prompt_keys=own(prefill.keys),
            prompt_values=own(prefill.values),
        )

    @property
    def longest(self) -> int:
        return self.prompt_bias.shape[-1] + len(self.own_bias)

    def advance_block(self, decoder: Decoder, temperature: float | None, is_end: Tensor) -> None:
        """Sample the next few tokens of every row; stops early where all have ended."""
        until = min(self.done + BLOCK, len(self.own_bias))
        self.width = until
        while self.done < until:
            self.step(decoder, temperature, is_end)
            self.done += 1
            if not self.alive.any():
                break

    def step(self, decoder: Decoder, temperature: float | None, is_end: Tensor) -> None:
        """Sample the next token of every row; ended rows sample on, unrecorded."""
        self.own_bias.index_fill_(0, self.t, 0.0)
        logits = decoder.logits(self)
        if temperature is None or self.uniforms is None:
            picked = logits.argmax(-1)
        else:
            picked = inverse_cdf(logits / temperature, self.uniforms.index_select(1, self.t))
        self.picked.index_copy_(1, self.t, picked.where(self.alive, -1)[:, None])
        self.alive &= ~is_end[picked]
        self.ids.copy_(picked)
        self.positions.add_(1)
        self.t.add_(1)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        rows, heads, dim = query.shape
        g, a, kv, dtype = self.prompts, rows // self.prompts, key.shape[1], value.dtype
        repeats, size = heads // kv, self.prompt_bias.shape[-1] if self.prompt_keys else 0

        def by_prompt(states: Tensor) -> Tensor:  # the heads of a prompt's rows side by side: (G * key heads * A, ...)
            return states.to(dtype).view(g, a, kv, -1).transpose(1, 2).reshape(g * kv * a, -1, dim)

        for kept, new in ((self.own_keys, key), (self.own_values, value)):
            if layer not in kept:
                kept[layer] = torch.zeros(rows * kv, len(self.own_bias), dim, dtype=dtype, device=query.device)
            kept[layer].index_copy_(1, self.t, by_prompt(new))
        own_key, own_value = self.own_keys[layer][:, : self.width], self.own_values[layer][:, : self.width]
        query = by_prompt(query)
        scores = _scores(query, own_key, self.own_bias[: self.width], scale)
        if size:
            # All rows of a prompt against its one copy of keys: a product for each prompt and key head.
            if self._bias is None:
                self._bias = self.prompt_bias.repeat_interleave(kv, 0)
            of_prompt = _scores(query.view(g * kv, a * repeats, dim), self.prompt_keys[layer], self._bias, scale)
            scores = torch.cat((of_prompt.view(-1, repeats, size), scores), -1)
        weights = scores.softmax(-1).to(dtype)
        seen = torch.bmm(weights[..., size:], own_value)
        if size:
            of_prompt = weights[..., :size].view(g * kv, a * repeats, size)
            seen += torch.bmm(of_prompt, self.prompt_values[layer]).view(seen.shape)
        return seen.view(g, kv, a, repeats * dim).transpose(1, 2).reshape(rows, heads, dim)

    def without_ended(self, halving: bool) -> "Decoding":
        """With as few rows a prompt as hold those that go on; with `halving` only where they fit into half as many."""
        slots = len(self.rows) // self.prompts
        alive = self.alive.view(self.prompts, slots)
        counts = alive.sum(1)
        most = fewer = int(counts.max())
        kept = counts > 0
        if halving:
            kept, fewer = torch.ones_like(kept), slots
            while fewer > 1 and (fewer + 1) // 2 >= most:
                fewer = (fewer + 1) // 2
        if fewer == slots and kept.all():
            return self
        first = torch.arange(self.prompts, device=alive.device)[:, None] * slots
        order = alive.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :fewer]
        rows, prompts = (order + first)[kept].flatten(), kept.nonzero()[:, 0]

        def of_prompts(states: dict[int, Tensor]) -> dict[int, Tensor]:
            return {k: s.unflatten(0, (self.prompts, -1))[prompts].flatten(0, 1) for k, s in states.items()}

        def of_rows(states: dict[int, Tensor]) -> dict[int, Tensor]:
            chosen = {}
            for layer, each in states.items():
                by_prompt = each.unflatten(0, (self.prompts, -1, slots))
                heads = torch.arange(by_prompt.shape[1], device=each.device)[:, None]
                chosen[layer] = by_prompt[prompts[:, None, None], heads, order[prompts][:, None]].flatten(0, 2)
            return chosen

        return Decoding(
            prompts=len(prompts),
            rows=self.rows[rows],
            ids=self.ids[rows],
            positions=self.positions[rows],
            alive=self.alive[rows],
            t=self.t.clone(),
            picked=self.picked[rows],
            uniforms=None if self.uniforms is None else self.uniforms[rows],
            prompt_bias=self.prompt_bias[prompts],
            own_bias=self.own_bias.clone(),
            prompt_keys=of_prompts(self.prompt_keys),
            prompt_values=of_prompts(self.prompt_values),
            own_keys=of_rows(self.own_keys),
            own_values=of_rows(self.own_values),
            done=self.done,
        )

    def load(self, other: "Decoding") -> None:
        """Take over the values of another one of the same shape, into the same storage."""
        self.done = other.done
        for name in (item.name for item in fields(self)):
            mine, its = getattr(self, name), getattr(other, name)
            if isinstance(mine, Tensor):
                mine.copy_(its)
            elif isinstance(mine, dict):
                for layer, states in its.items():
                    mine[layer].copy_(states)


def _scores(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Scaled and masked attention scores, in float32 on CUDA whatever the dtype of computing."""
    if query.device.type == "cuda" and query.dtype != torch.float32:
        return torch.bmm(query, key.transpose(1, 2), out_dtype=torch.float32).mul_(scale).add_(bias)
    return torch.baddbmm(bias.to(query.dtype), query, key.transpose(1, 2), alpha=scale)


def inverse_cdf(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token (R,) for each row of float32 logits (R, V), from uniforms in [0, 1) (R, 1)."""
    # Accumulated in float64: in float32 a large vocabulary's tail would be lost in rounding.
    cumulative = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    tokens = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)[:, 0]
    return tokens.clamp_(max=logits.shape[-1] - 1)


class Graphs:
    """Steps as CUDA graphs: one launch for a token instead of hundreds.

    A graph is captured for each number of prompts and rows, each bucket of prompt width and of tokens sampled so far,
    and replayed over the same storage from then on, in every later rollout too.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[int, ...], Decoding] = {}
        self.graphs: dict[tuple[Any, ...], torch.cuda.CUDAGraph] = {}

    def advance(self, decoding: Decoding, decoder: Decoder, temperature: float | None, is_end: Tensor) -> Decoding:
        """Sample the next few tokens of every row; returns the decoding that holds them."""
        limit = len(decoding.own_bias)
        shape = (decoding.prompts, len(decoding.rows), decoding.prompt_bias.shape[-1], limit, decoding.uniforms is None)
        held = self.held.setdefault(shape, decoding)
        if held is not decoding:
            held.load(decoding)
        until = min(held.done + BLOCK, limit)
        held.width = min(-(-until // CUDA_BLOCK) * CUDA_BLOCK, limit)
        key = (*shape, held.width, temperature)
        if key not in self.graphs:
            self.graphs[key] = self._capture(held, decoder, temperature, is_end)
        for _ in range(until - held.done):
            self.graphs[key].replay()
        held.done = until
        return held

    def _capture(
        self, held: Decoding, decoder: Decoder, temperature: float | None, is_end: Tensor
    ) -> torch.cuda.CUDAGraph:
        changing = (held.ids, held.positions, held.alive, held.t, held.picked, held.own_bias)
        saved = [tensor.clone() for tensor in changing]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries set themselves up in the first steps, which a capture must not see
                held.step(decoder, temperature, is_end)
                for tensor, value in zip(changing, saved, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            held.step(decoder, temperature, is_end)
        return graph
