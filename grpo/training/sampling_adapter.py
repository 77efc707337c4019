"""Sampling inside TRL's trainer: completions come from one of our samplers, or from an engine that TRL drives.

Replaces three methods of `GRPOTrainer` (TRL 1.16):

- `_tokenize_prompts` tokenizes the K copies of each prompt. Ours tokenizes one.
- `_generate_single_turn` forwards each prompt K times. Ours calls the prefix-sharing sampler. With `rollout=generate`
  and with engines TRL's method runs, wrapped: it leaves the policy in bfloat16 (continuous batching), raises long
  errors (vLLM server) and returns the completions of an engine that failed as if they were complete.
- `_generate` calls both and decodes the completions. Ours puts the text that the prompt opens, such as `<think>`,
  before them, and decodes them as evaluations do: with a response template, TRL leaves out their reasoning.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from transformers import set_seed

from grpo.core import distributed
from grpo.core.device import free_memory
from grpo.core.errors import UserError, first_line
from grpo.core.paths import display_path
from grpo.policy.chat_template import ChatTemplate
from grpo.sampling.policy_state import cast_for_engine, preserve_frozen_weights
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from grpo.sampling.sampler import Sampler
from grpo.training.base import BaseTrainer

# The attributes of a tokenizer with which TRL takes completions apart; older transformers have the second.
RESPONSE_PARSERS = ("response_template", "response_schema")


class SamplingMixin(BaseTrainer):
    """The part of `Trainer` that samples completions.

    Attributes:
        chat: decodes completions as they are scored.
        sampler: ours, called if it shares prefixes or the weights are sharded; None if TRL drives an engine.
        before_sampling: called before our sampler runs, to bring its copy of the weights up to date.
        is_sampling: whether a failure, such as out of memory, comes from sampling.
    """

    def __init__(self, sampler: Sampler | None, chat: ChatTemplate, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chat = chat
        if self.use_vllm:
            # vLLM sets the seed of this process when it starts. Set ours again; processes that share a copy of the
            # policy in vLLM need the same seed.
            set_seed(self.args.seed + self.accelerator.process_index // self.vllm_tensor_parallel_size)
            sync = self.vllm_generation.sync_weights
            self.vllm_generation.sync_weights = preserve_frozen_weights(self.model)(sync)
        self.sampler = sampler
        self.before_sampling: Callable[[], None] = lambda: None
        self.is_sampling = False

    def _tokenize_prompts(self, prompts: list) -> tuple[list, Any, dict]:
        """As in TRL, but equal prompts that are adjacent, as the K copies of a group are, are tokenized once."""
        runs = [(prompt, len(list(copies))) for prompt, copies in groupby(prompts)]
        ids, images, fields = super()._tokenize_prompts([prompt for prompt, _ in runs])
        return [row for row, (_, count) in zip(ids, runs, strict=True) for _ in range(count)], images, fields

    def _generate(self, prompts: list) -> tuple:
        """As in TRL, with completions as texts of `ChatTemplate.completion_texts`; token ids stay as sampled."""
        result = super()._generate(prompts)
        _, completion_ids, _, completions, *_ = result
        if self.chat.opened or any(getattr(self.processing_class, name, None) for name in RESPONSE_PARSERS):
            texts = self.chat.completion_texts(completion_ids)
            completions[:] = [[{"role": "assistant", "content": text}] for text in texts]
        return result

    def _generate_single_turn(
        self, prompt_ids: list, images: Any, multimodal_fields: dict, num_generations: int, *args: Any, **kwargs: Any
    ) -> tuple[list, list | None]:
        """One completion for each of the prompts and, from vLLM, the log-probabilities it was sampled with.

        Our sampler finds equal prompts by their tokens: it also merges two groups that have the same prompt.
        """
        self.is_sampling = True
        self.recorder.progress.show_phase("sampling")
        logps = None
        sharded = distributed.weights_are_sharded()
        if self.sampler is not None and (isinstance(self.sampler, PrefixSharingSampler) or sharded):
            self.before_sampling()
            completions = self.sampler.complete(prompt_ids, self.args.max_completion_length, self.temperature)
        else:
            with self._cast_for_engine(), self._server_errors_in_one_line():
                completions, logps = super()._generate_single_turn(
                    prompt_ids, images, multimodal_fields, num_generations, *args, **kwargs
                )
        if self.sampler is None:
            self._check_complete(completions, len(prompt_ids))
        self.is_sampling = False
        return completions, logps

    @contextmanager
    def _cast_for_engine(self) -> Iterator[None]:
        """For continuous batching, cast the policy and restore it. TRL casts it if `args.bf16`, and leaves it so."""
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
    def _server_errors_in_one_line(self) -> Iterator[None]:
        """
        Raises:
            UserError: the vLLM server failed. TRL's client retries for a minute, then raises an error of requests or
                a plain Exception.
        """
        try:
            yield
        except Exception as error:
            uses_server = self.use_vllm and self.vllm_mode == "server"
            if not uses_server or not (isinstance(error, OSError) or str(error).startswith("Request failed")):
                raise
            raise UserError(
                f"step {self.state.global_step + 1}: the vLLM server at {self.args.vllm_server_base_url} failed: "
                f"{first_line(error)}. Checkpoints stay; once it runs again, resume={display_path(self.recorder.out)}."
            ) from error

    def _check_complete(self, completions: list[list[int]], count: int) -> None:
        """
        Raises:
            UserError: an engine failed. Continuous batching then returns what it has, even if that is nothing.
        """
        limit = self.args.max_completion_length
        end_token_ids = set(self.eos_token_ids)
        complete = sum(len(ids) == limit or bool(ids and ids[-1] in end_token_ids) for ids in completions)
        if complete < count:
            raise UserError(
                f"step {self.state.global_step + 1}: rollout={self.recorder.config.rollout.name} gave up on "
                f"{count - complete} of {count} completions; train.log may say why. If memory ran out, lower "
                "max_completion_length or prompts_per_step; rollout=fast needs less."
            )

    def close_engine(self) -> None:
        """Release what vLLM holds, once training is over."""
        if not self.use_vllm:
            return
        if client := getattr(self.vllm_generation, "vllm_client", None):
            client.close_communicator()
        del self.vllm_generation
        if self.accelerator.num_processes == 1:
            # TRL set these for vLLM. With them, the next job of a sweep would take itself for one of many processes.
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
                os.environ.pop(name, None)
        free_memory()
