"""The prefix-sharing sampler, compared with `generate` and plain forward passes: tokens, probabilities, end tokens."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from grpo.config.composition import compose
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.sampling.generate_sampler import GenerateSampler
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from grpo.sampling.products import PackedProducts
from grpo.sampling.qwen2 import FusedQwen2Decoder
from grpo.sampling.token_sampler import TokenSampler, TransformersDecoder, sample_inverse_cdf
from grpo.tasks.arithmetic import generate_problems
from tests.helpers.eager_graphs import EagerGraphs

CONFIG = compose()
LIMIT = 48


def build(policy, tokenizer, kind: str, bf16: bool = False) -> PrefixSharingSampler:
    sampler = PrefixSharingSampler(policy, tokenizer, bf16, fused=kind != "transformers")
    sampler.graphs = EagerGraphs() if kind == "graphs" else None
    if kind == "packed":  # for small weights like these it is not chosen
        sampler.decoder.products = PackedProducts()
    assert type(sampler.decoder) is (TransformersDecoder if kind == "transformers" else FusedQwen2Decoder)
    return sampler


KINDS = ["fused", "transformers", "graphs", "packed"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(CONFIG.model)


@pytest.fixture
def policy():
    return build_policy(CONFIG.model, 0)


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[list[int]]:
    questions = [problem.question for problem in islice(generate_problems(True, seed=0), 256)]
    begun = tokenizer("<reasoning>\n")["input_ids"]  # with this start, the embedded policy reasons
    return [ids + begun for ids in ChatTemplate.of(tokenizer, CONFIG).prompt_ids(questions)]


@torch.no_grad()
def logits_after(policy, ids: list[int]) -> torch.Tensor:
    return policy(torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_completions_equal_those_of_generate(policy, tokenizer, prompts, kind: str) -> None:
    reference = GenerateSampler(policy, tokenizer, bf16=False).complete(prompts, LIMIT)
    ties = 0
    for prompt, mine, its in zip(
        prompts, build(policy, tokenizer, kind).complete(prompts, LIMIT), reference, strict=True
    ):
        if mine != its:
            parted = next(i for i, (a, b) in enumerate(zip(mine, its, strict=False)) if a != b)
            first, second = logits_after(policy, prompt + mine[:parted]).topk(2).values
            assert first - second < 1e-4
            ties += 1
    assert ties <= 2
    assert len({len(completion) for completion in reference}) >= 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_sampled_tokens_have_the_probabilities_of_a_plain_forward(
    policy, tokenizer, prompts, kind: str, temperature: float, monkeypatch
) -> None:
    sampler = build(policy, tokenizer, kind)
    decoder, original, seen = sampler.decoder, TokenSampler.next, []
    logits_of = decoder.logits

    def logits(batch):
        seen.append(logits_of(batch))
        return seen[-1]

    def spy(self, cache, uniforms, slot):
        tokens = original(self, cache, uniforms, slot)
        logps = (seen.pop() / temperature).log_softmax(-1)[slot]
        chosen.append(logps.gather(-1, tokens[:, None])[:, 0].clone())
        return tokens

    chosen: list[torch.Tensor] = []
    monkeypatch.setattr(decoder, "logits", logits)
    monkeypatch.setattr(TokenSampler, "next", spy)
    torch.manual_seed(0)
    rows = [prompts[0]] * 6 + [prompts[1]] * 6  # equal groups, so slots are in the order of rows
    if kind == "graphs":
        monkeypatch.setattr("grpo.sampling.cuda_graphs.StaticSlots.compact", lambda self, done: self)
    completions = sampler.complete(rows, LIMIT, temperature)
    exact_policy = deepcopy(policy).double()
    errors, plain_errors = [], []
    for row, (prompt, completion) in enumerate(zip(rows, completions, strict=True)):
        with torch.no_grad():
            exact, plain = (
                (computed(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature)
                .log_softmax(-1)
                .gather(-1, torch.tensor(completion)[:, None])[:, 0]
                for computed in (exact_policy, policy)
            )
        mine = torch.stack([step[row] for step in chosen[: len(completion)]])
        errors.append((mine - exact).abs())
        plain_errors.append((plain - exact).abs())
    # float32 rounds differently on every CPU, so the bound comes from a plain forward pass on this one.
    assert torch.cat(errors).max() <= 4 * torch.cat(plain_errors).max() < 1e-4


class ConstantDecoder:
    """A decoder with constant logits."""

    logits_row = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -3.0])

    def logits(self, cache) -> torch.Tensor:
        return self.logits_row.expand(len(cache.ids), -1)


def chi_squared(sampled_at: float, expected_at: float) -> float:
    class Slots:
        ids = torch.zeros(3)

        def start_step(self) -> None:
            pass

    torch.manual_seed(0)
    draws = 20_000
    sampler = TokenSampler(ConstantDecoder(), sampled_at, torch.zeros(8, dtype=torch.bool), sample_inverse_cdf)
    tokens = sampler.next(Slots(), torch.rand(draws, dtype=torch.float64), torch.arange(draws) % 3)
    expected = (ConstantDecoder.logits_row / expected_at).softmax(-1) * draws
    return float(((torch.bincount(tokens, minlength=8) - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_sampled_tokens_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    critical = 24.3  # of chi-squared with 7 degrees of freedom at p = 0.001
    assert chi_squared(temperature, temperature) < critical
    assert chi_squared(temperature, temperature * 1.1) > critical


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_completions(policy, tokenizer, prompts, kind: str) -> None:
    rows = [prompts[i] for i in (3, 3, 3, 5, 5, 3, 8)]  # groups of different sizes, not all adjacent
    samples = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        samples.append(build(policy, tokenizer, kind).complete(rows, LIMIT, 1.0))
    assert samples[0] == samples[1] != samples[2]
    torch.manual_seed(0)
    assert build(policy, tokenizer, "fused").complete(rows, LIMIT, 1.0) == samples[0]
    assert len(set(map(tuple, samples[0]))) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_uses_the_current_weights(policy, tokenizer, prompts, kind: str) -> None:
    sampler = build(policy, tokenizer, kind)
    rows = [prompt for prompt in prompts[:3] for _ in range(4)]
    torch.manual_seed(0)
    before = sampler.complete(rows, LIMIT, 1.0)
    torch.manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    torch.manual_seed(0)
    after = sampler.complete(rows, LIMIT, 1.0)
    torch.manual_seed(0)
    assert after == build(policy, tokenizer, "fused").complete(rows, LIMIT, 1.0) != before
    assert all(1 <= len(completion) <= LIMIT for completion in after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_ends_with_an_end_token_or_at_the_limit(policy, tokenizer, prompts, kind: str) -> None:
    greedy = GenerateSampler(policy, tokenizer, bf16=False).complete(prompts[:8], LIMIT)
    # If every first token is an end token, completions are one token long.
    policy.generation_config.eos_token_id = [tokenizer.eos_token_id, *{completion[0] for completion in greedy}]
    sampler = build(policy, tokenizer, kind)
    assert sampler.end_token_ids == sorted(policy.generation_config.eos_token_id)
    assert sampler.complete(prompts[:8], LIMIT) == [completion[:1] for completion in greedy]
    # With a frequent token as the only end token, some completions end in the middle.
    token, _ = Counter(token for completion in greedy for token in completion[3:]).most_common(1)[0]
    policy.generation_config.eos_token_id = [token]
    sampler = build(policy, tokenizer, kind)
    assert sampler.complete(prompts[:8], LIMIT) == GenerateSampler(policy, tokenizer, bf16=False).complete(
        prompts[:8], LIMIT
    )
    # Without end tokens, all completions reach the limit.
    sampler.is_end_token.fill_(False)
    assert {len(completion) for completion in sampler.complete(prompts[:8], 11)} == {11}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_unusual_shapes(policy, tokenizer, prompts, kind: str) -> None:
    sampler, generate = build(policy, tokenizer, kind), GenerateSampler(policy, tokenizer, bf16=False)
    one_token = [[tokenizer.eos_token_id], [5], [5]]
    for rows in (prompts[:1], prompts[:1] * 3, [prompts[0], *prompts[:7]], one_token, [*one_token, *prompts[:2]]):
        assert sampler.complete(rows, 9) == generate.complete(rows, 9)
    assert sampler.complete(prompts[:3], 1) == generate.complete(prompts[:3], 1)


def test_adapters_change_the_completions(tokenizer, prompts) -> None:
    policy: Any = build_policy(replace(CONFIG.model, lora_rank=4), 0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    fused, modules = (build(policy, tokenizer, kind).complete(prompts[:32], LIMIT) for kind in KINDS[:2])
    assert fused == modules == GenerateSampler(policy, tokenizer, bf16=False).complete(prompts[:32], LIMIT)
    with policy.disable_adapter():
        assert fused != GenerateSampler(policy, tokenizer, bf16=False).complete(prompts[:32], LIMIT)


def test_an_attention_window_shorter_than_a_text_falls_back_to_generate(tokenizer, prompts, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("grpo.sampling.prefix_sharing_sampler.say", said.append)
    size = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    torch.manual_seed(0)
    policy = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), sliding_window=16, **size))
    sampler = PrefixSharingSampler(policy, tokenizer, bf16=False, fused=True)
    reference = GenerateSampler(policy, tokenizer, bf16=False).complete(prompts[:3], 4)
    assert sampler.complete(prompts[:3], 4) == sampler.complete(prompts[:3], 4) == reference
    assert len(said) == 1 and "its attention window of 16 tokens is shorter" in said[0]


def test_sampling_does_not_change_the_policy(policy, tokenizer, prompts) -> None:
    policy.train()
    build(policy, tokenizer, "fused").complete(prompts[:4], 4, 1.0)
    assert policy.training and all(parameter.requires_grad for parameter in policy.parameters())
    loss = policy(torch.tensor([prompts[0]])).logits.sum()
    loss.backward()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_completions_in_bfloat16_equal_those_of_generate(tokenizer, prompts, dtype: str) -> None:
    policy = build_policy(replace(CONFIG.model, dtype=dtype), 0)
    reference = GenerateSampler(policy, tokenizer, bf16=True).complete(prompts[:3], 3)
    for kind in KINDS:
        # In bfloat16, rounding decides near-ties.
        completions = build(policy, tokenizer, kind, bf16=True).complete(prompts[:3], 3)
        assert sum(mine == its for mine, its in zip(completions, reference, strict=True)) >= 2
