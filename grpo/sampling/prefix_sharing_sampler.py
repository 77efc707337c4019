"""The project's own sampler: each distinct prompt is computed once for all of its completions.

Built by `grpo.sampling.build`. It prefills the prompts (`kv_cache`), then decodes with shared slots (`trie_decode`) or
with CUDA graphs (`cuda_graphs`). It knows nothing of rewards or training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from grpo.core.console import say
from grpo.policy.compatibility import end_tokens
from grpo.policy.prefix_sharing import Unsupported, causal_lm, distinct, forward, share_prompts
from grpo.sampling.cuda_graphs import Graphs
from grpo.sampling.generate_sampler import Generate
from grpo.sampling.kv_cache import Prefill
from grpo.sampling.policy_state import sampling
from grpo.sampling.sampler import Seed
from grpo.sampling.token_sampler import Decoder, Sampler, Transformers
from grpo.sampling.trie_decode import run_merged


def fallback(reason: Unsupported) -> str:
    return f"rollout=fast does not go with this policy: {reason}. Sampling goes on as with rollout=generate."


class Fast:
    """Computes each distinct prompt once, keeps its keys and values once for all of its completions, and computes
    completions once for as long as they are alike. Those that have ended are dropped.

    Sampling is by inverse CDF from one uniform number a token. The numbers come from torch's own CPU generator, whose
    state is part of every checkpoint, and belong to the rows: what a row gets does not hang on the rows beside it.
    """

    def __init__(self, policy: Any, tokenizer: PreTrainedTokenizerBase, bf16: bool, native: bool) -> None:
        """
        Raises:
            Unsupported: the policy cannot run on shared prompts.
        """
        share_prompts(policy)
        self.policy, self.tokenizer, self.bf16 = policy, tokenizer, bf16
        self.instead: Generate | None = None
        model = causal_lm(policy)
        self.is_end = torch.zeros(model.config.get_text_config().vocab_size, dtype=torch.bool, device=model.device)
        self.ends = end_tokens(policy, tokenizer)
        self.is_end[self.ends] = True
        self.decoder: Decoder = Transformers(policy)
        self.graphs: Graphs | None = None
        if native:
            from grpo.sampling.qwen2 import Qwen2

            if Qwen2.knows(policy):
                self.decoder = Qwen2(policy, torch.bfloat16 if bf16 else model.dtype)
                self.graphs = Graphs() if model.device.type == "cuda" else None

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None = None,
        seeds: Sequence[Seed] | None = None,
    ) -> list[list[int]]:
        if self.instead is None:
            try:
                return self._complete(prompts, max_new_tokens, temperature, seeds)
            except Unsupported as reason:
                say(fallback(reason))
                self.instead = Generate(self.policy, self.tokenizer, self.bf16)
        return self.instead.complete(prompts, max_new_tokens, temperature, seeds)

    def rest(self) -> None:
        if self.graphs:
            self.graphs.forget()

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float | None,
        seeds: Sequence[Seed] | None,
    ) -> list[list[int]]:
        model = causal_lm(self.policy)
        first, group = distinct([tuple(ids) for ids in prompts])
        uniforms = None
        if temperature is not None and seeds is None:
            uniforms = torch.rand(len(prompts), max_new_tokens, dtype=torch.float64)
        elif temperature is not None and seeds is not None:
            drawn = [np.random.default_rng(seed).random(max_new_tokens) for seed in seeds]
            uniforms = torch.from_numpy(np.stack(drawn))
        with sampling(self.policy, self.bf16):
            prefill = Prefill([list(prompts[i]) for i in first], model.device)
            self.decoder.refresh()
            if len(prefill.ids):
                forward(model.base_model, prefill)
            if self.graphs:
                torch.clear_autocast_cache()  # weights cast for the prefill, which the decoder has copies of
            sampler = Sampler(self.decoder, temperature, self.is_end)
            run = self.graphs.run if self.graphs else run_merged
            return run(sampler, prefill, group, uniforms, max_new_tokens)
