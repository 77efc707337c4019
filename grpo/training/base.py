"""`BaseTrainer`: TRL's `GRPOTrainer` (TRL 1.16) with what the parts of our `Trainer` share.

Each part is a subclass of `BaseTrainer` in a file of its own, and `grpo.training.trainer.Trainer` inherits from all
parts. A part may use what is declared here, and nothing of another part unless it inherits from it.

Replaces two methods:

- `create_model_card`, because a run directory describes itself.
- `_send_telemetry`, because a run needs no network. Its request reads environment variables in a thread, and
  accelerate sets and unsets some at the same time, which can end the process with SIGSEGV.
"""

from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from trl import GRPOTrainer

from grpo.training.recorder import Recorder


class BaseTrainer(GRPOTrainer):
    """TRL's trainer, its attributes that the parts use, and our recorder as its callback."""

    args: Any
    model: Any
    train_dataset: Any
    lr_scheduler: Any
    num_generations: int
    reward_funcs: Any
    vllm_generation: Any
    _buffered_inputs: Any  # the micro-batches of the current rollout

    def __init__(self, recorder: Recorder, **kwargs: Any) -> None:
        super().__init__(callbacks=[recorder], **kwargs)
        if self.is_fsdp_enabled and self.args.bf16:
            # accelerate's policy would also return log-probabilities, and sum gradients, in bfloat16.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
            )
        self.recorder = recorder
        self._has_nonfinite_score = False  # whether a score of the current rollout is not finite

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _send_telemetry(self) -> None:
        pass
