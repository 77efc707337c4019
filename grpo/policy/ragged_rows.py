"""Conversion between rows of unequal length that are packed one after another and rows that are padded.

The attention of packed batches calls it, in training and in sampling. It does not know what the rows are.
"""

from typing import Any

import torch
from torch import Tensor

# The number of the last part of `RowParts`, which has the rows with an eighth of the most tokens, or fewer.
LAST_PART = 3


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

    def pad(self, packed: Tensor) -> Tensor:
        """(T, heads, D) -> (B, heads, W, D). Padding contains copies of other tokens, so attention must mask it.

        The gradient of a token comes from its own row only; for keys of common tokens use `gather`.
        """
        padded = _PadRows.apply(packed, self.source, self.real)
        return padded.view(self.rows, self.width, *packed.shape[1:]).transpose(1, 2)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, heads, W, D) -> (T, heads, D)"""
        grid = padded.transpose(1, 2).reshape(self.rows * self.width, padded.shape[1], padded.shape[3])
        unpadded: Tensor = _UnpadRows.apply(grid, self.source, self.real, self.mask)
        return unpadded


class RowParts:
    """Rows with common tokens, divided into parts by the number of tokens that they own: little padding in each part.

    A token that several rows have is owned by one of them (`owner` of `RaggedRows`); the tokens that a row owns are its
    last ones. In a part, a row owns less than twice as many tokens as any other, except in the last part, which has all
    short rows. Rows that own no token are in no part.

    Shapes: part p has R rows, of which the longest has W tokens, and the one that owns the most owns Q tokens.

    Attributes:
        rows: for each part, (R,) the numbers of its rows.
        columns: for each part, (R, Q) the column of each owned token in its row; in padding, columns after its end.
        source: for each part, (R, W) the packed token in each column of a row.
    """

    def __init__(self, ragged: RaggedRows) -> None:
        owned = ragged.mask.sum(1)
        first = owned.cumsum(0) - owned  # the packed index of the first token of each row
        halvings = (owned.max() / owned).log2().floor().clamp(max=LAST_PART)  # infinite, thus LAST_PART, without tokens
        self.rows, self.columns, self.source, queries, masks = [], [], [], [], []
        for part in range(LAST_PART + 1):
            rows = ((halvings == part) & (owned > 0)).nonzero()[:, 0]
            if len(rows):
                count, length = owned[rows][:, None], ragged.lengths[rows]
                place = torch.arange(int(count.max()), device=rows.device)
                self.rows.append(rows)
                self.columns.append(length[:, None] - count + place)
                self.source.append(ragged.source.view(ragged.rows, -1)[rows, : int(length.max())])
                queries.append((first[rows][:, None] + torch.minimum(place, count - 1)).flatten())
                masks.append((place < count).flatten())
        self._queries, self._mask = torch.cat(queries), torch.cat(masks)
        self._real = torch.empty_like(ragged.real)
        self._real[self._queries[self._mask]] = self._mask.nonzero()[:, 0]

    def pad(self, packed: Tensor) -> list[Tensor]:
        """(T, heads, D) -> for each part, (R, heads, Q, D): owned tokens. Padding has copies of a row's last token."""
        padded = _PadRows.apply(packed, self._queries, self._real)
        parts = padded.split([columns.numel() for columns in self.columns])
        return [
            part.view(*columns.shape, *packed.shape[1:]).transpose(1, 2)
            for part, columns in zip(parts, self.columns, strict=True)
        ]

    def unpad(self, parts: list[Tensor]) -> Tensor:
        """For each part, (R, heads, Q, D) -> (T, heads, D)"""
        flat = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])
        unpadded: Tensor = _UnpadRows.apply(flat, self._queries, self._real, self._mask)
        return unpadded


def gather(packed: Tensor, index: Tensor) -> Tensor:
    """Keys or values (T, heads, D) and token numbers (R, W) -> (R, heads, W, D). A token may be in several places."""
    gathered: Tensor = _Gather.apply(packed, index.flatten())
    return gathered.view(*index.shape, *packed.shape[1:]).transpose(1, 2)


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


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.tokens = index, len(packed)
        return packed.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        flat = grad.flatten(1)
        total = flat.new_zeros(ctx.tokens, flat.shape[1])
        if grad.device.type == "cpu":
            # On a CPU `scatter_add_` with an expanded index is several times as fast as `index_add_`.
            total.scatter_add_(0, ctx.index[:, None].expand_as(flat), flat)
        else:
            # On CUDA `index_put_` adds in one order, and `scatter_add_` in any.
            total.index_put_((ctx.index,), flat, accumulate=True)
        return total.view(-1, *grad.shape[1:]), None


class _UnpadRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, source: Tensor, real: Tensor, mask: Tensor) -> Tensor:
        ctx.source, ctx.mask = source, mask
        return grid.index_select(0, real)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.index_select(0, ctx.source).mul_(ctx.mask.view(-1, 1, 1)), None, None, None
