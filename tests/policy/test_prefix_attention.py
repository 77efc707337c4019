"""`FlexAttention` against `SdpaAttention`: outputs and gradients, on a GPU if there is one, else with its dense mask.

On a CPU the tests run in float64. A GPU has no float64 there; with 16 bits, both attentions round probabilities to
bfloat16 at other places.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask
from transformers import Qwen3Config, Qwen3ForCausalLM

from grpo.policy.prefix_attention import FlexAttention, SdpaAttention, compile_flex_attention
from grpo.policy.prefix_sharing import enable_prefix_sharing, flex_attention_fault
from grpo.policy.ragged_rows import RaggedRows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.03} if DEVICE == "cuda" else {torch.float64: 1e-12}

ATTENTIONS = (SdpaAttention, FlexAttention)

CASES = {  # tokens of the prompts but the last, tokens of the completions, the prompt of each completion, H, heads
    "one completion": ([5], [4], [0], 1, 1),
    "prompts of one token": ([0, 0], [3, 1, 2], [0, 0, 1], 2, 2),
    "one of them of one token": ([7, 0, 2], [3, 1, 2], [2, 1, 0], 2, 2),
    "grouped heads": ([9, 4], [6, 5, 1], [0, 1, 1], 2, 14),
    "ragged, several blocks": ([3, 130, 256, 1], [1, 300, 7, 129, 64, 2], [1, 1, 3, 0, 2, 2], 2, 4),
    "complete blocks": ([128, 384], [128, 256, 1], [1, 1, 0], 1, 2),
}


def rows_of(case: str) -> tuple[RaggedRows, RaggedRows, Tensor]:
    prompts, completions, group = (torch.tensor(numbers, device=DEVICE) for numbers in CASES[case][:3])
    return RaggedRows(prompts), RaggedRows(completions), group


def states_of(case: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (T, heads, 16), keys and values (T, H, 16)."""
    prompts, completions, _, key_heads, heads = CASES[case]
    generator = torch.Generator().manual_seed(0)
    shape = sum(prompts) + sum(completions), 16
    query, key, value = (
        torch.randn(shape[0], n, shape[1], generator=generator).to(DEVICE, dtype) for n in (heads, key_heads, key_heads)
    )
    return query, key, value


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_sdpa(case: str, dtype: torch.dtype) -> None:
    results = []
    for attention in ATTENTIONS:
        states = [state.requires_grad_() for state in states_of(case, dtype)]
        output = attention(*rows_of(case))(*states, 0.3)
        weights = torch.linspace(-1, 1, output.numel(), device=DEVICE, dtype=dtype).view_as(output)
        results.append((output, *torch.autograd.grad((output * weights).sum(), states)))
    for expected, actual in zip(*results, strict=True):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCES[dtype] * scale)


def numbered(counts: Tensor, columns: Tensor) -> set[tuple[int, int]]:
    """The blocks, (queries, keys), in one of the two lists of a `BlockMask`."""
    rows = zip(counts[0, 0].tolist(), columns[0, 0].tolist(), strict=True)
    return {(i, column) for i, (count, numbers) in enumerate(rows) for column in numbers[:count]}


@pytest.mark.parametrize("case", CASES)
def test_blocks_without_a_pair_are_skipped_and_only_complete_blocks_are_not_masked(case: str) -> None:
    mask = FlexAttention(*rows_of(case)).mask
    width = mask.seq_lengths[0]
    pairs = create_mask(mask.mask_mod, None, None, width, width, device=DEVICE)[0, 0]
    pairs_per_block = pairs.view(width // 128, 128, width // 128, 128).sum((1, 3)).tolist()
    found = {(i, j): n for i, row in enumerate(pairs_per_block) for j, n in enumerate(row) if n}
    masked, complete = (
        numbered(mask.kv_num_blocks, mask.kv_indices),
        numbered(mask.full_kv_num_blocks, mask.full_kv_indices),
    )
    assert masked | complete == found.keys() and not masked & complete
    assert all(found[block] == 128 * 128 for block in complete)
    if case == "complete blocks":
        own = {(2, 1), (3, 1), (3, 2), (6, 5)}
        assert complete == own | {(queries, keys) for queries in (4, 5, 6) for keys in (1, 2, 3)}


@torch.no_grad()
def test_flex_attention_is_compiled_once_for_all_lengths_and_computes_the_same_as_the_dense_mask() -> None:
    flex = compile_flex_attention("inductor" if DEVICE == "cuda" else "eager")
    generator = torch.Generator().manual_seed(0)
    for stance, (prompts, completions, group) in zip(
        ("default", *["fail_on_recompile"] * 3),
        (
            ([5], [4], [0]),
            ([3, 130, 256, 1], [1, 300, 7, 129, 64, 2], [1, 1, 3, 0, 2, 2]),
            ([0], [2], [0]),
            ([400, 500], [300, 200], [1, 0]),
        ),
        strict=True,
    ):
        lengths = (torch.tensor(numbers, device=DEVICE) for numbers in (prompts, completions))
        attention = FlexAttention(*map(RaggedRows, lengths), torch.tensor(group, device=DEVICE))
        width = attention.mask.seq_lengths[0]
        query, key, value = (torch.randn(1, n, width, 16, generator=generator).to(DEVICE) for n in (6, 2, 2))
        with torch.compiler.set_stance(stance):
            output = flex(query, key, value, block_mask=attention.mask, enable_gqa=True)
        expected = F.scaled_dot_product_attention(query, key, value, attention.dense_mask, enable_gqa=True)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_autocast_chooses_the_dtype() -> None:
    query, key, value = states_of("grouped heads", torch.float32)  # as norms of queries and keys leave them
    with torch.autocast(DEVICE, torch.bfloat16):
        results = [kind(*rows_of("grouped heads"))(query, key, value.bfloat16(), 0.25) for kind in ATTENTIONS]
    assert results[0].dtype == results[1].dtype == torch.bfloat16
    torch.testing.assert_close(*results, rtol=0.02, atol=0.02)


def qwen3() -> Any:
    sizes = {"hidden_size": 64, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=50, num_hidden_layers=2, head_dim=16, initializer_range=0.3, **sizes)
    policy: Any = Qwen3ForCausalLM(config).to(DEVICE)
    enable_prefix_sharing(policy)
    return policy


@pytest.mark.parametrize("bf16", [False, True])
def test_a_policy_is_checked_before_it_trains(bf16: bool) -> None:
    policy = qwen3()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
        assert flex_attention_fault(policy) is None
    assert all(parameter.grad is None for parameter in policy.parameters())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda output: 1 / 0, "division by zero"),
        (lambda output: 1.1 * output, "its outputs or gradients differ by 0.1 of the largest"),
        (lambda output: output + output.detach(), "its outputs or gradients differ by 1 of the largest"),
        (lambda output: output * torch.nan, "its outputs or gradients differ by nan of the largest"),
    ],
)
def test_a_fault_is_found_with_its_reason(monkeypatch, fault: Any, reason: str) -> None:
    policy, call = qwen3(), FlexAttention.__call__
    monkeypatch.setattr(FlexAttention, "__call__", lambda *args: fault(call(*args)))
    assert flex_attention_fault(policy) == reason
