"""Scores of an audit: a reward that fails on a completion is a finding there, and does not end the command.

Called by grpo/rewards/probe_scores.py and completion_scores.py. It knows no probes and no weights.
"""

import math
from dataclasses import dataclass, field

from grpo.core.errors import UserError
from grpo.rewards.calls import without_completion
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack

THEN = "A run stops at such a completion."


@dataclass(frozen=True)
class AuditedScores:
    """The scores of a reward, nan where it abstains or fails, and the error of each row on which it fails."""

    scores: list[float]
    errors: dict[int, UserError] = field(default_factory=dict)

    def describe_first(self, name: str) -> str:
        """What the reward `name` does on the first completion on which it fails."""
        return without_completion(name, next(iter(self.errors.values())))


def audit_scores(stack: RewardStack, name: str, batch: ScoringBatch) -> AuditedScores:
    """The scores of one reward for a batch; if it fails, those of the completions one by one.

    Raises:
        UserError: it fails on the batch, and on none of its completions alone.
    """
    try:
        return AuditedScores(stack.score_one(name, batch))
    except UserError as error:
        of_batch = error
    result = AuditedScores([])
    for row in range(len(batch.completions)):
        try:
            result.scores.extend(stack.score_one(name, batch.rows(row, row + 1)))
        except UserError as error:
            result.errors[row] = error
            result.scores.append(math.nan)
    if not result.errors:
        raise of_batch
    return result


def require_scores(audited: AuditedScores) -> AuditedScores:
    """`audited` itself.

    Raises:
        UserError: the reward fails on every completion.
    """
    if audited.errors and len(audited.errors) == len(audited.scores):
        raise next(iter(audited.errors.values()))
    return audited
