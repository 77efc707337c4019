"""Forward passes that compute each distinct prompt once for all of its completions.

The K completions of a group share their prompt, and TRL forwards it K times. Here the real tokens of a batch are packed
into one row: first every distinct prompt without its last token, then, for each completion, that last token and all of
the completion but its own last. So each position of a completion's piece predicts one of its tokens, nothing is
padding, and everything but attention is per token and needs no change. Attention goes through transformers' own
interface for it, so every model that lets its attention be chosen can run this way, adapters and hooks included.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grpo.core.errors import first_line

ATTENTION_NAME = "shared_prompts"


class PackedBatch(Protocol):
    """Tokens of several sequences in one row, and how they attend to one another."""

    ids: Tensor  # (N,)
    positions: Tensor  # (N,)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Queries (N, heads, D), keys and values (N, key heads, D) -> what the queries see (N, heads, D)."""


class PrefixSharingUnsupported(Exception):
    """What about a policy keeps it from running on shared prompts."""


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
    """The attention of a layer (`transformers.AttentionInterface`): that of the batch, else plain SDPA."""
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
    """The policy without what LoRA wraps around it; its adapted layers stay adapted."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy


def forward_packed(model: Any, batch: PackedBatch, **kwargs: Any) -> Any:
    """What `model`, a policy or its backbone, returns for the one row of packed tokens."""
    # A mask of four dimensions is taken as ready made, so none is computed.
    mask = batch.positions.new_zeros(1, 1, 1, 1)
    return model(
        input_ids=batch.ids[None],
        position_ids=batch.positions[None],
        attention_mask=mask,
        shared_prompts=batch,
        use_cache=False,
        **kwargs,
    )


class RaggedRows:
    """`R` rows of unequal length, packed one after another (N, ...), or padded on the right (R, W, ...)."""

    def __init__(self, lengths: Tensor) -> None:
        self.lengths = lengths
        self.rows, self.width = len(lengths), int(lengths.max())
        self.columns = torch.arange(self.width, device=lengths.device)
        self.mask = self.columns < lengths[:, None]  # (R, W)
        self.real = self.mask.flatten().nonzero()[:, 0]  # (N,) where the packed tokens lie in the padded grid
        self.source = (self.mask.flatten().cumsum(0) - 1).clamp(min=0)  # (R*W,) and the other way round

    def pad(self, packed: Tensor) -> Tensor:
        """(N, heads, D) -> (R, heads, W, D). What stands in the padding is real but arbitrary: mask it."""
        padded: Tensor = _PadRows.apply(packed, self.source, self.real)
        return padded.view(self.rows, self.width, *packed.shape[1:]).transpose(1, 2)

    def unpad(self, padded: Tensor) -> Tensor:
        """(R, heads, W, D) -> (N, heads, D)"""
        grid = padded.transpose(1, 2).reshape(self.rows * self.width, padded.shape[1], padded.shape[3])
        unpadded: Tensor = _UnpadRows.apply(grid, self.source, self.real, self.mask)
        return unpadded


class _PadRows(torch.autograd.Function):
    # Autograd would add up over `source`, in which padding repeats tokens; no gradient ever comes from padding.
    @staticmethod
    def forward(ctx: Any, packed: Tensor, source: Tensor, real: Tensor) -> Tensor:
        ctx.real = real
        return packed.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.real), None, None


class _UnpadRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, source: Tensor, real: Tensor, mask: Tensor) -> Tensor:
        ctx.source, ctx.mask = source, mask
        return grid.index_select(0, real)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.index_select(0, ctx.source).mul_(ctx.mask.view(-1, 1, 1)), None, None, None


def distinct(rows: list[Any]) -> tuple[list[int], list[int]]:
    """Where each distinct row first stands, and for every row the number of its like."""
    number: dict[Any, int] = {}
    first: list[int] = []
    for i, row in enumerate(rows):
        if row not in number:
            number[row] = len(first)
            first.append(i)
    return first, [number[row] for row in rows]


class PackedCompletions:
    """B completions with their G distinct prompts, packed.

    Args:
        input_ids: (B, P + C), prompts padded on the left, completions on the right.
        attention_mask: (B, P + C), 1 for real tokens. A completion without any is left out.
        width: C.
        prompt_numbers: for each of the B rows, a number that rows with equal prompts share; found here if None.

    Attributes:
        ids, positions, labels: (N,); labels are the tokens that each position predicts, -100 in prompts.
        predicting: (M,) the positions that predict a token, which are the last M.
    """

    def __init__(
        self, input_ids: Tensor, attention_mask: Tensor, width: int, prompt_numbers: list[int] | None = None
    ) -> None:
        prompts, prompt_mask = input_ids[:, :-width], attention_mask[:, :-width].bool()
        completions, completion_mask = input_ids[:, -width:], attention_mask[:, -width:].bool()
        kept = completion_mask[:, 0].nonzero()[:, 0]
        prompts, prompt_mask = prompts[kept], prompt_mask[kept]
        completions, completion_mask = completions[kept], completion_mask[kept]

        if prompt_numbers is None:
            first, group = distinct([row.tobytes() for row in prompts.where(prompt_mask, -1).cpu().numpy()])
        else:
            first, group = distinct([prompt_numbers[i] for i in kept.tolist()])
        self.group = torch.tensor(group, device=input_ids.device)  # (rows,) the prompt of each completion
        prompt_lengths = prompt_mask[first].sum(1) - 1
        self.prompts, self.completions = RaggedRows(prompt_lengths), RaggedRows(completion_mask.sum(1))
        self.longest = int((prompt_lengths[self.group] + self.completions.lengths).max())

        fed = torch.cat((prompts[:, -1:], completions[:, :-1]), 1)
        body = prompt_mask[first]
        body[:, -1] = False
        self.ids = torch.cat((prompts[first][body], fed[completion_mask]))
        offsets = prompt_lengths[self.group][:, None] + torch.arange(width, device=input_ids.device)
        self.positions = torch.cat(
            (self.prompts.columns.expand(len(first), -1)[self.prompts.mask], offsets[completion_mask])
        )
        self.labels = torch.cat((self.ids.new_full((len(self.prompts.real),), -100), completions[completion_mask]))

        self.predicting = torch.arange(len(self.prompts.real), len(self.ids), device=input_ids.device)
        # (rows, 1, C, P + C): a completion sees all of its prompt, and of itself what came before.
        seen = self.prompts.mask[self.group][:, None, None].expand(-1, -1, self.completions.width, -1)
        causal = self.completions.columns <= self.completions.columns[:, None]
        self.mask = torch.cat((seen, causal.expand(len(group), 1, -1, -1)), -1)
        self._places = (kept[:, None] * width + torch.arange(width, device=input_ids.device))[completion_mask]
        self._shape = (len(input_ids), width)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        cut = len(self.prompts.real)
        prompt_query, prompt_key, prompt_value = (self.prompts.pad(states[:cut]) for states in (query, key, value))
        of_prompts = query[:cut]
        if cut:  # else every prompt is one token long
            of_prompts = self.prompts.unpad(_sdpa(prompt_query, prompt_key, prompt_value, None, scale, is_causal=True))
        own_query, own_key, own_value = (self.completions.pad(states[cut:]) for states in (query, key, value))
        keys = torch.cat((prompt_key[self.group], own_key), 2)
        values = torch.cat((prompt_value[self.group], own_value), 2)
        of_completions = self.completions.unpad(_sdpa(own_query, keys, values, self.mask, scale))
        return torch.cat((of_prompts, of_completions))

    def unpack(self, values: Tensor) -> Tensor:
        """Values of the M predicted tokens -> (B, C), zero where there is no token."""
        whole = values.new_zeros(self._shape[0] * self._shape[1])
        return whole.index_copy(0, self._places, values).view(self._shape)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, is_causal: bool = False) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    if grouped and mask is not None and q.device.type == "cuda":
        # As in transformers: with a mask, CUDA's fast kernels want the heads spelled out.
        k, v = (states.repeat_interleave(q.shape[1] // k.shape[1], 1) for states in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=grouped)


class LogProbs(torch.autograd.Function):
    """(M, V) logits, (M,) targets -> the targets' log-probabilities and the entropies, (M,); these without gradient.

    For small vocabularies on a CPU: TRL's fused head does the same in many more passes over memory, which it saves.
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
        whole = probabilities * -grad[:, None]
        return whole.scatter_add_(-1, targets[:, None], grad[:, None]), None


