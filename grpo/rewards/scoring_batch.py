"""`ScoringBatch`: completions with what a reward can ask for by name.

Made by the trainer, the evaluation and `grpo.audit`, and passed to grpo/rewards/scoring.py. It knows no reward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grpo.tasks.example import Example


@dataclass(frozen=True)
class ScoringBatch:
    """N completions to score; the completions of one prompt are adjacent.

    Attributes:
        completions: (N,) the texts.
        examples: (N,) the problem that each completion answers.
    """

    completions: Sequence[str]
    examples: Sequence[Example]
