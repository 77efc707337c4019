"""Sampling with transformers' own `generate`: the reference for the project's own sampler, and its fallback.

Built by `grpo.sampling.build`. It works with every policy that transformers can generate from.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from grpo.policy.end_tokens import find_end_token_ids
from grpo.policy.prefix_sharing import unwrap_adapters
from grpo.sampling.policy_state import sampling_mode
from grpo.sampling.sampler import RowSeed


class GenerateSampler:
    """A `Sampler` that calls `generate` with its own settings instead of the policy's `generation_config`.

    `seeds` make a batch reproducible, not each row by itself: all rows draw from the first seed.
    """

    def __init__(self, policy: Any, tokenizer: PreTrainedTokenizerBase, bf16: bool, **parameters: float) -> None:
        """`parameters`: top_p, top_k, min_p or repetition_penalty; without any, samples follow the policy."""
        self.policy, self.tokenizer, self.bf16 = policy, tokenizer, bf16
        self.sampling_parameters = parameters
        self.end_token_ids = find_end_token_ids(policy, tokenizer)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None = None,
        seeds: Sequence[RowSeed] | None = None,
    ) -> list[list[int]]:
        """As `Sampler.complete`; the prompts are padded on the left to (B, P)."""
        encoded = self.tokenizer.pad(
            [{"input_ids": list(ids)} for ids in prompts], padding_side="left", return_tensors="pt"
        ).to(self.policy.device)
        with (
            sampling_mode(self.policy, self.bf16),
            self._generation_config(temperature),
            torch.random.fork_rng(enabled=bool(seeds)),
        ):
            if seeds:
                torch.manual_seed(int(np.random.SeedSequence(seeds[0]).generate_state(1)[0]))
            generated = self.policy.generate(**encoded, max_new_tokens=max_new_tokens)  # (B, P + C)
        rows = generated[:, encoded["input_ids"].shape[1] :].tolist()
        return [row[: next((n for n, token in enumerate(row, 1) if token in self.end_token_ids), None)] for row in rows]

    def release_memory(self) -> None:
        """`generate` reserves no memory between calls."""

    @contextmanager
    def _generation_config(self, temperature: float | None) -> Iterator[None]:
        # `generate` takes every unset value from the policy's own config, so that is replaced for the duration.
        model = unwrap_adapters(self.policy)
        original = model.generation_config
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
        settings = (sampling if temperature else {"do_sample": False}) | self.sampling_parameters
        model.generation_config = GenerationConfig(
            **settings,
            eos_token_id=self.end_token_ids,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=original.bos_token_id,
        )
        try:
            yield
        finally:
            model.generation_config = original