def enable_prefix_sharing(policy: Any) -> None:
    """Make `policy` take packed batches; all else that it does stays as it was.

    A short batch is run both ways first, so that an architecture whose attention is not all there is between tokens
    is found out, not trained wrong.

    Raises:
        Unsupported: why it cannot.
    """
    model = unwrap_adapters(policy)
    before = model.config._attn_implementation
    if before == ATTENTION_NAME:
        return
    if not getattr(model, "_supports_attention_backend", False) or before != "sdpa":
        raise PrefixSharingUnsupported(f"its attention is fixed to {before}")
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        difference = _largest_difference(model)
    except PrefixSharingUnsupported:
        model.set_attn_implementation(before)
        raise
    except Exception as error:  # whatever an unknown architecture makes of it
        model.set_attn_implementation(before)
        raise PrefixSharingUnsupported(f"its forward does not take packed prompts: {first_line(error)}") from error
    if not difference < (1e-3 if model.dtype == torch.float32 else 0.2):
        model.set_attn_implementation(before)
        raise PrefixSharingUnsupported(f"its log-probabilities differ by {difference:.2g} there")


@torch.no_grad()
def _largest_difference(model: Any) -> float:
    """The largest difference between log-probabilities computed plainly and on shared prompts."""
    width, rows = 4, [(3, 4), (3, 2), (6, 3)]  # lengths of prompt and completion; the first two share their prompt
    ids = torch.arange(len(rows) * 10).view(len(rows), 10) % model.config.get_text_config().vocab_size
    ids[1, :6] = ids[0, :6]
    mask = torch.tensor([[0] * (6 - p) + [1] * (p + c) + [0] * (width - c) for p, c in rows])
    ids, mask = ids.to(model.device), mask.to(model.device)
    training = model.training
    model.eval()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    plain = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    plain = plain[:, -width - 1 : -1].float()
    packed = PackedCompletions(ids, mask, width)
    shared = forward_packed(model, packed, logits_to_keep=packed.predicting).logits[0].float()
    model.train(training)
    targets = ids[:, -width:, None]
    plain_logps = plain.log_softmax(-1).gather(-1, targets)[..., 0] * mask[:, -width:]
    shared_logps = packed.unpack(LogProbs.apply(shared, packed.labels[packed.predicting])[0])
    return float((shared_logps - plain_logps).abs().max())
