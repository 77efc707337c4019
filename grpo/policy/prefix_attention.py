"""Attention of a layer over packed prompts and completions: two implementations of one function.

A row of T tokens has G distinct prompts, one after another, and then B completions. A token of a prompt attends to its
prompt up to itself; a token of a completion to its complete prompt, and to its completion up to itself.
`PackedCompletions` builds one of the classes for each batch and calls it in every layer. They know the lengths of the
rows, and nothing of tokens and models.
"""

import math
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask, flex_attention

from grpo.policy.ragged_rows import RaggedRows, RowParts, gather

BLOCK = 128  # tokens of a block of `BlockMask`, the default of PyTorch
# The fewest blocks of a row. torch.compile takes sizes that are equal in its first call for one size, and compiles
# again when they differ; hardly a model has 7 heads. With fewer than 128 queries, flex_attention uses another kernel.
LEAST_BLOCKS = 7
# Queries of a row that `SdpaAttention` computes together. A block gets no keys after its last query, so the first
# blocks compute fewer pairs.
QUERIES = 128


class SdpaAttention:
    """Attention of padded rows, by PyTorch's `scaled_dot_product_attention` with a mask.

    Args:
        prompts: the G distinct prompts.
        completions: the B completions; they can have common tokens.
        group: (B,) the number of the prompt of each completion.

    Attributes:
        parts: the rows of completions, with little padding.
        keys: for each part, (R, P + W) the packed tokens whose keys its rows get: the prompt, then the completion.
        masks: for each part, and for each block of at most `QUERIES` of its Q queries, (R, 1, q, P + w) the keys that
            each query attends to; no query of the block attends to the keys that follow.
    """

    takes_common_tokens = True

    def __init__(self, prompts: RaggedRows, completions: RaggedRows, group: Tensor) -> None:
        self.prompts, self.parts = prompts, RowParts(completions)
        prompt_tokens, split = prompts.source.view(prompts.rows, -1), len(prompts.real)
        self.keys, self.masks = [], []
        for rows, columns, source in zip(self.parts.rows, self.parts.columns, self.parts.source, strict=True):
            self.keys.append(torch.cat((prompt_tokens[group[rows]], split + source), 1))
            masks = []
            for block in columns.split(QUERIES, 1):
                in_prompt = prompts.mask[group[rows]][:, None].expand(-1, block.shape[1], -1)
                width = min(int(block.max()) + 1, source.shape[1])
                causal = completions.columns[:width] <= block[..., None]
                masks.append(torch.cat((in_prompt, causal), -1)[:, None])
            self.masks.append(masks)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(T, heads, D), and twice (T, H, D) with H key heads -> (T, heads, D)."""
        split = len(self.prompts.real)
        prompt_output = query[:split]
        if split:  # 0 if every prompt has only one token
            own = [self.prompts.pad(states[:split]) for states in (query, key, value)]
            prompt_output = self.prompts.unpad(_sdpa(own[0], own[1], own[2], None, scale, is_causal=True))
        outputs = []
        for own_query, tokens, masks in zip(self.parts.pad(query[split:]), self.keys, self.masks, strict=True):
            keys, values = (_repeat_heads(gather(states, tokens), query) for states in (key, value))
            blocks = [
                _sdpa(block, keys[:, :, : mask.shape[-1]], values[:, :, : mask.shape[-1]], mask, scale)
                for block, mask in zip(own_query.split(QUERIES, 2), masks, strict=True)
            ]
            outputs.append(torch.cat(blocks, 2))
        return torch.cat((prompt_output, self.parts.unpad(outputs)))


def _repeat_heads(states: Tensor, query: Tensor) -> Tensor:
    """Keys or values (R, H, W, D), on CUDA repeated to the heads of `query` (T, heads, D).

    As in transformers: with a mask, the fast CUDA kernels need one key head for each query head.
    """
    count = query.shape[1] // states.shape[1]
    return states.repeat_interleave(count, 1) if count > 1 and states.device.type == "cuda" else states


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, is_causal: bool = False) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=grouped)


class FlexAttention:
    """Attention of the packed row as it is, by PyTorch's `flex_attention`, which skips blocks that the mask excludes.

    No row is padded and no key is repeated. On a CPU `flex_attention` has no backward pass; there
    `scaled_dot_product_attention` gets the same mask and computes all pairs of tokens, which is of use for tests only.

    Args:
        prompts, completions, group: as of `SdpaAttention`.

    Attributes:
        padding: the number of tokens that are appended, to a multiple of `BLOCK`. They attend to one another.
        mask: the pairs of the T + padding tokens that are computed.
    """

    takes_common_tokens = False  # the tokens of a completion are one range of the row

    def __init__(self, prompts: RaggedRows, completions: RaggedRows, group: Tensor) -> None:
        tokens = len(prompts.real) + len(completions.real)
        width = max(LEAST_BLOCKS, -(-tokens // BLOCK)) * BLOCK
        self.padding = width - tokens
        lengths = torch.cat((prompts.lengths, completions.lengths, prompts.lengths.new_tensor([self.padding])))
        ends = lengths.cumsum(0)
        starts = ends - lengths
        none = torch.zeros_like(lengths)
        own = torch.stack((starts, none, none))
        own[1:, len(prompts.lengths) : -1] = torch.stack((starts[group], ends[group]))
        self.mask = _block_mask(*own.int().repeat_interleave(lengths, 1, output_size=width))

    @cached_property
    def dense_mask(self) -> Tensor:
        """(1, 1, T + padding, T + padding) the mask as a tensor."""
        return create_mask(self.mask.mask_mod, None, None, *self.mask.seq_lengths, device=self.mask.kv_indices.device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """As `SdpaAttention`, in the dtype of autocast."""
        device, tokens = query.device.type, len(query)
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
        # Both functions scale by D ** -0.5. With dynamic=True a scale that is given would be no constant of the kernel.
        factor = scale * query.shape[-1] ** 0.5
        query = query if math.isclose(factor, 1) else query * factor
        query, key, value = (
            F.pad(states.to(dtype).transpose(0, 1), (0, 0, 0, self.padding))[None] for states in (query, key, value)
        )
        if device == "cuda":
            output = compile_flex_attention()(query, key, value, block_mask=self.mask, enable_gqa=True)
        else:
            output = F.scaled_dot_product_attention(query, key, value, self.dense_mask, enable_gqa=True)
        return output[0, :, :tokens].transpose(0, 1)


@cache
def compile_flex_attention(backend: str = "inductor") -> Callable[..., Any]:
    """`flex_attention`, compiled once for all lengths of a packed row."""
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True, fullgraph=True, backend=backend)
    return compiled


def _block_mask(own_start: Tensor, prompt_start: Tensor, prompt_end: Tensor) -> BlockMask:
    """The mask in which a token attends to [own_start, itself] and [prompt_start, prompt_end), each (width,).

    `create_block_mask` would evaluate all pairs of tokens, 400 MB for 20,000 tokens; here it is tokens times blocks.
    """

    def mask_mod(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_prompt = (prompt_start[query] <= key) & (key < prompt_end[query])
        return in_prompt | ((own_start[query] <= key) & (key <= query))

    width = len(own_start)
    index = torch.arange(width, device=own_start.device)
    first = index[::BLOCK]  # (blocks,) the first key of each block
    starts, ends = torch.stack((own_start, prompt_start), 1), torch.stack((index + 1, prompt_end), 1)
    starts, ends = starts[..., None], ends[..., None]  # (width, 2, 1)
    touched = (first < ends) & (starts < first + BLOCK) & (starts < ends)
    covered = (starts <= first) & (first + BLOCK <= ends)
    touched = touched.any(1).view(-1, BLOCK, len(first)).any(1)  # (blocks, blocks), queries times keys
    covered = covered.any(1).view(-1, BLOCK, len(first)).all(1)
    return BlockMask.from_kv_blocks(
        *_block_numbers(touched & ~covered), *_block_numbers(covered), BLOCK_SIZE=BLOCK, mask_mod=mask_mod
    )


def _block_numbers(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) of flags -> the number of flags (1, 1, rows), and (1, 1, rows, columns) their columns first."""
    numbers = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], numbers.int()[None, None]
