"""Checks that a policy, its tokenizer, its chat template and the lengths of a run fit; adds a missing end token.

Every command that builds a policy calls `prepare_policy` before the first forward pass, where a mismatch would raise an
index error. This module does not know about training.
"""

import re
from collections.abc import Iterable
from typing import Any

from grpo.config.samplers import VLLM_ENGINES
from grpo.config.schema import CommonConfig
from grpo.core.errors import UserError
from grpo.policy.adapters import adapter_base_note
from grpo.policy.chat_template import ChatTemplate, Prompt, prompt_text
from grpo.policy.end_tokens import add_end_of_turn_token, find_end_token_ids
from grpo.policy.gguf_policy import tied_copy_note
from grpo.policy.prefix_sharing import unwrap_adapters

# Names of tables with one row for each position, learned or computed: GPT-2, OPT, GPT-J, CTRL, BERT. Policies with
# rotary positions have no such table.
POSITION_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|pos_\w+|position_embeddings?)(\.|$)")


def prepare_policy(policy: Any, tokenizer: Any, prompts: Iterable[Prompt], config: CommonConfig) -> list[str]:
    """Add the token that ends a turn to the policy's end tokens; check the policy for the prompts of the problems.

    Returns:
        Notes and warnings for the user.

    Raises:
        UserError: a token of a prompt has no row in the embeddings, no token can end a completion, or a prompt with its
            completion is longer than the policy's table of positions.
    """
    model = unwrap_adapters(policy)
    rows = model.get_input_embeddings().num_embeddings
    chat = ChatTemplate.of(tokenizer, config)
    notes = add_end_of_turn_token(model, chat, config.model.name, rows)
    _check_special_tokens(model, tokenizer, config.model.setting, rows)
    prompts = list({str(prompt): prompt for prompt in prompts}.values())
    if (largest := max(tokenizer.get_vocab().values())) >= rows:
        _check_prompts(chat, prompts, config, rows, largest)
    if config.model.gguf is not None and (note := tied_copy_note(config.model)):
        notes.append(note)
    if note := adapter_base_note(config.model):
        notes.append(note)
    notes += _check_lengths(model, chat, prompts, config)
    return notes + chat.notes(config.model.name, prompts)


def _check_special_tokens(model: Any, tokenizer: Any, setting: str, rows: int) -> None:
    if not find_end_token_ids(model, tokenizer):
        raise UserError(
            f"{setting}: no completion can end: eos_token {tokenizer.eos_token!r} has id "
            f"{tokenizer.eos_token_id}, and the policy's embeddings have {rows} rows. {_advice(tokenizer.eos_token_id)}"
        )
    if tokenizer.pad_token_id >= rows:
        raise UserError(
            f"{setting}: pad_token {tokenizer.pad_token!r} has id {tokenizer.pad_token_id}, and the policy's "
            f"embeddings have {rows} rows. Set pad_token in tokenizer_config.json to one that it has, such as "
            f"{tokenizer.eos_token!r}; padding is masked, so any token works."
        )


def _advice(largest: int) -> str:
    return (
        "Use the tokenizer that belongs to the policy, or give the policy as many rows and save it: "
        f"policy.resize_token_embeddings({largest + 1})."
    )


def _check_prompts(chat: ChatTemplate, prompts: list[Prompt], config: CommonConfig, rows: int, largest: int) -> None:
    """Check that every token of the prompts has a row in the embeddings.

    Other tokens of the vocabulary may lack one, as in Gemma 3's text models.
    """
    for ids in chat.prompt_ids(prompts):
        if (highest := max(ids)) >= rows:
            token = chat.tokenizer.convert_ids_to_tokens(highest)
            raise UserError(
                f"{config.model.setting}: the prompts contain {token!r}, a token with id {highest}, and the "
                f"policy's embeddings have {rows} rows. {_advice(largest)}"
            )


def position_limit(model: Any) -> tuple[int | None, bool]:
    """The number of positions that a policy supports, and whether longer texts fail instead of degrading.

    None: there is no limit, as in state space models and most models with ALiBi.
    """
    settings = model.config.get_text_config()
    limit = getattr(settings, "max_position_embeddings", None) or getattr(settings, "max_seq_len", None)
    if limit is None:
        return None, False
    named = (*model.named_parameters(), *model.named_buffers())
    # Some tables have up to two extra rows, for padding.
    table = any(
        tensor.ndim == 2 and 0 <= len(tensor) - limit <= 2 and POSITION_TABLE.search(name) for name, tensor in named
    )
    return limit, table or settings.model_type == "mpt"  # MPT's ALiBi tensor has that length


def _check_lengths(model: Any, chat: ChatTemplate, prompts: list[Prompt], config: CommonConfig) -> list[str]:
    limit, fixed = position_limit(model)
    if limit is None:
        return []
    completion = config.max_completion_length
    template_length = len(chat.prompt_ids(["?"])[0])
    # A token has at least one byte, so only prompts with many bytes need to be tokenized.
    long = [
        prompt
        for prompt in prompts
        if template_length + len(prompt_text(prompt).encode("utf-8", "replace")) + completion > limit
    ]
    prompt_length = max(map(len, chat.prompt_ids(long)), default=0)
    if prompt_length + completion <= limit:
        return []
    sizes = f"the longest prompt has {prompt_length:,} tokens, with its completion {prompt_length + completion:,}"
    positions = f"{config.model.name} has {limit:,} positions (max_position_embeddings)"
    advice = "Use shorter problems, or a shorter system_prompt."
    if prompt_length < limit:
        advice = f"Set max_completion_length={limit - prompt_length} or less."
    if fixed or config.rollout.name in VLLM_ENGINES:
        raise UserError(f"max_completion_length={completion}: {sizes}, and {positions}. {advice}")
    # Rotary positions can be computed for any length.
    return [f"Warning: {sizes}, and {positions}: beyond them its completions are unreliable. {advice}"]
