"""The five rewards of the widely copied recipe, unchanged, with their faults (conf/rewards/verbatim.yaml).

Importing the module registers them. They share no code with grpo/rewards/built_in.py, which repairs these faults:
without DOTALL, strict and soft format exclude each other; a bare number counts as an answer; `isdigit` accepts `²` and
refuses `-5`; and a missing last line break charges for every character.
"""

import re

from grpo.rewards.registry import reward


def _verbatim_answer(completion: str) -> str:
    return completion.split("<answer>")[-1].split("</answer>")[0].strip()


@reward
def verbatim_correctness(completion: str, gold: str) -> float:
    """2.0 where whatever follows the last `<answer>` (or the whole text) is the gold text."""
    return 2.0 if _verbatim_answer(completion) == gold else 0.0


@reward
def verbatim_int(completion: str) -> float:
    """0.5 where that text satisfies `str.isdigit`."""
    return 0.5 if _verbatim_answer(completion).isdigit() else 0.0


@reward
def verbatim_strict_format(completion: str) -> float:
    """0.5 where reasoning and answer are one line each, on lines of their own."""
    pattern = r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$"
    return 0.5 if re.match(pattern, completion) else 0.0


@reward
def verbatim_soft_format(completion: str) -> float:
    """0.5 where reasoning and answer stand on one line."""
    return 0.5 if re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", completion) else 0.0


@reward
def verbatim_xmlcount(completion: str) -> float:
    """0.125 a tag with its line breaks; characters after the answer are charged twice, without a floor."""
    score = 0.125 * (completion.count("<reasoning>\n") == 1) + 0.125 * (completion.count("\n</reasoning>\n") == 1)
    if completion.count("\n<answer>\n") == 1:
        score += 0.125 - 0.001 * len(completion.split("\n</answer>\n")[-1])
    if completion.count("\n</answer>") == 1:
        score += 0.125 - 0.001 * (len(completion.split("\n</answer>")[-1]) - 1)
    return score
