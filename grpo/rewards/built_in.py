"""The five rewards of the default stack (conf/rewards/default.yaml), each a small function of one completion.

Importing this module registers them. They know the answer format (grpo/tasks/answer_format.py) and nothing of weights.
"""

import re

from grpo.rewards.registry import reward
from grpo.tasks.answer_format import TAGS, extract_answer
from grpo.tasks.answer_type import AnswerType
from grpo.tasks.example import Example
from grpo.tasks.numbers import INTEGER


@reward
def correctness(completion: str, example: Example, answer_type: AnswerType) -> float:
    """2.0 if the answer in the requested format is right by `answer_type`, the type of data.answer."""
    answer = answer_type.extract(completion)
    return 2.0 if answer is not None and answer_type.matches(answer, example) else 0.0


@reward
def int_(completion: str) -> float:
    """0.5 if the answer in the last closed answer block is an integer in ASCII digits; thousands commas are allowed."""
    answer = extract_answer(completion)
    return 0.5 if answer is not None and INTEGER.fullmatch(answer) else 0.0


@reward
def strict_format(completion: str) -> float:
    """0.5 if the completion is exactly the format: each tag once and on its own line, and no block is blank."""
    lines = completion.removesuffix("\n").split("\n")
    if lines[0] != "<reasoning>" or lines[-1] != "</answer>" or any(completion.count(tag) != 1 for tag in TAGS):
        return 0.0
    if "</reasoning>" not in lines:
        return 0.0
    close = lines.index("</reasoning>")
    if lines[close + 1] != "<answer>":
        return 0.0
    reasoning, answer = lines[1:close], lines[close + 2 : -1]
    return 0.5 if "".join(reasoning).strip() and "".join(answer).strip() else 0.0


@reward
def soft_format(completion: str) -> float:
    """0.5 if a closed reasoning block is followed by a closed answer block anywhere, and neither is blank."""
    last_answer_close = completion.rfind("</answer>")
    last_end, end = last_answer_close + len("</answer>"), 0
    while (close := completion.find("</reasoning>", end, max(0, last_answer_close))) != -1:
        start = completion.rfind("<reasoning>", end, close)
        end = close + len("</reasoning>")
        blank = start == -1 or not completion[start + len("<reasoning>") : close].strip()
        if not blank and _OPEN_ANSWER.match(completion, end, last_end):
            return 0.5
    return 0.0


@reward
def xmlcount(completion: str) -> float:
    """0.125 for each tag that occurs once and on its own line, minus 0.001 per character after `</answer>`."""
    lines = completion.split("\n")
    tags = sum(completion.count(tag) == 1 and tag in lines for tag in TAGS)
    _, closed, tail = completion.rpartition("</answer>")
    charged = len(tail.removeprefix("\n")) if closed else 0
    return max(0.0, 0.125 * tags - 0.001 * charged)


_OPEN_ANSWER = re.compile(r"\s*<answer>(?!\s*</answer>)")
