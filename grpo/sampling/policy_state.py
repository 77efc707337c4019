"""Temporary states of a policy: for sampling, for an engine of another project, and while adapters are merged.

Used by the samplers here and by the trainer. Each restores the policy at the end of its `with` block. Nothing here
knows how to sample.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from grpo.policy.prefix_sharing import ATTENTION_NAME, unwrap_adapters


@contextmanager
def sampling_mode(policy: Any, bf16: bool) -> Iterator[None]:
    """No gradients, no dropout, and with `bf16` autocast to bfloat16, as in training."""
    training = policy.training
    policy.eval()
    try:
        with torch.inference_mode(), torch.autocast(policy.device.type, torch.bfloat16) if bf16 else nullcontext():
            yield
    finally:
        policy.train(training)


@contextmanager
def cast_for_engine(policy: Any, bf16: bool) -> Iterator[None]:
    """The policy as transformers' engine needs it: with SDPA attention and, with `bf16`, weights in bfloat16.

    Afterwards the original weight tensors are back. Buffers stay as they are: casting the rotary frequencies too would
    double the change of the policy.
    """
    model = unwrap_adapters(policy)
    attention = model.config._attn_implementation
    original = [
        (parameter, parameter.data) for parameter in policy.parameters() if bf16 and parameter.is_floating_point()
    ]
    if attention == ATTENTION_NAME:
        model.set_attn_implementation("sdpa")
    try:
        for parameter, data in original:
            parameter.data = data.to(torch.bfloat16)
        yield
    finally:
        for parameter, data in original:
            parameter.data = data
        model.set_attn_implementation(attention)


@contextmanager
def preserve_frozen_weights(policy: Any) -> Iterator[None]:
    """Restore the frozen 16-bit weights afterwards, because merging and unmerging adapters rounds them.

    In float32 the rounding is far smaller than an optimizer step, and a copy of the weights would be large.
    """
    frozen = [
        parameter
        for parameter in policy.parameters()
        if not parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.half)
    ]
    copies = [parameter.detach().clone() for parameter in frozen]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(frozen, copies, strict=True):
                parameter.copy_(value)
