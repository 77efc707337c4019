"""The idea of the Countdown recipes: a format, and an equation that uses the numbers and is evaluated with `eval`."""

import re

from grpo.rewards import reward


def equation(text):
    found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return found[-1].strip() if found else None


@reward
def countdown_format(completion):
    return 0.1 if re.search(r"<think>.*?</think>\s*<answer>.*?</answer>", completion, re.DOTALL) else 0.0


@reward
def countdown_equation(completion, example):
    text = equation(completion)
    if text is None or sorted(map(int, re.findall(r"\d+", text))) != sorted(example.columns["nums"]):
        return 0.0
    if not re.fullmatch(r"[\d+\-*/().\s]+", text):
        return 0.0
    try:
        return 1.0 if abs(eval(text, {"__builtins__": None}, {}) - example.columns["target"]) < 1e-5 else 0.0
    except Exception:
        return 0.0
