"""Policies whose weights are spread over the processes of a run, by FSDP or by DeepSpeed's ZeRO-3.

A sampler would have to gather every layer for every token, on all processes at the same time. It is given a whole copy
of the policy instead, which is gathered once for a batch of completions, parameter by parameter.
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
    """One to sample from, before `policy` is spread."""
    return copy.deepcopy(policy).to(dtype).to(device).requires_grad_(False).eval()


def build_unsharded(build: Callable[[], Any]) -> Any:
    """A policy as it is built where no engine asks for parts of it: DeepSpeed has told transformers to make them."""
    if distributed.sharding_engine() == "deepspeed":
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    return build()


def gather_full_weights(policy: Any) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by name, whole, one at a time; all processes must go through them together."""
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
    """Make the weights of `target`, a whole policy of the same architecture, those of `policy`."""
    own = dict(target.named_parameters())
    for name, weight in gather_full_weights(policy):
        own[name].copy_(weight)
