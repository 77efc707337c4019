"""The guard against steps that are not finite: such a step is skipped or ends the run, and its batch is saved.

Replaces three methods that `GRPOTrainer` (TRL 1.16) inherits from `transformers.Trainer` (5.23), each of them wrapped:

- `training_step`: collects the losses of a step's micro-batches.
- `_clip_grad_norm`: the last call before the optimizer uses a gradient, so the place to discard one.
- `log`: transformers resets its running loss by subtracting it from itself, which leaves nan as it is.
"""

from typing import Any

import torch
from rich.text import Text
from torch import Tensor
from torch.distributed.tensor import DTensor

from grpo.core import distributed
from grpo.core.console import say
from grpo.core.errors import UserError
from grpo.core.files import write_json
from grpo.core.paths import display_path
from grpo.runs.run_dir import RunDir
from grpo.training.base import BaseTrainer


class NonFiniteMixin(BaseTrainer):
    """The part of `Trainer` that checks losses and gradients before the optimizer uses them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._step_losses: list[Tensor] = []  # one for each micro-batch of the current step

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        self._step_losses.append(loss)
        return loss

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """The norm of the gradient before clipping; the gradient of a step that is not finite is discarded."""
        norm = super()._clip_grad_norm(model)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        elif norm is None:  # DeepSpeed returns none in its first steps
            norm = torch.zeros(())
        loss, self._step_losses = self.accelerator.reduce(torch.stack(self._step_losses).sum(), "mean"), []
        if self._has_nonfinite_score or not torch.isfinite(loss + norm):
            if not self._has_nonfinite_score:
                reason = f"the loss is {loss.item():.3g} and the norm of its gradient {norm.item():.3g}"
                self._skip_or_stop(reason, self._buffered_inputs, {"loss": loss, "grad_norm": norm})
            for parameter in model.parameters():
                parameter.grad = None
        return norm

    def _skip_or_stop(self, reason: str, inputs: list[dict[str, Any]], values: dict[str, Any]) -> None:
        """Save the batch of the current step with statistics of its tensors, then warn or stop (`on_nonfinite`).

        Raises:
            UserError: on_nonfinite=stop.
        """
        step = self.state.global_step + 1
        folder = RunDir(self.recorder.out).nonfinite / f"step_{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f"_{distributed.rank()}" if distributed.world_size() > 1 else ""
        torch.save({"inputs": inputs, **values}, folder / f"batch{suffix}.pt")
        tensors = {f"inputs/{i}/{name}": value for i, part in enumerate(inputs) for name, value in part.items()}
        for name, parameter in self.model.named_parameters():
            tensors |= {f"gradient/{name}": parameter.grad, f"weight/{name}": parameter.detach()}
        statistics = {
            name: tensor_statistics(value) for name, value in (tensors | values).items() if isinstance(value, Tensor)
        }
        write_json(folder / f"statistics{suffix}.json", {"step": step, "what": reason, "tensors": statistics})
        where = f"The batch and the statistics of its tensors are in {display_path(folder)}."
        if self.recorder.config.on_nonfinite == "stop":
            raise UserError(
                f"step {step}: {reason}. {where} Checkpoints are unchanged. Lower optimizer.lr or "
                "optimizer.max_grad_norm, or fix the reward if it is one. A new run with on_nonfinite=skip skips "
                "such steps."
            )
        say(Text(f"Step {step} is skipped: {reason}. {where}", style="yellow"))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if not torch.isfinite(self._tr_loss):
            self._tr_loss.zero_()


def tensor_statistics(tensor: Tensor) -> dict[str, Any]:
    """Shape, dtype, the number of values that are not finite; minimum, mean and maximum of the finite ones."""
    values = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().double().flatten()
    finite = values[torch.isfinite(values)]
    statistics = {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "not_finite": len(values) - len(finite)}
    if not len(finite):
        return statistics
    return statistics | {"min": finite.min().item(), "mean": finite.mean().item(), "max": finite.max().item()}
