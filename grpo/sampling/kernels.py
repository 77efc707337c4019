"""Triton kernels for the decode step: four larger ones in place of many small kernels of PyTorch.

The decoder in qwen2_triton.py calls them, and the prefix-sharing sampler calls the one that chooses tokens. Each
launcher is followed by its reference, plain PyTorch that computes the same; tests compare the two. Every kernel
computes in float32 (sums of probabilities in float64) and rounds where the reference rounds. They know nothing of
policies. Triton's interpreter runs them without a GPU if TRITON_INTERPRET=1 is set before Triton is imported.

Shapes: S slots, A slots of each prompt, P and C prompt and completion tokens (padded), H key heads, Q query heads per
key head, D head size (a power of 2, at least 16), V vocabulary.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

# Bytes of keys that an attention program reads at a time; with them it needs about 70 KB of shared memory in all.
KEY_BLOCK_BYTES = 16384
GATE_BLOCK = 1024
VOCABULARY_BLOCK = 4096


@triton.jit
def _add_norm(x, y, normed, width, epsilon, HAS_Y: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    place, real = tl.program_id(0) * width + column, column < width
    value = tl.load(x + place, mask=real, other=0.0).to(tl.float32)
    if HAS_Y:
        value += tl.load(y + place, mask=real, other=0.0).to(tl.float32)
        rounded = value.to(x.dtype.element_ty)
        tl.store(x + place, rounded, mask=real)
        value = rounded.to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, 0) / width + epsilon)
    tl.store(normed + place, value.to(normed.dtype.element_ty), mask=real)


def add_norm(x: Tensor, y: Tensor | None, epsilon: float, dtype: torch.dtype) -> Tensor:
    """Add y, if it is given, to x in place, both (S, width); return the RMSNorm of x without weights, in `dtype`."""
    slots, width = x.shape
    normed = torch.empty_like(x, dtype=dtype)
    block = triton.next_power_of_2(width)
    _add_norm[(slots,)](x, x if y is None else y, normed, width, epsilon, HAS_Y=y is not None, BLOCK=block)
    return normed


def add_norm_reference(x: Tensor, y: Tensor | None, epsilon: float, dtype: torch.dtype) -> Tensor:
    if y is not None:
        x += y
    return F.rms_norm(x.float(), x.shape[-1:], eps=epsilon).to(dtype)


@triton.jit
def _silu_gate(gate_up, gated, width, BLOCK: tl.constexpr):
    row, column = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=real).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=real).to(tl.float32)
    tl.store(gated + row * width + column, (gate * tl.sigmoid(gate) * up).to(gated.dtype.element_ty), mask=real)


def silu_gate(gate_up: Tensor) -> Tensor:
    """SiLU(gate) * up (S, width), from the gate projection and then the up projection in (S, 2 * width)."""
    slots, width = len(gate_up), gate_up.shape[1] // 2
    gated = gate_up.new_empty(slots, width)
    _silu_gate[(slots, triton.cdiv(width, GATE_BLOCK))](gate_up, gated, width, BLOCK=GATE_BLOCK)
    return gated


def silu_gate_reference(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.float().chunk(2, -1)
    return (F.silu(gate) * up).to(gate_up.dtype)


@triton.jit
def _rotated(states, head, cos, sin, D: tl.constexpr):
    # `sin` has the sign of transformers' rotate_half: negative in the first half.
    column = tl.arange(0, D)
    state = tl.load(states + head * D + column).to(tl.float32)
    partner = tl.load(states + head * D + (column + D // 2) % D).to(tl.float32)
    return (state * cos + partner * sin).to(states.dtype.element_ty)


@triton.jit
def _attend_to(query, keys, values, count, highest, total, attended, scale, D: tl.constexpr, BLOCK: tl.constexpr):
    """Continue an online softmax over `count` keys and values, (count, D) in memory."""
    column = tl.arange(0, D)
    for start in range(0, count, BLOCK):
        token = start + tl.arange(0, BLOCK)
        place, real = token[:, None] * D + column[None, :], token < count
        key = tl.load(keys + place, mask=real[:, None], other=0.0)
        value = tl.load(values + place, mask=real[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(real[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        attended *= shrink[:, None]
        attended += tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        highest = higher
    return highest, total, attended


@triton.jit
def _attend(
    qkv,
    cos,
    sin,
    positions,
    length,
    prompt_keys,
    prompt_values,
    own_keys,
    own_values,
    out,
    scale,
    slots_of_prompt,
    prompt_width,
    own_width,
    H: tl.constexpr,
    Q: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    slot, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column, row = tl.arange(0, D), tl.arange(0, ROWS)
    states = qkv + slot * (H * Q + 2 * H) * D
    done = tl.load(length)
    prompt_tokens = tl.load(positions + slot) - done
    cos_row, sin_row = tl.load(cos + slot * D + column), tl.load(sin + slot * D + column)

    # tl.dot needs at least 16 rows: rows from Q on are copies of the last query, and are not stored.
    query_head = head * Q + tl.minimum(row, Q - 1)
    query = _rotated(states, query_head[:, None], cos_row[None, :], sin_row[None, :], D)
    key = _rotated(states, H * Q + head, cos_row, sin_row, D)
    value = tl.load(states + (H * Q + H + head) * D + column)

    group = slot // slots_of_prompt
    own = ((group * H + head) * slots_of_prompt + slot % slots_of_prompt) * own_width * D
    tl.store(own_keys + own + done * D + column, key)
    tl.store(own_values + own + done * D + column, value)

    # The softmax begins with the new token, because its key and value are still in registers.
    highest = tl.sum(query.to(tl.float32) * key.to(tl.float32)[None, :], 1) * scale
    total = tl.full((ROWS,), 1.0, tl.float32)
    attended = tl.zeros((ROWS, D), tl.float32) + value.to(tl.float32)[None, :]
    shared = (group * H + head) * prompt_width * D
    highest, total, attended = _attend_to(
        query, prompt_keys + shared, prompt_values + shared, prompt_tokens, highest, total, attended, scale, D, BLOCK
    )
    highest, total, attended = _attend_to(
        query, own_keys + own, own_values + own, done, highest, total, attended, scale, D, BLOCK
    )
    place = (slot * H * Q + head * Q + row[:, None]) * D + column[None, :]
    tl.store(out + place, (attended / total[:, None]).to(out.dtype.element_ty), mask=row[:, None] < Q)


def attend(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    length: Tensor,
    prompt: tuple[Tensor, Tensor] | None,
    own: tuple[Tensor, Tensor],
    slots_of_prompt: int,
    scale: float,
) -> Tensor:
    """Rotary embedding, storage of the new keys and values in the cache, and attention of one new token per slot.

    One program computes one key head of one slot. It reads the prompt's keys and values, which the slots of a prompt
    share and therefore find in the GPU's L2 cache, and then the slot's own, with an online softmax (Milakov and
    Gimelshein 2018, https://arxiv.org/abs/1805.02867; Dao et al. 2022, https://arxiv.org/abs/2205.14135). It reads real
    tokens only, no padding.

    Args:
        qkv: (S, H * Q + 2 * H, D) queries, keys and values, not rotated.
        cos, sin: (S, D) in float32, for states * cos + (states with their halves exchanged) * sin.
        positions: (S,) the position of the new token; the slot's prompt has `positions - length` keys.
        length: (1,) the number of each slot's own tokens in the cache, without the new one.
        prompt: keys and values (G * H, P, D); None if there are none.
        own: keys and values (G * H * A, C, D); the new ones are stored at index `length`.
        slots_of_prompt: A.

    Returns:
        (S, H * Q, D).
    """
    slots, states, dim = qkv.shape
    kv = len(own[0]) // slots
    repeats = states // kv - 2
    keys, values = prompt or own
    out = qkv.new_empty(slots, kv * repeats, dim)
    _attend[(slots, kv)](
        *(qkv, cos, sin, positions, length, keys, values, *own, out),
        *(scale, slots_of_prompt, keys.shape[1], own[0].shape[1]),
        H=kv,
        Q=repeats,
        D=dim,
        ROWS=max(16, triton.next_power_of_2(repeats)),
        BLOCK=max(16, KEY_BLOCK_BYTES // (dim * qkv.element_size())),
    )
    return out


def attend_reference(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    length: Tensor,
    prompt: tuple[Tensor, Tensor] | None,
    own: tuple[Tensor, Tensor],
    slots_of_prompt: int,
    scale: float,
) -> Tensor:
    slots, _, dim = qkv.shape
    kv = len(own[0]) // slots
    done = int(length)
    rotated = (qkv * cos[:, None] + qkv.roll(dim // 2, -1) * sin[:, None]).to(qkv.dtype)
    query, key, value = rotated[:, : -2 * kv], rotated[:, -2 * kv : -kv], qkv[:, -kv:]
    out = torch.empty_like(query)
    for slot in range(slots):
        group, member = divmod(slot, slots_of_prompt)
        for head in range(kv):
            index = (group * kv + head) * slots_of_prompt + member
            for stored, new in zip(own, (key, value), strict=True):
                stored[index, done] = new[slot, head]
            keys, values = (
                torch.cat((shared[group * kv + head, : positions[slot] - done], mine[index, : done + 1])).float()
                for shared, mine in zip(prompt or own, own, strict=True)
            )
            queries = slice(head * query.shape[1] // kv, (head + 1) * query.shape[1] // kv)
            weights = (query[slot, queries].float() @ keys.T * scale).softmax(-1)
            out[slot, queries] = (weights @ values).to(out.dtype)
    return out


@triton.jit
def _block_sums(logits, maxima, sums, vocabulary, temperature, BLOCK: tl.constexpr):
    slot, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    logit = tl.load(logits + slot * vocabulary + token, mask=token < vocabulary, other=-float("inf"))
    logit = logit.to(tl.float32) / temperature
    highest = tl.max(logit, 0)
    tl.store(maxima + slot * blocks + block, highest)
    shift = tl.where(highest == -float("inf"), 0.0, highest)  # a block without probability has the sum 0
    tl.store(sums + slot * blocks + block, tl.sum(tl.exp(logit - shift).to(tl.float64), 0))


@triton.jit
def _choose(
    logits,
    maxima,
    sums,
    uniforms,
    slots,
    tokens,
    vocabulary,
    temperature,
    blocks,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, block = tl.program_id(0), tl.arange(0, BLOCKS)
    slot = tl.load(slots + row)
    maximum = tl.load(maxima + slot * blocks + block, mask=block < blocks, other=-float("inf"))
    mass = tl.load(sums + slot * blocks + block, mask=block < blocks, other=0.0)
    mass *= tl.exp(maximum - tl.max(maximum, 0)).to(tl.float64)
    target = tl.load(uniforms + row) * tl.sum(mass, 0)
    chosen = tl.minimum(tl.sum((tl.cumsum(mass, 0) <= target).to(tl.int32), 0), blocks - 1)
    # Within the block, the sums are again relative to its own maximum, as `_block_sums` computed them.
    target = (target - tl.sum(tl.where(block < chosen, mass, 0.0), 0)) / tl.exp(
        tl.load(maxima + slot * blocks + chosen) - tl.max(maximum, 0)
    ).to(tl.float64)
    token = chosen * BLOCK + tl.arange(0, BLOCK)
    logit = tl.load(logits + slot * vocabulary + token, mask=token < vocabulary, other=-float("inf"))
    logit = logit.to(tl.float32) / temperature
    sums_within = tl.cumsum(tl.exp(logit - tl.load(maxima + slot * blocks + chosen)).to(tl.float64), 0)
    place = tl.sum((sums_within <= target).to(tl.int32), 0)
    tl.store(tokens + row, tl.minimum(chosen * BLOCK + tl.minimum(place, BLOCK - 1), vocabulary - 1).to(tl.int64))


def sample(logits: Tensor, uniforms: Tensor, slot: Tensor, temperature: float) -> Tensor:
    """Sample one token for each uniform number; the reference is `token_sampler.sample_inverse_cdf`.

    The first pass sums the probabilities of each block of the vocabulary, in float64; the second pass reads only the
    block that has the token. A token differs from the reference's only if its uniform number is within float32's
    rounding of a boundary between two tokens.

    Args:
        logits: (S, V).
        uniforms, slot: for each token, a number in [0, 1) and the slot to sample from.
    """
    slots, vocabulary = logits.shape
    blocks = triton.cdiv(vocabulary, VOCABULARY_BLOCK)
    maxima = torch.empty(slots, blocks, device=logits.device)
    sums = torch.empty(slots, blocks, dtype=torch.float64, device=logits.device)
    tokens = torch.empty_like(slot)
    _block_sums[(slots, blocks)](logits, maxima, sums, vocabulary, temperature, BLOCK=VOCABULARY_BLOCK)
    _choose[(len(slot),)](
        *(logits, maxima, sums, uniforms, slot, tokens, vocabulary, temperature, blocks),
        BLOCKS=triton.next_power_of_2(blocks),
        BLOCK=VOCABULARY_BLOCK,
    )
    return tokens
