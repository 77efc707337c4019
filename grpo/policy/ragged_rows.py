"""Conversion between rows of unequal length that are packed one after another and rows that are padded.

The attention of packed batches calls it, in training and in sampling. It does not know what the rows are.
"""

from typing import Any

import torch
from torch import Tensor


class RaggedRows:
    """B rows of unequal length: conversion between packed, (T, ...), and padded on the right, (B, W, ...).

    Common tokens of rows are packed once: T is then less than the sum of the lengths.

    Args:
        lengths: (B,) the length of each row.
        owner: (B, W) for each place of the padded grid, the row whose packed token it receives, in the same column;
            None: every row has its own tokens.

    Attributes:
        rows, width: B and W, the longest length.
        columns: (W,) 0, 1, ..., W - 1.
        mask: (B, W) whether a place of the padded grid is a token of its own row.
        real: (T,) the index of each packed token in the flat padded grid.
        source: (B*W,) the index of the packed token that each place of the flat padded grid receives.
        has_common_tokens: whether a packed token is in several rows.
    """

    def __init__(self, lengths: Tensor, owner: Tensor | None = None) -> None:
        self.lengths = lengths
        self.rows, self.width = len(lengths), int(lengths.max())
        self.columns = torch.arange(self.width, device=lengths.device)
        self.mask = self.columns < lengths[:, None]
        if owner is not None:
            self.mask &= owner == torch.arange(self.rows, device=lengths.device)[:, None]
        numbers = self.mask.flatten().cumsum(0) - 1
        if owner is not None:
            numbers = numbers.view(self.rows, self.width).gather(0, owner).flatten()
        self.source = numbers.clamp(min=0)
        self.real = self.mask.flatten().nonzero()[:, 0]
        self.has_common_tokens = len(self.real) < int(lengths.sum())

    def pad(self, packed: Tensor) -> Tensor:
        """(T, heads, D) -> (B, heads, W, D). Padding contains copies of other tokens, so attention must mask it.

        For queries: `unpad` takes the output of a token in its own row only, so only that place has a gradient.
        """
        return self._by_head(_PadRows.apply(packed, self.source, self.real))

    def pad_keys(self, packed: Tensor) -> Tensor:
        """As `pad`, for keys and values: the gradient of a token is the sum over all rows that have it."""
        padding = _PadCommonRows if self.has_common_tokens else _PadRows
        return self._by_head(padding.apply(packed, self.source, self.real))

    def _by_head(self, padded: Tensor) -> Tensor:
        return padded.view(self.rows, self.width, *padded.shape[1:]).transpose(1, 2)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, heads, W, D) -> (T, heads, D)"""
        grid = padded.transpose(1, 2).reshape(self.rows * self.width, padded.shape[1], padded.shape[3])
        unpadded: Tensor = _UnpadRows.apply(grid, self.source, self.real, self.mask)
        return unpadded


class _PadRows(torch.autograd.Function):
    # Autograd's backward of `index_select` adds up over `source`, which repeats tokens in padding. The gradient of
    # padding is zero, so selecting the real tokens gives the same result faster.
    @staticmethod
    def forward(ctx: Any, packed: Tensor, source: Tensor, real: Tensor) -> Tensor:
        ctx.real = real
        return packed.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.real), None, None


class _PadCommonRows(torch.autograd.Function):
    # The gradient of padding is zero here too, so it can be added to any token.
    @staticmethod
    def forward(ctx: Any, packed: Tensor, source: Tensor, real: Tensor) -> Tensor:
        ctx.source, ctx.tokens = source, len(real)
        return packed.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # On a CPU `scatter_add_` with an expanded index is several times as fast as `index_add_`.
        flat = grad.flatten(1)
        index = ctx.source[:, None].expand_as(flat)
        return (
            flat.new_zeros(ctx.tokens, flat.shape[1]).scatter_add_(0, index, flat).view(-1, *grad.shape[1:]),
            None,
            None,
        )


class _UnpadRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, source: Tensor, real: Tensor, mask: Tensor) -> Tensor:
        ctx.source, ctx.mask = source, mask
        return grid.index_select(0, real)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.index_select(0, ctx.source).mul_(ctx.mask.view(-1, 1, 1)), None, None, None
