"""States that a policy is put into while something samples from it, and that end with the `with` block.

Used by the samplers here and by the trainer for the engines of other projects. Nothing here knows how to sample.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from grpo.policy.prefix_sharing import ATTENTION_NAME, unwrap_adapters


@contextmanager
def sampling_mode(policy: Any, bf16: bool) -> Iterator[None]:
    """No gradients, no dropout, computing in the dtype of training."""
    training = policy.training
    policy.eval()
    try:
        with torch.inference_mode(), torch.autocast(policy.device.type, torch.bfloat16) if bf16 else nullcontext():
            yield
    finally:
        policy.train(training)


@contextmanager
def cast_for_engine(policy: Any, bf16: bool) -> Iterator[None]:
    """The policy as transformers' engine takes it: with an attention that it knows and, with `bf16`, rounded weights.

    Afterwards the very weights are back. Buffers are left alone: rotary frequencies that are rounded too would change
    the policy as much again.
    """
    model = unwrap_adapters(policy)
    attention = model.config._attn_implementation
    exact = [(each, each.data) for each in policy.parameters() if bf16 and each.is_floating_point()]
    if attention == ATTENTION_NAME:
        model.set_attn_implementation("sdpa")
    try:
        for parameter, data in exact:
            parameter.data = data.to(torch.bfloat16)
        yield
    finally:
        for parameter, data in exact:
            parameter.data = data
        model.set_attn_implementation(attention)


@contextmanager
def preserve_frozen_weights(policy: Any) -> Iterator[None]:
    """While adapters are merged into the weights and taken out again: what rounding would leave of them is undone.

    In float32 it is far less than a step changes, and a copy of the weights would be large.
    """
    frozen = [
        each for each in policy.parameters() if not each.requires_grad and each.dtype in (torch.bfloat16, torch.half)
    ]
    kept = [each.detach().clone() for each in frozen]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(frozen, kept, strict=True):
                parameter.copy_(value)
