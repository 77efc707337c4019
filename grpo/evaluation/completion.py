"""One completion as it is scored, and the batches in which completions are generated.

Called by the modules that generate, read and score completions. It imports nothing of the package.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Completion:
    """A completion of a problem."""

    text: str
    tokens: int | None  # the end-of-sequence token included; None if unknown
    truncated: bool | None
    ids: tuple[int, ...] | None = None  # the tokens


SampleId = tuple[int, int]  # which problem, and which of its samples
CompletionBatch = dict[SampleId, Completion]
