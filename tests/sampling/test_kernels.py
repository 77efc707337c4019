"""Triton's kernels, compared with their references in plain PyTorch: on a GPU, else in Triton's interpreter.

Tolerances: in float32, kernel and reference add up in another order, so a few units in the last place of the largest
term. With 16 bits, both compute in float32 and round at the same places, so one unit in the last place: 2^-7 of a number
in bfloat16, 2^-10 in float16. In attention, the kernel also rounds the softmax's weights, so two units.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from grpo.config.composition import compose
from grpo.policy.loading import build_tokenizer
from grpo.policy.prefix_sharing import enable_prefix_sharing
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from grpo.sampling.qwen2 import FusedQwen2Decoder
from grpo.sampling.token_sampler import sample_inverse_cdf
from tests.helpers.eager_graphs import EagerGraphs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHORT = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter has no bfloat16 products and truncates
DTYPES = [torch.float32, SHORT]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    from grpo.sampling import kernels

    return kernels


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def assert_close(actual: Tensor, expected: Tensor, units: float = 1) -> None:
    assert actual.dtype == expected.dtype
    tolerance = units * TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("residual", DTYPES)
@pytest.mark.parametrize(("slots", "width"), [(1, 16), (3, 96), (2, 896)])
def test_add_norm(kernels, slots: int, width: int, residual: torch.dtype, dtype: torch.dtype) -> None:
    x, y = 3 * normal(slots, width, dtype=residual), normal(slots, width, dtype=dtype, seed=1)
    expected_x = x.clone()
    for added in (None, y):
        expected = kernels.add_norm_reference(expected_x, added, 1e-6, dtype)
        assert_close(kernels.add_norm(x, added, 1e-6, dtype), expected)
        assert_close(x, expected_x)


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("slots", "width"), [(1, 8), (3, 1000), (2, 2500)])
def test_silu_gate(kernels, slots: int, width: int, dtype: torch.dtype) -> None:
    gate_up = 4 * normal(slots, 2 * width, dtype=dtype)
    assert_close(kernels.silu_gate(gate_up), kernels.silu_gate_reference(gate_up), 2)


ATTENTION = {  # prompts' tokens, slots of each, key heads, queries of each, head size, own tokens, storage of tokens
    "one token": ([0], 1, 1, 1, 16, 0, 1),
    "first token": ([5, 2], 2, 2, 7, 64, 0, 9),
    "no prompt": ([0, 0], 3, 1, 2, 32, 4, 8),
    "several blocks": ([300, 129, 128], 1, 1, 4, 16, 131, 140),
    "many queries": ([20], 2, 1, 24, 32, 3, 4),
}


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ATTENTION)
def test_attend(kernels, case: str, dtype: torch.dtype) -> None:
    prompts, slots_of_prompt, kv, repeats, dim, done, limit = ATTENTION[case]
    groups, slots, width = len(prompts), len(prompts) * slots_of_prompt, max(prompts)
    qkv = normal(slots, kv * (repeats + 2), dim, dtype=dtype)
    prompt = tuple(normal(groups * kv, width, dim, dtype=dtype, seed=seed) for seed in (1, 2)) if width else None
    own = tuple(normal(slots * kv, limit, dim, dtype=dtype, seed=seed) for seed in (3, 4))
    for stored in own:
        stored[:, done:] = torch.nan  # places that no token has reached must not be read
    reference_own = tuple(stored.clone() for stored in own)
    positions = torch.tensor(prompts, device=DEVICE).repeat_interleave(slots_of_prompt) + done
    angles = positions[:, None] / 10000 ** (torch.arange(dim // 2, device=DEVICE) / (dim // 2))
    cos, sin = torch.cat((angles.cos(),) * 2, -1), torch.cat((-angles.sin(), angles.sin()), -1)
    shared = (qkv, cos, sin, positions, torch.tensor([done], device=DEVICE), prompt)
    out = kernels.attend(*shared, own, slots_of_prompt, dim**-0.5)
    expected = kernels.attend_reference(*shared, reference_own, slots_of_prompt, dim**-0.5)
    assert_close(out, expected, 2)
    for stored, reference in zip(own, reference_own, strict=True):
        assert_close(stored[:, : done + 1], reference[:, : done + 1])
        assert stored[:, done + 1 :].isnan().all()


@needs_triton
@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("vocabulary", [5, 4096, 9000])
def test_sampled_tokens_are_those_of_the_reference(kernels, vocabulary: int, temperature: float) -> None:
    logits = 3 * normal(4, vocabulary)
    logits[1, vocabulary // 2] = 30.0  # nearly certain
    logits[2, : vocabulary - 1] = -torch.inf  # certain
    slot = torch.tensor([0, 1, 2, 3, 3, 3, 0, 0], device=DEVICE)
    uniforms = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for numbers in (uniforms, torch.zeros_like(uniforms), torch.full_like(uniforms, 1 - 2**-53)):
        tokens = kernels.sample(logits, numbers, slot, temperature)
        expected = sample_inverse_cdf(logits, numbers, slot, temperature)
        # Where a sum and a number are equal but for float32's rounding, either of two tokens is right.
        sums = (logits.double() / temperature).softmax(-1).cumsum(-1)[slot]
        upper, lower = (sums.gather(-1, (tokens - shift).clamp(min=0)[:, None])[:, 0] for shift in (0, 1))
        lower = lower.where(tokens > 0, 0.0)
        assert ((lower - 1e-6 <= numbers) & (numbers <= upper + 1e-6)).all()
        assert tokens.equal(expected) or numbers is not uniforms


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(compose().model)


def qwen2(dtype: torch.dtype = torch.float32) -> Any:
    """A Qwen2 policy with random weights, two layers, and two query heads for each of two key heads."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=700, num_hidden_layers=2, initializer_range=0.3, **sizes)
    policy: Any = Qwen2ForCausalLM(config).eval()
    return policy.to(DEVICE, dtype)


