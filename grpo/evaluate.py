"""Held-out scoring: greedy answers, judged by the reward functions that train the policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo.config import Config
from grpo.data import Example
from grpo.prompts import last_number, prompt_ids, same_answer
from grpo.rewards import RewardStack, score
from grpo.rollout import Rollout


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int  # the end-of-sequence token included
    truncated: bool


@dataclass(frozen=True)
class Evaluation:
    figures: dict[str, Any]
    completions: list[Completion]


def answer_greedily(
    rollout: Rollout,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    config: Config,
    on_answered: Callable[[int], None] = lambda count: None,
) -> list[Completion]:
    """One greedy completion a question, in batches of similar prompt length; `on_answered` is told how many are new."""
    prompts = prompt_ids(tokenizer, questions, config.system_prompt)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: dict[int, Completion] = {}
    for start in range(0, len(order), config.eval_batch_size):
        batch = order[start : start + config.eval_batch_size]
        for i, ids in zip(
            batch, rollout.complete([prompts[i] for i in batch], config.max_completion_length), strict=True
        ):
            text = str(tokenizer.decode(ids, skip_special_tokens=True))
            completions[i] = Completion(text, len(ids), truncated=ids[-1] not in rollout.ends)
        on_answered(len(batch))
    return [completions[i] for i in range(len(prompts))]


def evaluate(
    rollout: Rollout,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    rewards: RewardStack,
    config: Config,
    on_answered: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Answer every problem greedily and score the answers.

    The figures are shares of the problems in [0, 1]: `accuracy_strict` (the answer inside `<answer>`, the `correctness`
    reward), `accuracy_flexible` (the last number anywhere), `strict_format`, `soft_format`, `truncated`; beside them
    `mean_completion_tokens`, and the mean raw score of every reward of the stack under `rewards`.
    """
    questions = [example.question for example in examples]
    golds = [example.gold for example in examples]
    completions = answer_greedily(rollout, tokenizer, questions, config, on_answered)
    texts = [completion.text for completion in completions]

    def share(name: str) -> float:
        return fmean(value > 0 for value in score(name, texts, golds, questions))

    numbers = [last_number(text) for text in texts]
    scores = rewards.score(texts, golds, questions)
    figures = {
        "n": len(examples),
        "accuracy_strict": share("correctness"),
        "accuracy_flexible": fmean(
            number is not None and same_answer(number, gold) for number, gold in zip(numbers, golds, strict=True)
        ),
        "strict_format": share("strict_format"),
        "soft_format": share("soft_format"),
        "truncated": fmean(completion.truncated for completion in completions),
        "mean_completion_tokens": fmean(completion.tokens for completion in completions),
        "reward": fmean(rewards.total(scores)),
        "rewards": {name: fmean(values) for name, values in scores.items()},
    }
    return Evaluation(figures, completions)
