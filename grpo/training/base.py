"""What the parts of `Trainer` share: TRL's `GRPOTrainer` (TRL 1.16) with our recorder as its callback.

Every part is a subclass of `BaseTrainer` in a file of its own, and `grpo.training.trainer.Trainer` inherits from all of
them. A part knows what is declared here and nothing of the other parts.
"""

from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from trl import GRPOTrainer

from grpo.training.recorder import Recorder


class BaseTrainer(GRPOTrainer):
    """TRL's trainer and what its parts have in common."""

    args: Any
    model: Any
    lr_scheduler: Any
    num_generations: int
    reward_funcs: Any
    vllm_generation: Any
    _buffered_inputs: Any

    def __init__(self, recorder: Recorder, **kwargs: Any) -> None:
        super().__init__(callbacks=[recorder], **kwargs)
        if self.is_fsdp_enabled and self.args.bf16:
            # accelerate's own would also return log-probabilities, and add up gradients, in bfloat16.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
            )
        self.recorder = recorder
        self._unscored = False  # a reward of the present rollout was not finite

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        pass  # a run describes itself in its own folder
