"""The five rewards of the widely copied recipe, unchanged, with their faults (conf/rewards/verbatim.yaml).

Importing this module registers them. They share no code with grpo/rewards/built_in.py, which repairs these faults:
without DOTALL, strict and soft format exclude each other; a bare number counts as an answer; `isdigit` accepts `²` and
refuses `-5`; and a missing last line break charges for every character.
"""

import re

from grpo.rewards.registry import reward


def _verbatim_answer(completion: str) -> str:
    return completion.split("<answer>")[-1].split("</answer>")[0].strip()


@reward
def verbatim_correctness(completion: str, gold: str) -> float:
    """2.0 if the text after the last `<answer>`, or the complete text without a tag, is the reference answer."""
    return 2.0 if _verbatim_answer(completion) == gold else 0.0


@reward
def verbatim_int(completion: str) -> float:
    """0.5 if the text after the last `<answer>` satisfies `str.isdigit`."""
    return 0.5 if _verbatim_answer(completion).isdigit() else 0.0


@reward
def verbatim_strict_format(completion: str) -> float:
    """0.5 if reasoning and answer are one line each, with each tag on its own line."""
    pattern = r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$"
    return 0.5 if re.match(pattern, completion) else 0.0


@reward
def verbatim_soft_format(completion: str) -> float:
    """0.5 if reasoning and answer are on one line."""
    return 0.5 if re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", completion) else 0.0


@reward
def verbatim_xmlcount(completion: str) -> float:
    """0.125 per tag with its line breaks, minus 0.001 per character after the answer, charged twice, with no floor."""
    score = 0.125 * (completion.count("<reasoning>\n") == 1) + 0.125 * (completion.count("\n</reasoning>\n") == 1)
    if completion.count("\n<answer>\n") == 1:
        score += 0.125 - 0.001 * len(completion.split("\n</answer>\n")[-1])
    if completion.count("\n</answer>") == 1:
        score += 0.125 - 0.001 * (len(completion.split("\n</answer>")[-1]) - 1)
    return score
