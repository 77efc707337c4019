"""Held-out scoring: greedy answers, judged by the reward functions that train the policy."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from grpo.config import Config
from grpo.data import Example
from grpo.prompts import last_number, prompt_ids, same_answer
from grpo.rewards import RewardStack, score


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int  # the end-of-sequence token included
    truncated: bool


@dataclass(frozen=True)
class Evaluation:
    figures: dict[str, Any]
    completions: list[Completion]


@contextmanager
def neutral_generation(policy: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Greedy generation without what the policy's own `generation_config` would add, such as a repetition penalty.

    `generate` fills every value that is left unset from that config, so it is set aside meanwhile. Yields the ids
    that end a completion: the tokenizer's and those of the policy's config.
    """
    holder = policy.get_base_model() if hasattr(policy, "get_base_model") else policy  # LoRA wraps the policy
    own = holder.generation_config
    declared = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = sorted({tokenizer.eos_token_id, *declared} - {None})
    holder.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, bos_token_id=own.bos_token_id
    )
    try:
        yield ends
    finally:
        holder.generation_config = own


@torch.no_grad()
def answer_greedily(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    config: Config,
    on_answered: Callable[[int], None] = lambda count: None,
) -> list[Completion]:
    """One greedy completion a question, in batches of similar prompt length; `on_answered` is told how many are new."""
    prompts = prompt_ids(tokenizer, questions, config.system_prompt)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: dict[int, Completion] = {}
    autocast = torch.autocast(config.device, torch.bfloat16) if config.bf16 else nullcontext()
    was_training = policy.training
    policy.eval()
    with neutral_generation(policy, tokenizer) as ends, autocast:
        for start in range(0, len(order), config.eval_batch_size):
            batch = order[start : start + config.eval_batch_size]
            encoded = tokenizer.pad(
                [{"input_ids": prompts[i]} for i in batch], padding_side="left", return_tensors="pt"
            )
            generated = policy.generate(  # type: ignore[operator]
                **encoded.to(policy.device), max_new_tokens=config.max_completion_length
            )
            for i, row in zip(batch, generated[:, encoded["input_ids"].shape[1] :].tolist(), strict=True):
                length = next((n for n, token in enumerate(row, start=1) if token in ends), None)
                ids = row[:length]
                completions[i] = Completion(
                    str(tokenizer.decode(ids, skip_special_tokens=True)), len(ids), truncated=length is None
                )
            on_answered(len(batch))
    policy.train(was_training)
    return [completions[i] for i in range(len(prompts))]


def evaluate(
    policy: PreTrainedModel,
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
    completions = answer_greedily(policy, tokenizer, questions, config, on_answered)
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
