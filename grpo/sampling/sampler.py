"""The interface of every sampler: prompts as token ids in, completions as token ids out.

Training, evaluation and `grpo.sample` depend on this interface; `grpo.sampling.build` chooses the sampler behind it.
"""

from collections.abc import Sequence
from typing import Protocol

RowSeed = tuple[int, ...]  # the entropy of one row's random numbers, as numpy's SeedSequence takes it


class Sampler(Protocol):
    end_token_ids: list[int]  # the tokens that end a completion

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None = None,
        seeds: Sequence[RowSeed] | None = None,
    ) -> list[list[int]]:
        """One completion for each of the B prompts, up to and including its end token.

        Args:
            prompts: B lists of token ids of any length.
            temperature: None decodes greedily.
            seeds: one for each prompt; sampling then draws from them instead of torch's global generator.
        """

    def release_memory(self) -> None:
        """Free the memory that is reserved between calls."""
