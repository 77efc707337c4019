"""The guard against steps that are not finite: they are skipped or end the run, and what they were made of is saved.

Replaces, in transformers 5.23 and TRL 1.16:
- `training_step`: only wrapped, to collect the losses of a step's micro-batches.
- `_clip_grad_norm`: the last place before the optimizer takes a gradient.
- `log`: transformers resets its sum of losses by subtraction, which leaves nan as it is.
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
from grpo.training.base import BaseTrainer


class NonFiniteGuard(BaseTrainer):
    """The part of `Trainer` that looks at losses and gradients before the optimizer takes them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._losses: list[Tensor] = []  # of the micro-batches of this step

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        self._losses.append(loss)
        return loss

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """The norm of the gradient that the optimizer is about to take; none is left where it must not."""
        norm = super()._clip_grad_norm(model)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        elif norm is None:  # DeepSpeed tells none of its first steps
            norm = torch.zeros(())
        loss, self._losses = self.accelerator.reduce(torch.stack(self._losses).sum(), "mean"), []
        if self._unscored or not torch.isfinite(loss + norm):
            if not self._unscored:
                what = f"the loss is {loss.item():.3g} and the norm of its gradient {norm.item():.3g}"
                self._not_finite(what, self._buffered_inputs, {"loss": loss, "grad_norm": norm})
            for parameter in model.parameters():
                parameter.grad = None
        return norm

    def _not_finite(self, what: str, inputs: list[dict[str, Any]], more: dict[str, Any]) -> None:
        """Keep what a step that must not be taken was made of, and say so.

        Raises:
            UserError: such a step ends the run.
        """
        step = self.state.global_step + 1
        folder = self.recorder.out / "nonfinite" / f"step_{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f"_{distributed.rank()}" if distributed.world_size() > 1 else ""
        torch.save({"inputs": inputs, **more}, folder / f"batch{suffix}.pt")
        tensors = {f"inputs/{i}/{name}": value for i, part in enumerate(inputs) for name, value in part.items()}
        for name, parameter in self.model.named_parameters():
            tensors |= {f"gradient/{name}": parameter.grad, f"weight/{name}": parameter.detach()}
        found = {name: statistics(value) for name, value in (tensors | more).items() if isinstance(value, Tensor)}
        write_json(folder / f"statistics{suffix}.json", {"step": step, "what": what, "tensors": found})
        where = f"The batch and the statistics of its tensors are in {display_path(folder)}."
        if self.recorder.config.on_nonfinite == "stop":
            raise UserError(
                f"step {step}: {what}. {where} No checkpoint is touched. Lower optimizer.lr or "
                "optimizer.max_grad_norm, or mend the reward if it is one. A new run leaves such steps out with "
                "on_nonfinite=skip."
            )
        say(Text(f"Step {step} is skipped: {what}. {where}", style="yellow"))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if not torch.isfinite(self._tr_loss):  # transformers subtracts it from itself, which leaves nan as it is
            self._tr_loss.zero_()


def statistics(tensor: Tensor) -> dict[str, Any]:
    """Shape, dtype, how many values are not finite, and the least, the mean and the largest of the others."""
    values = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().double().flatten()
    finite = values[torch.isfinite(values)]
    found = {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "not_finite": len(values) - len(finite)}
    if not len(finite):
        return found
    return found | {"min": finite.min().item(), "mean": finite.mean().item(), "max": finite.max().item()}
