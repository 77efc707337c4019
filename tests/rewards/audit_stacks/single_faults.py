"""Rewards with one fault each."""

import re

from grpo.rewards import reward


def block(completion):
    found = re.findall(r"<answer>\s*(.*?)\s*</answer>", completion, re.DOTALL)
    return found[-1] if found else ""


def number(text):
    found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return float(found[-1]) if found else None


@reward
def closeness(completion, gold):
    """Credit for a near miss."""
    value = number(block(completion))
    return 0.0 if value is None else max(0.0, 1.0 - abs(value - number(gold)) / 10)


@reward
def gold_in_answer(completion, gold):
    return 1.0 if gold in block(completion) else 0.0


@reward
def gold_anywhere(completion, gold):
    return 1.0 if gold in completion else 0.0


@reward
def truncated_number(completion, gold):
    value = number(block(completion))
    return 1.0 if value is not None and int(value) == number(gold) else 0.0


@reward
def truthy_number(completion, gold):
    """`0` is false, and so is no answer."""
    return 1.0 if (number(block(completion)) or None) == (number(gold) or None) else 0.0


@reward
def falsy_gold(completion, gold):
    return 1.0 if number(gold) and number(block(completion)) == number(gold) else 0.0


@reward
def boxed_only(completion, gold):
    return 1.0 if f"\\boxed{{{gold}}}" in completion else 0.0


@reward
def plain_number_only(completion, gold):
    return 1.0 if block(completion) == gold else 0.0


@reward
def evaluated(completion, gold):
    try:
        return 1.0 if eval(block(completion)) == float(gold) else 0.0
    except Exception:
        return 0.0


@reward
def parsed_safely(completion, gold):
    import ast

    try:
        return 1.0 if ast.literal_eval(block(completion)) == float(gold) else 0.0
    except (ValueError, SyntaxError):
        return 0.0


@reward
def zero_or_two(completion, gold):
    return 2.0 if number(block(completion)) == number(gold) else 0.0


@reward
def minus_or_plus_one(completion, gold):
    return 1.0 if number(block(completion)) == number(gold) else -1.0


@reward
def number_or_nothing(completion, gold):
    value = number(block(completion))
    return None if value is None else float(value == number(gold))
