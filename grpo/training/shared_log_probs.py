"""Log-probabilities of the training step with shared prompts: each distinct prompt is computed once, not K times.

Replaces three methods of `GRPOTrainer` (TRL 1.16):

- `_get_per_token_logps_and_entropies` forwards padded rows, each with a copy of its prompt. Ours packs the real tokens
  and forwards each distinct prompt and each distinct completion once (`grpo.policy.prefix_sharing`).
- `_prepare_inputs` shuffles the completions of a generation batch, which scatters a group over the micro-batches. Ours
  leaves groups together.
- `_compute_loss` is wrapped: its log-probabilities need to know which rows have an advantage.

TRL's own methods run where a policy cannot share prompts (`PrefixSharingUnsupported`).
"""

from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import split_tensor_dict

from grpo.core import distributed
from grpo.core.console import say
from grpo.policy.buffer_sizes import PLAIN_HEAD_LOGITS
from grpo.policy.prefix_attention import FlexAttention, SdpaAttention
from grpo.policy.prefix_sharing import (
    LogProbs,
    PackedCompletions,
    PrefixSharingUnsupported,
    enable_prefix_sharing,
    flex_attention_fault,
    forward_packed,
    number_distinct,
)
from grpo.training.base import BaseTrainer


class PrefixSharingMixin(BaseTrainer):
    """The part of `Trainer` that computes log-probabilities.

    Attributes:
        shares_prompts: whether the training step shares prompts.
    """

    def __init__(self, share_prompts: bool, prefix_attention: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shares_prompts = share_prompts and self._can_share_prompts()
        flex = prefix_attention == "flex" and self.shares_prompts and self._can_use_flex_attention()
        self._attention: type[SdpaAttention | FlexAttention] = FlexAttention if flex else SdpaAttention
        self._advantages: Tensor | None = None  # (B,) of the rows whose loss is computed; None: all rows need gradients

    def _can_share_prompts(self) -> bool:
        try:
            if self.aux_loss_enabled:
                raise PrefixSharingUnsupported("its load-balancing loss counts every prompt K times")
            if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in self.model.modules()):
                raise PrefixSharingUnsupported("dropout is drawn separately for every completion")
            for model in (self.model, self.ref_model):
                if model is not None:
                    enable_prefix_sharing(self.accelerator.unwrap_model(model))
        except PrefixSharingUnsupported as reason:
            self._say_not_shared(reason)
            return False
        return True

    def _can_use_flex_attention(self) -> bool:
        with self.accelerator.autocast():
            fault = flex_attention_fault(self.accelerator.unwrap_model(self.model))
        if fault:
            say(f"prefix_attention=flex does not work here: {fault}. Training with prefix_attention=sdpa instead.")
        elif self.accelerator.device.type == "cpu":
            say(
                "prefix_attention=flex computes all pairs of tokens on a CPU, which is slow: PyTorch's flex_attention "
                "cannot train there. Leave it out, or add device=cuda."
            )
        return not fault

    def _say_not_shared(self, reason: PrefixSharingUnsupported) -> None:
        say(f"share_prompts=true does not work with this policy: {reason}. The training step is TRL's own.")

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The inputs of one micro-batch, as in TRL, except that the completions of a prompt stay together."""
        if not self.shares_prompts or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), steps)
        return self._buffered_inputs[self._step % steps]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self.recorder.progress.show_phase("updating")
        # The policy loss has no gradient in rows of advantage zero. KL term and entropy bonus have one in every row.
        only_policy_loss = self.beta == 0 and not self._entropy_bonus_enabled
        self._advantages = inputs["advantages"] if only_policy_loss else None
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._advantages = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities and entropies (B, C) of the completions in padded rows `input_ids` (B, P + C).

        `logits_to_keep` is C. Each forward takes `batch_size` rows, or all of them. The third value, the loss of a
        mixture of experts, is None: such a policy does not share prompts.
        """
        size = batch_size or len(input_ids)
        if self.shares_prompts and attention_mask[:, -logits_to_keep].any():
            try:
                pieces = [
                    self._shared_log_probs(model, input_ids[i : i + size], attention_mask[i : i + size], logits_to_keep)
                    for i in range(0, len(input_ids), size)
                ]
                logps, entropies = (torch.cat(parts) for parts in zip(*pieces, strict=True))
                return logps, entropies if compute_entropy else None, None
            except PrefixSharingUnsupported as reason:
                self._say_not_shared(reason)
                self.shares_prompts = False
        return super()._get_per_token_logps_and_entropies(
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            batch_size=batch_size,
            compute_entropy=compute_entropy,
            compute_aux_loss=compute_aux_loss,
            **multimodal,
        )

    def _shared_log_probs(self, model: Any, ids: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (B, C) of rows (B, P + C), with C = `width`, each distinct row once.

        Rows are compared here, by their tokens, because TRL hands over rows in any order and equal completions of a
        group are found nowhere else. Prompts are numbered from the same tokens and handed on to `PackedCompletions`.
        """
        tokens = ids.where(mask.bool(), -1).cpu().numpy()
        first, row_numbers = number_distinct([row.tobytes() for row in tokens])
        prompt_numbers = torch.tensor(number_distinct([row.tobytes() for row in tokens[first, :-width]])[1])
        ids, mask = ids[first], mask[first]
        logps = entropies = ids.new_zeros(len(ids), width, dtype=torch.float32)
        has_tokens = mask[:, -width].bool().cpu()
        for rows, with_gradient in self._forward_parts(prompt_numbers, torch.tensor(row_numbers), has_tokens):
            packed_rows = rows.to(ids.device)
            numbers = prompt_numbers[rows].tolist()
            packed = PackedCompletions(ids[packed_rows], mask[packed_rows], width, numbers, self._attention)
            with torch.set_grad_enabled(with_gradient), self.accelerator.autocast():
                part_logps, part_entropies = self._head(model, packed)
            logps = logps.to(part_logps.dtype).index_copy(0, packed_rows, packed.unpack(part_logps))
            part_entropies = part_entropies.to(torch.promote_types(part_entropies.dtype, torch.float32))
            entropies = entropies.to(part_entropies.dtype).index_copy(0, packed_rows, packed.unpack(part_entropies))
        return logps[row_numbers], entropies[row_numbers]

    def _forward_parts(
        self, prompt_numbers: Tensor, row_numbers: Tensor, has_tokens: Tensor
    ) -> list[tuple[Tensor, bool]]:
        """The forwards over the U distinct rows: (indices of rows, whether with a gradient).

        Groups in which no row has an advantage are forwarded without a gradient, rows without tokens not at all.

        Args:
            prompt_numbers: (U,) the number of each row's prompt.
            row_numbers: (B,) which distinct row each row of the batch is.
            has_tokens: (U,) whether a completion has any tokens.
        """
        gradient = torch.full_like(has_tokens, torch.is_grad_enabled())
        if distributed.weights_are_sharded():  # each forward gathers weights, so all make the same number of them
            return [(has_tokens.nonzero()[:, 0], torch.is_grad_enabled())]
        if torch.is_grad_enabled() and self._advantages is not None:
            rows_with_advantage = row_numbers[self._advantages.cpu() != 0]
            gradient = torch.isin(prompt_numbers, prompt_numbers[rows_with_advantage][has_tokens[rows_with_advantage]])
            if not gradient.any():
                # One group has a gradient of zero all the same: without gradients the optimizer would skip the step.
                gradient = prompt_numbers == prompt_numbers[has_tokens][0]
        parts = [(((gradient == needs) & has_tokens).nonzero()[:, 0], needs) for needs in (True, False)]
        return [(rows, needs) for rows, needs in parts if len(rows)]

    def _head(self, model: Any, packed: PackedCompletions) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (M,) of the M predicted tokens."""
        predicting, vocabulary = packed.predicting, self.model.config.get_text_config().vocab_size
        small = packed.ids.device.type == "cpu" and len(predicting) * vocabulary <= PLAIN_HEAD_LOGITS
        if small and not self._entropy_bonus_enabled:
            logits = forward_packed(model, packed, logits_to_keep=predicting).logits[0] / self.temperature
            logps, entropies = LogProbs.apply(logits, packed.labels[predicting])
            return logps, entropies
        outputs = forward_packed(model, packed, shift_labels=packed.labels[None], fused_lm_head=True)
        logps = outputs.log_probs[0, predicting]
        # The reference policy's head returns no entropy.
        return logps, logps.detach() if outputs.entropy is None else outputs.entropy[0, predicting]
