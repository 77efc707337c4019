"""Held-out scoring: neutral, repeatable, and by the rewards themselves."""

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.core.statistics import bootstrap_intervals, maj_at_k, pass_at_k, wilson_interval
from grpo.evaluation.completion import Completion, CompletionBatch
from grpo.evaluation.difference import paired_differences
from grpo.evaluation.evaluation import BINARY_FIGURES, Evaluation, evaluate_completions
from grpo.evaluation.generation import generate_completions, generate_greedily
from grpo.evaluation.storage import save_evaluation
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import build_rewards
from grpo.sampling.build import build_sampler
from grpo.tasks.arithmetic import generate_problems
from grpo.tasks.example import Example
from tests.helpers.evaluation import tagged

CONFIG = compose(["max_completion_length=24"])
EXAMPLES = [Example(p.question, str(p.answer)) for p in islice(generate_problems(True, seed=1), 128)]
QUESTIONS = [example.question for example in EXAMPLES]
FEW = QUESTIONS[:24]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(CONFIG.model)


@pytest.fixture(scope="module")
def policy():
    return build_policy(CONFIG.model, 0)


@pytest.fixture(scope="module")
def rollout(policy, tokenizer):
    return build_sampler(policy, tokenizer, CONFIG)


def together(batches: Iterable[CompletionBatch]) -> CompletionBatch:
    return dict(sorted((place, each) for batch in batches for place, each in batch.items()))


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("name", ["fast", "generate"])
def test_the_policys_own_generation_config_does_not_leak_in(tokenizer, name: str, lora_rank: int) -> None:
    policy = build_policy(replace(CONFIG.model, lora_rank=lora_rank), 0)
    rollout = build_sampler(policy, tokenizer, compose([f"rollout={name}"]))
    plain = generate_greedily(rollout, tokenizer, FEW, CONFIG)
    sampled = together(generate_completions(rollout, tokenizer, FEW, CONFIG, samples=2, temperature=1.0))
    own = policy.generation_config
    own.repetition_penalty, own.temperature, own.do_sample, own.top_k = 5.0, 3.0, True, 5
    policy.train()
    assert generate_greedily(rollout, tokenizer, FEW, CONFIG) == plain
    assert together(generate_completions(rollout, tokenizer, FEW, CONFIG, samples=2, temperature=1.0)) == sampled
    assert policy.generation_config is own and policy.training


def test_greedy_answers_are_repeatable_whatever_the_batch(rollout, policy, tokenizer) -> None:
    alone, again, batched = (
        together(generate_completions(rollout, tokenizer, QUESTIONS, replace(CONFIG, eval_batch_size=size)))
        for size in (1, 1, 64)
    )
    assert alone == again
    near_ties = 0
    for place, prompt in enumerate(ChatTemplate.of(tokenizer, CONFIG).prompt_ids(QUESTIONS)):
        left, right = (tokenizer(each[place, 0].text)["input_ids"] for each in (alone, batched))
        if left != right:
            parted = next(n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
            with torch.no_grad():
                logits = policy(torch.tensor([prompt + left[:parted]])).logits[0, -1]
            first, second = logits.topk(2).values.tolist()
            assert first - second < 1e-4, QUESTIONS[place]
            near_ties += 1
    print(f"{near_ties} near-ties of {len(QUESTIONS)}")
    assert near_ties <= 1


@pytest.mark.parametrize("size", [1, 7, 100])
def test_sampled_completions_depend_on_the_seed_alone(rollout, tokenizer, size: int) -> None:
    def ask(size: int, seed: int = 0, **kwargs) -> CompletionBatch:
        config = replace(CONFIG, eval_batch_size=size, seed=seed)
        return together(generate_completions(rollout, tokenizer, FEW[:8], config, samples=3, temperature=1.0, **kwargs))

    state = torch.random.get_rng_state()
    drawn = ask(size)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(drawn) == 24 and drawn == ask(24)
    half = set(list(drawn)[::2])
    assert ask(size, skip=half) == {place: each for place, each in drawn.items() if place not in half}
    texts = {i: {drawn[i, s].text for s in range(3)} for i in range(8)}
    assert max(map(len, texts.values())) > 1  # the samples of a problem differ
    assert drawn != ask(24, seed=1)


def test_generate_samples_a_batch_repeatably_and_leaves_the_generator_alone(policy, tokenizer) -> None:
    rollout = build_sampler(policy, tokenizer, compose(["rollout=generate"]))
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first = together(generate_completions(rollout, tokenizer, FEW[:4], CONFIG, samples=2, temperature=1.0))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    assert together(generate_completions(rollout, tokenizer, FEW[:4], CONFIG, samples=2, temperature=1.0)) == first


def test_distortions_are_applied_where_they_are_asked_for(policy, tokenizer) -> None:
    sharp = build_sampler(policy, tokenizer, compose(["rollout=generate", "rollout.top_k=1"]))
    drawn = together(generate_completions(sharp, tokenizer, FEW, CONFIG, samples=1, temperature=1.0))
    greedy = build_sampler(policy, tokenizer, compose(["rollout=generate"]))
    assert [each.text for each in drawn.values()] == generate_greedily(greedy, tokenizer, FEW, CONFIG)
    penal = build_sampler(policy, tokenizer, compose(["rollout=generate", "rollout.repetition_penalty=9"]))
    assert generate_greedily(penal, tokenizer, FEW, CONFIG) != generate_greedily(greedy, tokenizer, FEW, CONFIG)


class Small:
    """A rollout with memory for a few completions."""

    def __init__(self, rollout, most: int, error: Exception) -> None:
        self.rollout, self.most, self.error, self.end_token_ids = rollout, most, error, rollout.end_token_ids
        self.sizes: list[int] = []

    def complete(self, prompts, *args):
        self.sizes.append(len(prompts))
        if len(prompts) > self.most:
            raise self.error
        return self.rollout.complete(prompts, *args)


OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT)
def test_running_out_of_memory_halves_the_batch(rollout, tokenizer, capsys, error: Exception) -> None:
    config = replace(CONFIG, eval_batch_size=20)
    small = Small(rollout, 6, error)
    assert generate_greedily(small, tokenizer, FEW, config) == generate_greedily(rollout, tokenizer, FEW, config)
    assert small.sizes == [20, 10, 5, 5, 5, 5, 4]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "Out of memory with 20 completions at once: continuing with eval_batch_size=10.",
        "Out of memory with 10 completions at once: continuing with eval_batch_size=5.",
    ]
    with pytest.raises(UserError, match="out of memory with a single completion; lower max_completion_length"):
        generate_greedily(Small(rollout, 0, error), tokenizer, FEW, config)


