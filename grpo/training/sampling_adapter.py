"""Sampling inside TRL's trainer: completions come from our sampler, or from TRL's engine with its faults guarded.

Replaces, in TRL 1.16:
- `GRPOTrainer._tokenize_prompts`: it tokenizes each prompt K times.
- `GRPOTrainer._generate_single_turn`: it forwards each prompt K times, leaves a bfloat16 policy behind, and hands on
  what an engine that failed had finished.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import set_seed

from grpo.core import distributed
from grpo.core.device import free_memory
from grpo.core.errors import UserError, first_line
from grpo.core.paths import display_path
from grpo.policy.prefix_sharing import distinct
from grpo.sampling.policy_state import cast_for_engine, preserve_frozen_weights
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from grpo.sampling.sampler import Sampler
from grpo.training.base import BaseTrainer


class SamplingMixin(BaseTrainer):
    """The part of `Trainer` that samples."""

    def __init__(self, rollout: Sampler | None, **kwargs: Any) -> None:
        """`rollout`: ours; None samples with the engine that the arguments name."""
        super().__init__(**kwargs)
        if self.use_vllm:
            # It seeded this process anew as it started, whatever our seed; processes that share a copy need the same.
            set_seed(self.args.seed + self.accelerator.process_index // self.vllm_tensor_parallel_size)
            sync = self.vllm_generation.sync_weights
            self.vllm_generation.sync_weights = preserve_frozen_weights(self.model)(sync)
        self.rollout = rollout
        self.sampling = False
        self.before_sampling: Callable[[], None] = lambda: None

    def _tokenize_prompts(self, prompts: list) -> tuple[list, Any, dict]:
        """Each distinct prompt once."""
        first, group = distinct([json.dumps(prompt) for prompt in prompts])
        ids, images, fields = super()._tokenize_prompts([prompts[i] for i in first])
        return [ids[i] for i in group], images, fields

    def _generate_single_turn(
        self, prompt_ids: list, images: Any, multimodal_fields: dict, num_generations: int, *args: Any, **kwargs: Any
    ) -> tuple[list, list | None]:
        """Completions and, of vLLM, the log-probabilities that it sampled them with."""
        self.sampling = True
        self.recorder.progress.show_phase("sampling")
        logps = None
        if self.rollout is not None and (
            isinstance(self.rollout, PrefixSharingSampler) or distributed.weights_are_sharded()
        ):
            self.before_sampling()
            completions = self.rollout.complete(prompt_ids, self.args.max_completion_length, self.temperature)
        else:
            with self._lent(), self._served():
                completions, logps = super()._generate_single_turn(
                    prompt_ids, images, multimodal_fields, num_generations, *args, **kwargs
                )
        if self.rollout is None:
            self._require_whole(completions, len(prompt_ids))
        self.sampling = False
        return completions, logps

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """The policy as transformers' engine takes it; TRL itself would cast it for good."""
        if not self.use_transformers_continuous_batching:
            yield
            return
        bf16, self.args.bf16 = self.args.bf16, False
        try:
            with cast_for_engine(self.model, bf16):
                yield
        finally:
            self.args.bf16 = bf16

    @contextmanager
    def _served(self) -> Iterator[None]:
        """A server that fails ends the run in a line.

        TRL's client tries again for a minute, then raises what requests does, or an Exception of its own.
        """
        try:
            yield
        except Exception as error:
            asked = self.use_vllm and self.vllm_mode == "server"
            if not asked or not (isinstance(error, OSError) or str(error).startswith("Request failed")):
                raise
            raise UserError(
                f"step {self.state.global_step + 1}: the vLLM server at {self.args.vllm_server_base_url} failed: "
                f"{first_line(error)}. Checkpoints stay; once it runs again, resume={display_path(self.recorder.out)}."
            ) from error

    def _require_whole(self, completions: list[list[int]], wanted: int) -> None:
        """
        Raises:
            UserError: an engine failed; transformers' then returns what it had, were it nothing.
        """
        limit = self.args.max_completion_length
        ends = set(self.eos_token_ids)
        whole = sum(len(ids) == limit or bool(ids and ids[-1] in ends) for ids in completions)
        if whole < wanted:
            raise UserError(
                f"step {self.state.global_step + 1}: rollout={self.recorder.config.rollout.name} gave up on "
                f"{wanted - whole} of {wanted} completions; train.log may say why. Where memory ran out, lower "
                "max_completion_length or prompts_per_step; rollout=fast needs less."
            )

    def dismiss_engine(self) -> None:
        """Training is over: what vLLM holds is given back."""
        if not self.use_vllm:
            return
        if client := getattr(self.vllm_generation, "vllm_client", None):
            client.close_communicator()
        del self.vllm_generation
        if self.accelerator.num_processes == 1:
            # TRL set them for vLLM; the next job of a sweep would take itself for a part of a run of many processes.
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
                os.environ.pop(name, None)
        free_memory()
