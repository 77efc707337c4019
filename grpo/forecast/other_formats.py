r"""The answer format that completions have, where they do not have the one that is asked for.

Called by grpo/forecast/signal_rules.py. Candidates are the tags that completions close, and `\boxed{}`. It knows no
rule.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from grpo.config.rules import FORMAT_RULES
from grpo.tasks.answer_format import AnswerFormat, BoxedFormat, TagFormat

TAG = re.compile(r"<(/?)([A-Za-z_][\w.-]*)>")
CANDIDATES = 4  # names of tags, the most frequent ones
LEAST_SHARE = 0.05


@dataclass(frozen=True)
class OtherFormat:
    format: AnswerFormat
    share: float  # of the completions with reasoning and answer in this format


def best_other_format(completions: Sequence[str], requested: AnswerFormat) -> OtherFormat | None:
    """The format with the most complete completions; None if no other has at least `LEAST_SHARE`."""
    counts = {
        other: sum(map(other.has_reasoning_and_answer, completions)) / len(completions)
        for other in _candidates(completions)
        if other.setting != requested.setting
    }
    best = max(counts, key=lambda other: counts[other])
    return OtherFormat(best, counts[best]) if counts[best] >= LEAST_SHARE else None


def _candidates(completions: Sequence[str]) -> Iterator[AnswerFormat]:
    yield BoxedFormat()
    yield TagFormat()
    is_allowed, _ = FORMAT_RULES["format.answer"]
    names = Counter(name for text in completions for name in _closed_tags(text) if is_allowed(name))
    for reasoning, answer in permutations([name for name, _ in names.most_common(CANDIDATES)], 2):
        yield TagFormat(reasoning, answer)


def _closed_tags(text: str) -> set[str]:
    """The names of the tags that the text opens and then closes."""
    opened: set[str] = set()
    closed: set[str] = set()
    for slash, name in TAG.findall(text):
        if not slash:
            opened.add(name)
        elif name in opened:
            closed.add(name)
    return closed
