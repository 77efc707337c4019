"""Prefix sharing: forward passes that compute each distinct prompt once for all of its completions.

The K completions of a group share their prompt, and TRL computes it K times. Here the tokens of a batch are packed into
one row without padding: first every distinct prompt without its last token; then, for each completion, the last token
of its prompt and the completion without its last token. Each position of this second part predicts one token of a
completion. Completions of a prompt that begin with the same tokens share the positions that predict them. All layers
except attention work per token and need no change. Attention is replaced through `transformers.AttentionInterface`, so
every model that supports it can share prefixes, with adapters and hooks.

The trainer and the prefix-sharing sampler call this module. It does not know how tokens are sampled or what the loss
is.
"""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grpo.core.errors import first_line
from grpo.policy.prefix_attention import FlexAttention, SdpaAttention
from grpo.policy.ragged_rows import RaggedRows

ATTENTION_NAME = "shared_prompts"


class PackedBatch(Protocol):
    """T tokens of several sequences in one row, and their attention."""

    ids: Tensor  # (T,)
    positions: Tensor  # (T,) the position of each token in its sequence

    @property
    def longest(self) -> int:
        """The number of tokens of the longest sequence."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of one layer.

        Args:
            query: (T, heads, D).
            key, value: (T, H, D), with H key heads.
            scale: the factor of the dot products.

        Returns:
            (T, heads, D).
        """


class PrefixSharingUnsupported(Exception):
    """The reason why a policy cannot share prefixes; its text follows the name of the policy in messages."""


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_prompts: PackedBatch | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function of a layer (`transformers.AttentionInterface`): `PackedBatch.attend`, or SDPA without one.

    Args:
        query: (1, heads, T, D) with a packed batch, else (B, heads, W, D) with padded rows of width W.
        key, value: (1, H, T, D), else (B, H, W, D), with H key heads.

    Returns:
        (1, T, heads, D), else (B, W, heads, D), and no attention weights.

    Raises:
        PrefixSharingUnsupported: the layer uses a feature of attention that `attend` does not compute.
    """
    if shared_prompts is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    window = kwargs.get("sliding_window")
    if window is not None and window < shared_prompts.longest:
        raise PrefixSharingUnsupported(
            f"its attention window of {window} tokens is shorter than a prompt and its completion"
        )
    if kwargs.get("dropout"):
        raise PrefixSharingUnsupported("it trains with attention dropout")
    for name in ("softcap", "position_bias", "s_aux"):
        if kwargs.get(name) is not None:
            raise PrefixSharingUnsupported(f"its attention uses {name}")
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    return shared_prompts.attend(module.layer_idx, query, key, value, kwargs["scaling"])[None], None


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def unwrap_adapters(policy: Any) -> Any:
    """The model inside a LoRA policy, with its adapted layers; any other policy as it is."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy


def forward_packed(model: Any, batch: PackedBatch, **kwargs: Any) -> Any:
    """The output for a packed batch: logits (1, T, V) of a policy, hidden states (1, T, hidden) of a backbone."""
    # transformers uses a mask with four dimensions as it is, and computes no other mask.
    mask = batch.positions.new_zeros(1, 1, 1, 1)
    return model(
        input_ids=batch.ids[None],
        position_ids=batch.positions[None],
        attention_mask=mask,
        shared_prompts=batch,
        use_cache=False,
        **kwargs,
    )


def number_distinct(rows: list[Any]) -> tuple[list[int], list[int]]:
    """The index at which each distinct row occurs first, and for every row the number of its distinct row."""
    number: dict[Any, int] = {}
    first: list[int] = []
    for i, row in enumerate(rows):
        if row not in number:
            number[row] = len(first)
            first.append(i)
    return first, [number[row] for row in rows]


