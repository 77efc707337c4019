"""The tokens that end a completion: those of the tokenizer, of the generation config, and of the chat template.

`prepare_policy` adds the token of the chat template once; samplers and evaluations read the ids afterwards. This module
does not know what a completion says.
"""

from typing import Any

from grpo.policy.chat_template import ChatTemplate
from grpo.policy.prefix_sharing import unwrap_adapters


def find_end_token_ids(policy: Any, tokenizer: Any) -> list[int]:
    """The ids of the tokens that end a completion, from the tokenizer and the policy's generation config."""
    model = unwrap_adapters(policy)
    rows = model.get_input_embeddings().num_embeddings
    return sorted(token for token in {tokenizer.eos_token_id, *_declared_end_token_ids(model)} - {None} if token < rows)


def _declared_end_token_ids(model: Any) -> list[int]:
    declared = model.generation_config.eos_token_id
    return declared if isinstance(declared, list) else [] if declared is None else [declared]


def add_end_of_turn_token(model: Any, chat: ChatTemplate, path: str, rows: int) -> list[str]:
    """Add the token that ends a turn in the chat template to the generation config, which TRL reads as well.

    Args:
        path: the name of the policy, for the note.
        rows: the number of rows in its embeddings.

    Returns:
        A note for the user if the token was added.
    """
    end = chat.end_of_turn_id
    if end is None or end >= rows or end in find_end_token_ids(model, chat.tokenizer):
        return []
    model.generation_config.eos_token_id = [*_declared_end_token_ids(model), end]
    return [
        f"The chat template of {path} ends a turn with {chat.tokenizer.convert_ids_to_tokens(end)!r}, which its "
        "generation_config.json does not list (eos_token_id): this token ends completions as well."
    ]
