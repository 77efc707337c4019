"""Policies whose weights are sharded over the processes of a run, by FSDP2 or by DeepSpeed's ZeRO-3.

To sample from a sharded policy, all processes would have to gather every layer for every token, in step. Therefore
each process samples from a complete copy of the policy. Its weights are gathered once for each batch of completions,
one parameter at a time. The training session and the evaluator call this module; it does not know how completions are
sampled.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from grpo.core import distributed


def full_copy(policy: Any, dtype: torch.dtype, device: str) -> Any:
    """A complete copy of `policy` to sample from; call it before the weights are sharded."""
    return copy.deepcopy(policy).to(dtype).to(device).requires_grad_(False).eval()


def build_unsharded(build: Callable[[], Any]) -> Any:
    """The result of `build` with complete weights: without this, transformers shards new models under DeepSpeed."""
    if distributed.sharding_engine() == "deepspeed":
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    return build()


def gather_full_weights(policy: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and complete weights of all parameters, gathered one at a time. All processes must iterate together."""
    for name, parameter in policy.named_parameters():
        gather: Any = nullcontext()
        if hasattr(parameter, "ds_id"):
            import deepspeed

            gather = deepspeed.zero.GatheredParameters([parameter])
        with gather:
            weight = parameter.detach()
            yield (
                name.replace("_checkpoint_wrapped_module.", ""),
                (weight.full_tensor() if isinstance(weight, DTensor) else weight),
            )


@torch.no_grad()
def copy_full_weights(policy: Any, target: Any) -> None:
    """Copy the weights of a sharded policy to `target`, a complete policy of the same architecture."""
    parameters = dict(target.named_parameters())
    for name, weight in gather_full_weights(policy):
        parameters[name].copy_(weight)
