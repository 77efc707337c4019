"""The idea of open-r1's rewards: accuracy by a parsed answer, think tags, cosine length, repetition, steps."""

import math
import re

from grpo.rewards import reward

FORMAT = re.compile(r"<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>\n?", re.DOTALL)
STEPS = re.compile(r"(Step \d+:|^\d+\.|\n-|\n\*|First,|Second,|Next,|Finally,)")
LIMIT = 1000


def parsed(text):
    """The last number of the text, with or without \\boxed."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return float(numbers[-1]) if numbers else None


def right(completion, gold):
    return parsed(completion) == parsed(gold)


@reward
def accuracy(completion, gold):
    return 1.0 if right(completion, gold) else 0.0


@reward
def think_format(completion):
    return 1.0 if FORMAT.fullmatch(completion) else 0.0


@reward
def cosine_length(completion, gold):
    low, high = (0.5, 1.0) if right(completion, gold) else (-0.5, -1.0)
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * len(completion) / LIMIT))


@reward
def repetition_penalty(completion):
    words = completion.lower().split()
    grams = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(grams)) / len(grams) - 1.0 if grams else 0.0


@reward
def reasoning_steps(completion):
    return min(1.0, len(STEPS.findall(completion)) / 3)
