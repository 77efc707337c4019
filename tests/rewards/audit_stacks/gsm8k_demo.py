"""The idea of the widely copied GSM8K demo: five rewards for a number in an XML format of four tags."""

import re

from grpo.rewards import reward

LINES = re.compile(r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")
INLINE = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>")


def last_answer(text):
    return text.split("<answer>")[-1].split("</answer>")[0].strip()


@reward
def demo_correctness(completion, gold):
    return 2.0 if last_answer(completion) == gold else 0.0


@reward
def demo_int(completion):
    return 0.5 if last_answer(completion).isdigit() else 0.0


@reward
def demo_strict_format(completion):
    return 0.5 if LINES.match(completion) else 0.0


@reward
def demo_soft_format(completion):
    return 0.5 if INLINE.match(completion) else 0.0


@reward
def demo_xmlcount(completion):
    score = 0.125 * (completion.count("<reasoning>\n") == 1) + 0.125 * (completion.count("\n</reasoning>\n") == 1)
    if completion.count("\n<answer>\n") == 1:
        score += 0.125 - 0.001 * len(completion.split("\n</answer>\n")[-1])
    if completion.count("\n</answer>") == 1:
        score += 0.125 - 0.001 * (len(completion.split("\n</answer>")[-1]) - 1)
    return score
