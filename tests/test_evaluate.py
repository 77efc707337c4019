"""Held-out scoring: greedy, neutral, and by the rewards themselves."""

from dataclasses import replace
from itertools import islice

import pytest

from grpo.arithmetic import problems
from grpo.config import compose
from grpo.data import Example
from grpo.evaluate import answer_greedily, evaluate
from grpo.model import build_policy, build_tokenizer
from grpo.rewards import build_rewards
from grpo.rollout import build_rollout

CONFIG = compose(["max_completion_length=24"])
EXAMPLES = [Example(p.question, str(p.answer)) for p in islice(problems(True, seed=1), 24)]
QUESTIONS = [example.question for example in EXAMPLES]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(CONFIG.model)


@pytest.fixture(scope="module")
def rollout(tokenizer):
    return build_rollout(build_policy(CONFIG.model, 0), tokenizer, CONFIG)


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("name", ["fast", "generate"])
def test_the_policys_own_generation_config_does_not_leak_in(tokenizer, name: str, lora_rank: int) -> None:
    policy = build_policy(replace(CONFIG.model, lora_rank=lora_rank), 0)
    rollout = build_rollout(policy, tokenizer, compose([f"rollout={name}"]))
    plain = answer_greedily(rollout, tokenizer, QUESTIONS, CONFIG)
    own = policy.generation_config
    own.repetition_penalty, own.temperature, own.do_sample, own.top_k = 5.0, 3.0, True, 50
    policy.train()
    assert answer_greedily(rollout, tokenizer, QUESTIONS, CONFIG) == plain
    assert policy.generation_config is own and policy.training


def test_batches_do_not_change_the_answers(rollout, tokenizer) -> None:
    counts: list[int] = []
    one_by_one = answer_greedily(rollout, tokenizer, QUESTIONS, replace(CONFIG, eval_batch_size=1), counts.append)
    assert counts == [1] * 24
    assert one_by_one == answer_greedily(rollout, tokenizer, QUESTIONS, replace(CONFIG, eval_batch_size=24))


def test_the_figures_are_those_of_the_rewards(rollout, tokenizer) -> None:
    rewards = build_rewards(CONFIG.rewards)
    evaluation = evaluate(rollout, tokenizer, EXAMPLES, rewards, CONFIG)
    figures, texts = evaluation.figures, [completion.text for completion in evaluation.completions]
    scores = rewards.score(texts, [example.gold for example in EXAMPLES], QUESTIONS)
    assert figures["n"] == 24
    assert figures["accuracy_strict"] == sum(scores["correctness"]) / 2 / 24
    assert figures["strict_format"] == sum(scores["strict_format"]) / 0.5 / 24
    assert figures["reward"] == pytest.approx(sum(rewards.total(scores)) / 24)
    right = [f"The answer is {example.gold}." == text for example, text in zip(EXAMPLES, texts, strict=True)]
    assert figures["accuracy_flexible"] >= sum(right) / 24 > 0


def test_lengths_and_truncation(rollout, tokenizer) -> None:
    whole = answer_greedily(rollout, tokenizer, QUESTIONS[:4], CONFIG)
    cut = answer_greedily(rollout, tokenizer, QUESTIONS[:4], replace(CONFIG, max_completion_length=2))
    assert [completion.tokens for completion in cut] == [2] * 4 and all(completion.truncated for completion in cut)
    for completion in whole:
        # The ending token counts, as it does in TRL's completions/mean_length.
        assert not completion.truncated
        assert completion.tokens == len(tokenizer(completion.text)["input_ids"]) + 1
