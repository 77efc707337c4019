"""Completions of questions by a sampler, in batches that fit into memory.

Called by training runs, `grpo.evaluate` and `grpo.sample`. It must not score them.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import TYPE_CHECKING

from grpo.config.schema import CommonConfig
from grpo.core.console import say
from grpo.core.device import is_out_of_memory
from grpo.core.errors import UserError
from grpo.core.text import replace_surrogates
from grpo.evaluation.completion import Completion, CompletionBatch, SampleId
from grpo.policy.chat_template import ChatTemplate, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from grpo.sampling.sampler import Sampler


def generate_completions(
    sampler: "Sampler",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    config: CommonConfig,
    samples: int = 1,
    temperature: float = 0.0,
    skip: Set[SampleId] = frozenset(),
    numbers: Sequence[int] | None = None,
) -> Iterator[CompletionBatch]:
    """Completions of every prompt in batches, longest prompts first; greedy at temperature 0.

    A sampled completion depends only on the seed, the number of its prompt and its own number, so that neither an
    interruption nor the batch size changes it. When memory runs out, the batch is halved and a message printed.

    Args:
        skip: completions that exist already.
        numbers: of the prompts, if this process has only some of them; None: their indices.

    Raises:
        UserError: there is not enough memory for a single completion.
    """
    if not prompts:
        return
    chat = ChatTemplate.of(tokenizer, config)
    token_ids = chat.prompt_ids(prompts)
    order = sorted(range(len(token_ids)), key=lambda i: -len(token_ids[i]))
    ids = [sample_id for i in order for number in range(samples) if (sample_id := (i, number)) not in skip]
    size, start = config.eval_batch_size, 0
    while start < len(ids):
        batch = ids[start : start + size]
        seeds = [(config.seed, numbers[i] if numbers else i, sample) for i, sample in batch] if temperature else None
        try:
            completions = sampler.complete(
                [token_ids[i] for i, _ in batch], config.max_completion_length, temperature or None, seeds
            )
        except (MemoryError, RuntimeError) as error:
            size = _halve_batch(len(batch), error)
            continue
        texts = map(replace_surrogates, chat.completion_texts(completions))
        yield {
            sample_id: Completion(text, len(tokens), tokens[-1] not in sampler.end_token_ids, tuple(tokens))
            for sample_id, text, tokens in zip(batch, texts, completions, strict=True)
        }
        start += len(batch)


def _halve_batch(size: int, error: Exception) -> int:
    from accelerate.utils.memory import clear_device_cache

    if not is_out_of_memory(error):
        raise error
    clear_device_cache(garbage_collection=True)
    if size == 1:
        raise UserError("out of memory with a single completion; lower max_completion_length.") from error
    say(f"Out of memory with {size} completions at once: continuing with eval_batch_size={size // 2}.")
    return size // 2


def generate_greedily(
    sampler: "Sampler", tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt], config: CommonConfig
) -> list[str]:
    """One greedy completion for each question."""
    return texts_in_order(generate_completions(sampler, tokenizer, prompts, config))


def texts_in_order(batches: Iterable[CompletionBatch]) -> list[str]:
    """The texts in the order of their prompts; `batches` have one completion for each prompt."""
    texts = {i: completion.text for batch in batches for (i, _), completion in batch.items()}
    return [texts[i] for i in range(len(texts))]
