"""Prefix sharing with other architectures: equal to the plain forward pass, or refused with a reason."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from grpo.policy import prefix_attention
from grpo.policy.prefix_attention import FlexAttention, SdpaAttention
from grpo.policy.prefix_sharing import (
    LogProbs,
    PackedCompletions,
    PrefixSharingUnsupported,
    enable_prefix_sharing,
    forward_packed,
)
from grpo.policy.ragged_rows import RaggedRows, RowParts, gather

SIZE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(config) -> AutoModelForCausalLM:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # like trained weights: no zeros, no symmetries
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZE),
        MistralConfig(**SIZE, sliding_window=64),
        Qwen2Config(**SIZE),
        Qwen3Config(**SIZE),
        Phi3Config(**SIZE),
        Gemma3TextConfig(**SIZE, sliding_window=64),
        GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("queries", [128, 2])
def test_other_architectures_give_equal_log_probabilities(config: AutoConfig, queries: int, monkeypatch) -> None:
    monkeypatch.setattr(prefix_attention, "QUERIES", queries)
    model = build(config)
    # Three prompts of different lengths, in mixed order. Of the completions of the first, one has no tokens, two begin
    # with the same two tokens, and one is the beginning of another; the second row begins like the first.
    ids = torch.randint(3, 50, (7, 9 + 6))
    ids[[2, 4, 5, 6], :9] = ids[0, :9]
    ids[2, 9:11] = ids[0, 9:11]
    ids[5, 9:12] = ids[0, 9:12]
    ids[1, 9] = ids[0, 9]
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[3, :7] = 0
    for row, length in enumerate((5, 3, 4, 5, 0, 3, 1)):
        mask[row, 9 + length :] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    plain = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, 8:-1].log_softmax(-1)
    expected = plain.gather(-1, ids[:, 9:, None])[..., 0] * mask[:, 9:]
    enable_prefix_sharing(model)
    prompt_tokens = (9 - 1) + (5 - 1) + (2 - 1)
    for attention, tokens in ((SdpaAttention, 5 + 3 + 2 + 5 + 1), (FlexAttention, 5 + 3 + 4 + 5 + 3 + 1)):
        packed = PackedCompletions(ids, mask, 6, attention=attention)
        assert len(packed.ids) == prompt_tokens + tokens
        logits = forward_packed(model, packed, logits_to_keep=packed.predicting).logits[0]
        logps = packed.unpack(LogProbs.apply(logits, packed.labels[packed.predicting])[0])
        torch.testing.assert_close(logps, expected, atol=1e-5, rtol=1e-5)
    # Plain forward passes do not change.
    again = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, 8:-1].log_softmax(-1)
    torch.testing.assert_close(again, plain)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2), "its attention is fixed"),
        (BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4), "its attention is fixed"),
        (Gemma2Config(**SIZE), "softcap|its attention is fixed"),
        (MistralConfig(**SIZE, sliding_window=4), "window of 4 tokens is shorter"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_architectures_that_cannot_share_prefixes_are_refused(config: AutoConfig, reason: str) -> None:
    model = build(config)
    before = model.config._attn_implementation
    with pytest.raises(PrefixSharingUnsupported, match=reason):
        enable_prefix_sharing(model)
    assert model.config._attn_implementation == before


def test_log_probabilities_and_their_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, 11, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (7,))
    logps, entropies = LogProbs.apply(logits, targets)
    distribution = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(logps, distribution.log_prob(targets))
    torch.testing.assert_close(entropies, distribution.entropy())
    assert torch.autograd.gradcheck(lambda x: LogProbs.apply(x, targets)[0], logits)


def test_padding_and_its_gradient() -> None:
    ragged = RaggedRows(torch.tensor([2, 0, 3]))
    packed = torch.randn(5, 2, 4, dtype=torch.float64, requires_grad=True)
    padded = ragged.pad(packed)
    assert padded.shape == (3, 2, 3, 4)
    assert torch.equal(padded[2, :, 1], packed[3])
    torch.testing.assert_close(ragged.unpad(padded), packed)
    assert torch.autograd.gradcheck(lambda x: ragged.unpad(ragged.pad(x) ** 2), packed)


def test_parts_of_rows_with_common_tokens_and_their_gradient() -> None:
    # Rows 0 and 1 own 9 and 5 tokens, row 2 the last of 6, row 3 none, row 4 the last two of 4.
    lengths = torch.tensor([9, 5, 6, 6, 4])
    owner = torch.tensor([[0] * 9, [1] * 9, [1] * 5 + [2] * 4, [1] * 5 + [2] * 4, [0, 0, *[4] * 7]])
    ragged = RaggedRows(lengths, owner)
    parts = RowParts(ragged)
    assert [rows.tolist() for rows in parts.rows] == [[0, 1], [4], [2]]
    assert [columns.tolist() for columns in parts.columns[1:]] == [[[2, 3]], [[5]]]
    packed = torch.randn(17, 2, 4, dtype=torch.float64, requires_grad=True)
    queries = parts.pad(packed)
    assert torch.equal(queries[2][0, :, 0], packed[14]) and torch.equal(queries[1][0], packed[15:].transpose(0, 1))
    torch.testing.assert_close(parts.unpad(queries), packed)
    assert torch.autograd.gradcheck(lambda x: parts.unpad([part**2 for part in parts.pad(x)]), packed)
    keys = gather(packed, parts.source[2])
    assert torch.equal(keys[0], packed[9:15].transpose(0, 1))
    assert torch.autograd.gradcheck(lambda x: gather(x, parts.source[0]) ** 2, packed)
