"""The interface of every sampler: prompts as token ids in, completions as token ids out.

Training, evaluation and `grpo.sample` depend on this interface; `grpo.sampling.build` chooses the sampler behind it.
"""

from collections.abc import Sequence
from typing import Protocol

RowSeed = tuple[int, ...]


class Sampler(Protocol):
    eos_token_ids: list[int]  # the ids that end a completion

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None = None,
        seeds: Sequence[RowSeed] | None = None,
    ) -> list[list[int]]:
        """One completion for each prompt, up to and with its end token; greedy without a temperature.

        With `seeds`, one for each prompt, sampling draws from them instead of torch's own generator.
        """

    def release_memory(self) -> None:
        """Give back the memory that is held from one call to the next."""