class PackedCompletions:
    """B completions with their G distinct prompts, packed into one row of T tokens (a `PackedBatch`).

    Args:
        input_ids: (B, P + C), prompts padded on the left, completions on the right.
        attention_mask: (B, P + C), 1 for real tokens. Completions without a token are left out.
        width: C.
        prompt_numbers: for each of the B rows, a number that rows with equal prompts share. None: rows are compared.
        attention: what computes the attention of its layers.

    Attributes:
        ids, positions: (T,) the tokens, and their positions in their sequences.
        labels: (T,) the token that each position predicts; -100 in prompts.
        predicting: (M,) the indices of the positions that predict a token: the last M of T.
        longest: the number of tokens of the longest sequence.
    """

    def __init__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        width: int,
        prompt_numbers: list[int] | None = None,
        attention: type[SdpaAttention | FlexAttention] = SdpaAttention,
    ) -> None:
        prompts, prompt_mask = input_ids[:, :-width], attention_mask[:, :-width].bool()
        completions, completion_mask = input_ids[:, -width:], attention_mask[:, -width:].bool()
        if prompt_numbers is None:
            rows = [row.tobytes() for row in prompts.where(prompt_mask, -1).cpu().numpy()]
            prompt_numbers = number_distinct(rows)[1]
        order, owners = _order_by_prefix(completions.where(completion_mask, -1).cpu().numpy(), prompt_numbers)
        nonempty = torch.tensor(order, device=input_ids.device)
        prompts, prompt_mask = prompts[nonempty], prompt_mask[nonempty]
        completions, completion_mask = completions[nonempty], completion_mask[nonempty]

        first, numbers = number_distinct([prompt_numbers[i] for i in order])
        group = torch.tensor(numbers, device=input_ids.device)
        prompt_lengths, lengths = prompt_mask[first].sum(1) - 1, completion_mask.sum(1)
        owner = torch.from_numpy(owners).to(input_ids.device) if attention.takes_common_tokens else None
        prompt_rows, completion_rows = RaggedRows(prompt_lengths), RaggedRows(lengths, owner)
        self.attention = attention(prompt_rows, completion_rows, group)
        self.longest = int((prompt_lengths[group] + completion_rows.lengths).max())

        packed = completion_rows.mask
        inputs = torch.cat((prompts[:, -1:], completions[:, :-1]), 1)[:, : completion_rows.width]
        without_last = prompt_mask[first]
        without_last[:, -1] = False
        self.ids = torch.cat((prompts[first][without_last], inputs[packed]))
        offsets = prompt_lengths[group][:, None] + completion_rows.columns
        self.positions = torch.cat((prompt_rows.columns.expand(len(first), -1)[prompt_rows.mask], offsets[packed]))
        split = len(prompt_rows.real)
        labels = completions[:, : completion_rows.width][packed]
        self.labels = torch.cat((self.ids.new_full((split,), -100), labels))
        self.predicting = torch.arange(split, len(self.ids), device=input_ids.device)
        is_token = completion_mask[:, : completion_rows.width]
        self._places = (nonempty[:, None] * width + completion_rows.columns)[is_token]
        self._sources = completion_rows.source[is_token.flatten()]
        self._shape = (len(input_ids), width)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `PackedBatch.attend`."""
        return self.attention(query, key, value, scale)

    def unpack(self, values: Tensor) -> Tensor:
        """Values (M,) of the predicted tokens -> (B, C), zero where there is no token."""
        flat = values.new_zeros(self._shape[0] * self._shape[1])
        return flat.index_copy(0, self._places, values.index_select(0, self._sources)).view(self._shape)


def _order_by_prefix(tokens: NDArray[np.int64], prompt_numbers: list[int]) -> tuple[list[int], NDArray[np.int64]]:
    """Bring rows with common prefixes together, and find for each token the row that computes it.

    Args:
        tokens: (B, C) the completions, -1 where there is no token.
        prompt_numbers: of each row; only rows with the same prompt have a common prefix.

    Returns:
        The indices of the R rows that have tokens, ordered so that rows with a common prefix are adjacent. And (R, W),
        W the longest length: for each token, the first row in this order with the same tokens up to its column.
    """
    rows = [(prompt_numbers[i], row.tobytes(), i) for i, row in enumerate(tokens) if row[0] >= 0]
    order = [i for _, _, i in sorted(rows)]
    tokens = tokens[order][:, : (tokens >= 0).any(0).sum()]
    numbers = np.array(prompt_numbers)[order]
    equal = (tokens[1:] == tokens[:-1]) & (numbers[1:] == numbers[:-1])[:, None]
    begins = np.ones(tokens.shape, dtype=bool)  # whether a row is the first with its tokens up to a column
    begins[1:] = ~np.logical_and.accumulate(equal, axis=1)
    return order, np.maximum.accumulate(np.where(begins, np.arange(len(order))[:, None], 0), axis=0)


class LogProbs(torch.autograd.Function):
    """Log-probabilities of targets and entropies from logits; the entropies have no gradient.

    With p = softmax(logits): log p[target], and H = -sum_v p[v] log p[v]. The gradient of log p[target] is
    onehot(target) - p.

    Args:
        logits: (M, V).
        targets: (M,).

    Returns:
        Log-probabilities (M,) and entropies (M,), in nats.

    For small vocabularies on a CPU. TRL's fused head needs less memory, but many more passes over it.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logps = logits.log_softmax(-1)
        probabilities = logps.exp()
        ctx.save_for_backward(probabilities, targets)
        chosen, entropies = logps.gather(-1, targets[:, None])[:, 0], -(logps.mul_(probabilities)).sum(-1)
        ctx.mark_non_differentiable(entropies)
        return chosen, entropies

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        probabilities, targets = ctx.saved_tensors
        logits_grad = probabilities * -grad[:, None]
        return logits_grad.scatter_add_(-1, targets[:, None], grad[:, None]), None


