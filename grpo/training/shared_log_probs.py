"""Log-probabilities of the training step on shared prompts: each distinct prompt is computed once, not K times.

Replaces, in TRL 1.16:
- `GRPOTrainer._get_per_token_logps_and_entropies`: it forwards padded rows, each with its own copy of the prompt.
- `GRPOTrainer._prepare_inputs`: it shuffles the completions of a generation batch, which scatters groups over
  micro-batches.
- `GRPOTrainer._compute_loss`: only wrapped, to know the advantages while log-probabilities are computed.
"""

from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import split_tensor_dict

from grpo.core import distributed
from grpo.core.console import say
from grpo.policy.buffer_sizes import PLAIN_HEAD_LOGITS
from grpo.policy.prefix_sharing import (
    LogProbs,
    PackedCompletions,
    PrefixSharingUnsupported,
    distinct,
    enable_prefix_sharing,
    forward_packed,
)
from grpo.training.base import BaseTrainer


class PrefixSharingMixin(BaseTrainer):
    """The part of `Trainer` that computes log-probabilities."""

    def __init__(self, share_prompts: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shared = share_prompts and self._can_share()
        self._advantages: Tensor | None = None

    def _can_share(self) -> bool:
        try:
            if self.aux_loss_enabled:
                raise PrefixSharingUnsupported("its load-balancing loss counts every prompt K times")
            if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in self.model.modules()):
                raise PrefixSharingUnsupported("dropout is drawn for every completion anew")
            for model in (self.model, self.ref_model):
                if model is not None:
                    enable_prefix_sharing(self.accelerator.unwrap_model(model))
        except PrefixSharingUnsupported as reason:
            self._say_fallback(reason)
            return False
        return True

    def _say_fallback(self, reason: PrefixSharingUnsupported) -> None:
        say(f"share_prompts=true does not go with this policy: {reason}. The training step is TRL's own.")

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """As TRL's in training, but the completions of a prompt stay together instead of being shuffled."""
        if not self.shared or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), steps)
        return self._buffered_inputs[self._step % steps]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self.recorder.progress.show_phase("updating")
        # Rows of zero advantage get no gradient from the policy loss, so without other terms they need none at all.
        policy_loss_alone = self.beta == 0 and not self._entropy_bonus_enabled
        self._advantages = inputs["advantages"] if policy_loss_alone else None
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
        """Log-probabilities and entropies (B, C) of the completions, in (B, P + C) ids of padded rows.

        Every forward is of `batch_size` rows, or of all of them.
        """
        size = batch_size or len(input_ids)
        if self.shared and attention_mask[:, -logits_to_keep].any():
            try:
                pieces = [
                    self._shared(model, input_ids[i : i + size], attention_mask[i : i + size], logits_to_keep)
                    for i in range(0, len(input_ids), size)
                ]
                logps, entropies = (torch.cat(parts) for parts in zip(*pieces, strict=True))
                return logps, entropies if compute_entropy else None, None
            except PrefixSharingUnsupported as reason:
                self._say_fallback(reason)
                self.shared = False
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

    def _shared(self, model: Any, ids: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (B, C) by way of shared prompts; completions that came out alike, once."""
        tokens = ids.where(mask.bool(), -1).cpu().numpy()
        first, alike = distinct([row.tobytes() for row in tokens])
        prompts = distinct([row.tobytes() for row in tokens[first, :-width]])[1]
        ids, mask = ids[first], mask[first]
        logps = entropies = ids.new_zeros(len(ids), width, dtype=torch.float32)
        for rows, with_gradient in self._parts(
            torch.tensor(prompts), torch.tensor(alike), mask[:, -width].bool().cpu()
        ):
            rows = rows.to(ids.device)
            packed = PackedCompletions(ids[rows], mask[rows], width)
            with torch.set_grad_enabled(with_gradient), self.accelerator.autocast():
                of_logps, of_entropies = self._head(model, packed)
            logps = logps.to(of_logps.dtype).index_copy(0, rows, packed.unpack(of_logps))
            entropies = entropies.index_copy(0, rows, packed.unpack(of_entropies.float()))
        return logps[alike], entropies[alike]

    def _parts(self, prompts: Tensor, alike: Tensor, real: Tensor) -> list[tuple[Tensor, bool]]:
        """Which of the distinct rows to forward together, and whether with a gradient; rows without tokens in none."""
        gradient = torch.full_like(real, torch.is_grad_enabled())
        if distributed.weights_are_sharded():  # each forward gathers weights, so all make the same number of them
            return [(real.nonzero()[:, 0], torch.is_grad_enabled())]
        if torch.is_grad_enabled() and self._advantages is not None:
            moved = alike[self._advantages.cpu() != 0]
            gradient = torch.isin(prompts, prompts[moved][real[moved]])
            if not gradient.any():
                # One prompt keeps its gradient of zero: without any, the optimizer would take the step for none.
                gradient = prompts == prompts[real][0]
        parts = [(((gradient == needs) & real).nonzero()[:, 0], needs) for needs in (True, False)]
        return [(rows, needs) for rows, needs in parts if len(rows)]

    def _head(self, model: Any, packed: PackedCompletions) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (M,) of the predicted tokens."""
        predicting, vocabulary = packed.predicting, self.model.config.get_text_config().vocab_size
        small = packed.ids.device.type == "cpu" and len(predicting) * vocabulary <= PLAIN_HEAD_LOGITS
        if small and not self._entropy_bonus_enabled:
            logits = forward_packed(model, packed, logits_to_keep=predicting).logits[0] / self.temperature
            logps, entropies = LogProbs.apply(logits, packed.labels[predicting])
            return logps, entropies
        outputs = forward_packed(model, packed, shift_labels=packed.labels[None], fused_lm_head=True)
        logps = outputs.log_probs[0, predicting]
        # The reference policy's head gives no entropy.
        return logps, logps.detach() if outputs.entropy is None else outputs.entropy[0, predicting]
