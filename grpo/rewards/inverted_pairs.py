"""Inverted pairs: two completions of one question of which the wrong one has the higher total.

Called by grpo/rewards/completion_scores.py. Each such pair makes the policy prefer the wrong completion. It knows
neither rewards nor files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo.core.statistics import Floats
from grpo.rewards.estimators import Bools


@dataclass(frozen=True)
class InvertedPairs:
    """The pairs of a right and a wrong completion of one question.

    Attributes:
        comparable: the number of pairs.
        inverted: how many of them have a higher total for the wrong completion.
        examples: (row of the wrong completion, row of the right one), one pair for each question, the largest lead
            first.
    """

    comparable: int
    inverted: int
    examples: list[tuple[int, int]]


def find_inverted_pairs(
    totals: Floats, is_correct: Bools, groups: Sequence[Sequence[int]], rounding: float
) -> InvertedPairs:
    """Compare each wrong completion of a group with each right one.

    Args:
        totals: (N,) the total of each completion; one without a total, nan, is in no pair.
        is_correct: (N,) whether it is right.
        groups: the rows of the completions of each question.
        rounding: the largest difference that counts as a rounding error.
    """
    comparable = inverted = 0
    examples: list[tuple[float, int, int]] = []
    for group in groups:
        rows = np.array(group)
        rows = rows[~np.isnan(totals[rows])]
        right, wrong = rows[is_correct[rows]], rows[~is_correct[rows]]
        comparable += len(right) * len(wrong)
        if not len(right) or not len(wrong):
            continue
        # The right completions with a lower total, for each wrong one.
        inverted += int(np.searchsorted(np.sort(totals[right]), totals[wrong] - rounding).sum())
        highest, lowest = wrong[np.argmax(totals[wrong])], right[np.argmin(totals[right])]
        if (lead := float(totals[highest] - totals[lowest])) > rounding:
            examples.append((lead, int(highest), int(lowest)))
    examples.sort(key=lambda example: -example[0])
    return InvertedPairs(comparable, inverted, [(wrong, right) for _, wrong, right in examples])