@needs_triton
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_completions_with_kernels_are_those_without(kernels, tokenizer, temperature: float | None) -> None:
    policy = qwen2()
    with_kernels, reference = (PrefixSharingSampler(policy, tokenizer, False, fused=True) for _ in range(2))
    with_kernels.use_kernels()
    assert with_kernels.sample is kernels.sample
    if DEVICE == "cpu":
        with_kernels.graphs = EagerGraphs()
    for rows in ([[1, 7, 9, 30], [8, 2, 60, 61, 62, 63, 64], [1, 7, 9, 30], [5]], [[5], [5]]):
        seeds = [(0, row) for row in range(len(rows))]
        completions = with_kernels.complete(rows, 5, temperature, seeds)
        assert completions == reference.complete(rows, 5, temperature, seeds)


@needs_triton
def test_log_probabilities_with_16_bits_are_close(kernels) -> None:
    from grpo.sampling.qwen2_triton import TritonQwen2Decoder

    policy = qwen2(SHORT)
    enable_prefix_sharing(policy)
    decoder = TritonQwen2Decoder(policy, SHORT)
    assert 0 < decoder.difference(policy, False, [list(range(9)), [5]], slots=2, steps=3) < 0.02


@needs_triton
@pytest.mark.parametrize(
    ("name", "fault", "reason"),
    [
        ("attend", lambda *args: 1 / 0, "division by zero"),
        ("silu_gate", lambda gate_up: gate_up[:, : gate_up.shape[1] // 2], "log-probabilities differ by"),
        ("sample", lambda logits, uniforms, slot, temperature: slot, "log-probabilities differ by inf on average"),
    ],
)
def test_kernels_that_do_not_work_are_not_used(
    kernels, tokenizer, monkeypatch, name: str, fault: Any, reason: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr("grpo.sampling.prefix_sharing_sampler.say", said.append)
    monkeypatch.setattr(kernels, name, fault)
    sampler = PrefixSharingSampler(qwen2(), tokenizer, False, fused=True)
    sampler.use_kernels()
    assert type(sampler.decoder) is FusedQwen2Decoder and sampler.sample is sample_inverse_cdf
    assert len(said) == 1 and reason in said[0] and "Sampling with rollout.kernels=torch instead." in said[0]


@pytest.mark.skipif(DEVICE == "cuda", reason="this machine has a GPU")
def test_without_a_gpu_the_setting_changes_nothing_and_prints_nothing(tokenizer, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("grpo.sampling.prefix_sharing_sampler.say", said.append)
    sampler = PrefixSharingSampler(qwen2(), tokenizer, False, fused=True, triton=True)
    assert type(sampler.decoder) is FusedQwen2Decoder and sampler.sample is sample_inverse_cdf and not said


@needs_triton
@pytest.mark.parametrize("capability", ["80", "90"])
def test_every_kernel_compiles_for_gpus_that_are_not_there(capability: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.helpers.compile_kernels", capability]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    assert max(json.loads(process.stdout).values()) <= 99 * 1024  # the shared memory of an RTX 3090's multiprocessor
