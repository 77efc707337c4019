"""One completion as it is scored, and the batches in which completions are generated.

Called by the modules that generate, read and score completions. It knows no policy and no reward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grpo.rewards.scoring_batch import ScoringBatch
from grpo.tasks.example import Example


@dataclass(frozen=True)
class Completion:
    """A completion of a problem."""

    text: str
    tokens: int | None  # the end-of-sequence token included; None if unknown
    truncated: bool | None
    ids: tuple[int, ...] | None = None  # the tokens


SampleId = tuple[int, int]  # which problem, and which of its samples
CompletionBatch = dict[SampleId, Completion]


def scoring_batch(completions: Sequence[Completion], examples: Sequence[Example]) -> ScoringBatch:
    """The N completions of `examples` (N,) as rewards receive them."""
    ids = [list(completion.ids) for completion in completions if completion.ids is not None]
    return ScoringBatch(
        [completion.text for completion in completions],
        examples,
        completion_ids=ids if len(ids) == len(completions) else None,
        completion_tokens=[completion.tokens for completion in completions],
        truncated=[completion.truncated for completion in completions],
    )