def enable_prefix_sharing(policy: Any) -> None:
    """Make `policy` accept packed batches (`forward_packed`); its other forward passes do not change.

    First a short batch is computed in both ways. This detects architectures in which tokens interact outside attention,
    such as state space layers, whose log-probabilities would be wrong.

    Raises:
        PrefixSharingUnsupported: the policy cannot share prefixes.
    """
    model = unwrap_adapters(policy)
    original = model.config._attn_implementation
    if original == ATTENTION_NAME:
        return
    if not getattr(model, "_supports_attention_backend", False) or original != "sdpa":
        raise PrefixSharingUnsupported(f"its attention is fixed to {original}")
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        difference = _largest_difference(model)
    except PrefixSharingUnsupported:
        model.set_attn_implementation(original)
        raise
    except Exception as error:  # an unknown architecture can raise any exception
        model.set_attn_implementation(original)
        raise PrefixSharingUnsupported(f"its forward does not take packed prompts: {first_line(error)}") from error
    if not difference < (1e-3 if model.dtype == torch.float32 else 0.2):
        model.set_attn_implementation(original)
        raise PrefixSharingUnsupported(f"its log-probabilities differ by {difference:.2g} there")


def _short_batch(model: Any) -> tuple[Tensor, Tensor, int]:
    """Tokens and mask (3, 10) of rows, of which the first two share a prompt, and the width of their completions."""
    width, rows = 4, [(3, 4), (3, 2), (6, 3)]  # lengths of prompt and completion
    ids = torch.arange(len(rows) * 10).view(len(rows), 10) % model.config.get_text_config().vocab_size
    ids[1, :6] = ids[0, :6]
    mask = torch.tensor([[0] * (6 - p) + [1] * (p + c) + [0] * (width - c) for p, c in rows])
    return ids.to(model.device), mask.to(model.device), width


@torch.no_grad()
def _largest_difference(model: Any) -> float:
    """The largest difference between the log-probabilities of a plain and of a packed forward pass."""
    ids, mask, width = _short_batch(model)
    training = model.training
    model.eval()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    reference = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    reference = reference[:, -width - 1 : -1].float()
    packed = PackedCompletions(ids, mask, width)
    shared = forward_packed(model, packed, logits_to_keep=packed.predicting).logits[0].float()
    model.train(training)
    targets = ids[:, -width:, None]
    reference_logps = reference.log_softmax(-1).gather(-1, targets)[..., 0] * mask[:, -width:]
    shared_logps = packed.unpack(LogProbs.apply(shared, packed.labels[packed.predicting])[0])
    return float((shared_logps - reference_logps).abs().max())


def flex_attention_fault(policy: Any) -> str | None:
    """The reason why `FlexAttention` does not work for a policy on this machine, or None if it works.

    `policy` shares prefixes (`enable_prefix_sharing`). In a forward pass over a short batch, each of its layers
    computes both attentions and their gradients.
    """
    model = unwrap_adapters(policy)
    try:
        with torch.no_grad():
            forward_packed(model, _ComparedAttention(*_short_batch(model)))
    except Exception as error:  # any exception of a compiler
        return first_line(error)
    return None


class _ComparedAttention:
    """A packed batch whose layers fail if the outputs or the gradients of the two attentions differ."""

    def __init__(self, ids: Tensor, mask: Tensor, width: int) -> None:
        sdpa, flex = (PackedCompletions(ids, mask, width, attention=kind) for kind in (SdpaAttention, FlexAttention))
        self.ids, self.positions, self.longest = sdpa.ids, sdpa.positions, sdpa.longest
        self.attentions = sdpa.attention, flex.attention

    @torch.enable_grad()
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        results = []
        for attention in self.attentions:
            states = tuple(state.detach().requires_grad_() for state in (query, key, value))
            output = attention(states[0], states[1], states[2], scale)
            results.append((output.detach(), *torch.autograd.grad(output.square().sum(), states)))
        tolerance = 1e-3 if results[0][0].dtype.itemsize >= 4 else 0.05
        for expected, actual in zip(*results, strict=True):
            difference = float((actual - expected).abs().max() / expected.abs().max())
            if not difference < tolerance:
                raise ArithmeticError(f"its outputs or gradients differ by {difference:.2g} of the largest")
        return results[0][0]