def test_other_errors_are_not_taken_for_out_of_memory(rollout, tokenizer) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        generate_greedily(Small(rollout, 1, RuntimeError("shapes differ")), tokenizer, FEW, CONFIG)


def test_the_figures_are_those_of_the_rewards(rollout, tokenizer) -> None:
    rewards, told = build_rewards(CONFIG.rewards), []
    config = replace(CONFIG, eval_batch_size=50)
    answered = generate_completions(rollout, tokenizer, QUESTIONS, config)
    evaluation = evaluate_completions(EXAMPLES, answered, rewards, on_answered=lambda *what: told.append(what))
    figures, texts = evaluation.figures, [of[0].text for of in evaluation.completions]
    scores = rewards.score(ScoringBatch(texts, EXAMPLES))
    assert figures["accuracy_strict"] == sum(scores["correctness"]) / 2 / 128
    assert figures["strict_format"] == sum(scores["strict_format"]) / 0.5 / 128
    assert figures["reward"] == pytest.approx(sum(rewards.total(scores)) / 128)
    right = [f"The answer is {example.gold}." == text for example, text in zip(EXAMPLES, texts, strict=True)]
    assert figures["accuracy_flexible"] >= sum(right) / 128 > 0
    assert [count for count, _ in told] == [50, 50, 28]
    strict, flexible = (f"{figures[name]:.1%}" for name in ("accuracy_strict", "accuracy_flexible"))
    assert told[-1][1] == f"right {strict} inside <answer>, {flexible} as last number"
    # Wilson's interval for shares, a bootstrap for the rest.
    k = round(figures["accuracy_flexible"] * 128)
    assert evaluation.intervals["accuracy_flexible"] == wilson_interval(k, 128)
    lengths = np.array([[of[0].tokens for of in evaluation.completions]], dtype=float)
    assert evaluation.intervals["mean_completion_tokens"] == pytest.approx(bootstrap_intervals(lengths)[0], rel=1e-9)
    assert evaluation.intervals.keys() == figures.keys()


def test_lengths_and_truncation(rollout, tokenizer) -> None:
    complete = together(generate_completions(rollout, tokenizer, FEW[:4], CONFIG)).values()
    cut = together(generate_completions(rollout, tokenizer, FEW[:4], replace(CONFIG, max_completion_length=2))).values()
    assert [each.tokens for each in cut] == [2] * 4 and all(each.truncated for each in cut)
    for each in complete:
        # The ending token counts, as it does in TRL's completions/mean_length.
        assert not each.truncated
        assert each.tokens == len(tokenizer(each.text)["input_ids"]) + 1


def made(
    *problems: list[str],
    golds: list[str] | None = None,
    k: list[int] | None = None,
    answer_type: str = "number",
) -> Evaluation:
    """The evaluation of texts, some for each problem, whose gold is 5."""
    golds = golds or ["5"] * len(problems)
    examples = [Example(f"question {i}", gold) for i, gold in enumerate(golds)]
    completions = [[Completion(text, None, None) for text in texts] for texts in problems]
    return Evaluation(examples, completions, build_rewards({"correctness": 1.0}, answer_type=answer_type), k)


@pytest.mark.parametrize(
    ("answer_type", "gold", "right", "wrong"),
    [
        ("number", "5", 2, (1, 2)),  # 6 and 6.0 pens are one answer
        ("strict", "5", 1, (1, 1, 1, 1)),
        ("text", "5 pens", 1, (1, 1, 1, 1)),
        ("text", "(SIX)", 1, (1, 1, 1, 1)),
    ],
)
def test_the_rule_decides_what_is_right_and_what_votes(answer_type, gold: str, right: int, wrong: tuple) -> None:
    texts = [tagged(answer) for answer in ("5", "**5 pens**", "6", "6.0 pens", "six")]
    evaluation = made(texts, golds=[gold], answer_type=answer_type)
    assert evaluation.figures["accuracy_strict"] == right / 5
    assert evaluation.figures["maj@4"] == pytest.approx(maj_at_k(5, right, wrong, 4))
    flexible = {"5": 2 / 5, "5 pens": 1 / 5, "(SIX)": 1 / 5}[gold]
    assert evaluation.figures["accuracy_flexible"] == flexible


def test_pass_and_majority_of_several_completions() -> None:
    evaluation = made(
        [tagged("5"), tagged("5.0"), tagged("7"), "it is 5"],
        [tagged("6"), tagged("6.0"), tagged("5"), tagged("1,000")],
        [tagged("9"), "nothing", "", tagged("")],
    )
    figures = evaluation.figures
    assert figures["accuracy_strict"] == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert figures["accuracy_flexible"] == pytest.approx((3 / 4 + 1 / 4 + 0) / 3)
    for k in (1, 2, 4):
        # 5 and 5.0 are one answer, and so are 6 and 6.0; no answer does not vote, an empty one does.
        assert figures[f"pass@{k}"] == pytest.approx((pass_at_k(4, 2, k) + pass_at_k(4, 1, k)) / 3)
        assert figures[f"maj@{k}"] == pytest.approx((maj_at_k(4, 2, (1,), k) + maj_at_k(4, 1, (1, 2), k)) / 3)
        assert figures[f"maj@{k}/flexible"] == pytest.approx((maj_at_k(4, 3, (1,), k) + maj_at_k(4, 1, (1, 2), k)) / 3)
    assert "pass@3" not in figures and "truncated" not in figures and "mean_completion_tokens" not in figures
    assert {name for name in figures if name.startswith("pass") and "/" not in name} == {"pass@1", "pass@2", "pass@4"}
    by_problem = np.array([[0.5, 0.25, 0.0]])
    assert evaluation.intervals["accuracy_strict"] == pytest.approx(bootstrap_intervals(by_problem)[0])
    assert "pass@3" in made(["5"] * 3, k=[3]).figures
    with pytest.raises(UserError, match=r"k=\[1, 4\]: a problem has only 3 completions"):
        made(["5"] * 4, ["5"] * 3, k=[1, 4])


def test_a_comparison_is_of_the_same_problems_and_exact() -> None:
    right, wrong = [tagged("5")], ["The answer is 6."]
    first = made(right, right, right, right, wrong, wrong)
    second = made(wrong, right, wrong, wrong, right, wrong)
    difference = paired_differences(first, second)["accuracy_strict"]
    assert (difference.gained, difference.lost, difference.value) == (3, 1, pytest.approx(2 / 6))
    assert difference.p == pytest.approx(2 * (1 + 4) / 2**4)
    assert (difference.low, difference.high) == bootstrap_intervals(np.array([[1.0, 0, 1, 1, -1, 0]]))[0]
    assert paired_differences(first, second)["rewards/correctness"].p is None
    # In any order.
    turned = Evaluation(second.examples[::-1], second.completions[::-1], second.rewards)
    assert paired_differences(first, turned) == paired_differences(first, second)
    with pytest.raises(UserError, match=r"the same problems; 6 of 6 are among the baseline's 7"):
        paired_differences(first, made(*[right] * 7))
    with pytest.raises(UserError, match=r"the same problems; 5 of 6 are among the baseline's 6"):
        paired_differences(first, made(*[right] * 6, golds=["5"] * 5 + ["4"]))
    # With several completions a problem there is no McNemar test.
    assert paired_differences(made(right * 2), made(wrong * 2))["accuracy_strict"].p is None


def test_a_saved_evaluation_gives_the_same_figures(tmp_path) -> None:
    evaluation = made([tagged("5"), "東京 \N{LINE SEPARATOR} 5"], [tagged("6"), tagged("5")])
    save_evaluation(evaluation, tmp_path / "of" / "some.json", {"by": "hand"})
    report = json.loads((tmp_path / "of" / "some.json").read_text())
    assert report["protocol"] == {"by": "hand"} and report["versions"]["grpo"]
    table = pd.read_parquet(tmp_path / "of" / "some.parquet")
    assert table["completion"].tolist() == [each.text for of in evaluation.completions for each in of]
    assert table["answer_strict"].tolist()[2:] == ["6", "5"] and table["answer_strict"].isna()[1]
    for name in evaluation.values:
        mean = table.groupby("problem")[name].mean().mean()
        assert report["figures"][name] == pytest.approx(mean)
        assert (table[name].dtype == bool) == (name in BINARY_FIGURES)
    assert sorted(file.name for file in (tmp_path / "of").iterdir()) == ["some.json", "some.parquet"]
