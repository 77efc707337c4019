"""The policy's chat template: prompts as token ids, the token that ends a turn, the tag that a prompt ends with.

The loader, the samplers and the data sets call it. It does not know about answers or rewards.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grpo.core.errors import UserError, first_line

Message = dict[str, str]
Prompt = str | tuple[Message, ...]  # a question, or the messages of a conversation


@dataclass(frozen=True)
class TemplateFraming:
    """What the policy's chat template writes before and after a completion."""

    opened_tag: str | None = None  # the tag that the prompt ends with, such as <think>
    end_tokens: tuple[str, ...] = ()  # the tokens that end a completion


UNKNOWN_FRAMING = TemplateFraming()


def build_messages(prompt: Prompt, system_prompt: str) -> list[Message]:
    """The chat messages of a prompt; `system_prompt` is left out if it is empty, or if the prompt has its own."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not system_prompt or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt without system prompt and chat template."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def prompt_ids(tokenizer: Any, prompts: Sequence[Prompt], system_prompt: str) -> list[list[int]]:
    """The token ids of each prompt with the start of the assistant's turn, without padding.

    Raises:
        UserError: the chat template refuses the prompt.
    """
    if not prompts:
        return []
    chats = [build_messages(prompt, system_prompt) for prompt in prompts]
    with _template_errors():
        encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)
    return encoded["input_ids"]


@contextmanager
def _template_errors() -> Iterator[None]:
    """Convert the errors that a chat template, a program by the policy's author, can raise to a `UserError`."""
    import jinja2

    try:
        yield
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise UserError(
            f"the policy's chat template refuses the prompt: {first_line(error)}. If it takes no system role: "
            "system_prompt=''."
        ) from error


def find_end_of_turn_id(tokenizer: Any) -> int | None:
    """The id of the special token that follows the assistant's text in the chat template; None if there is none.

    If a conversation ends without such a token, as in GLM-4's template, the first token of the next turn ends the turn.
    """
    reply = "42 pens"
    turns = [*build_messages("How many?", ""), {"role": "assistant", "content": reply}, *build_messages("Why?", "")]
    for conversation in (turns[:2], turns):
        try:
            with _template_errors():
                text = tokenizer.apply_chat_template(conversation, tokenize=False)
        except UserError:  # the template refuses it
            return None
        after = text.rpartition(reply)[2].lstrip() if reply in text else ""
        for token in tokenizer(after, add_special_tokens=False)["input_ids"][:1]:
            if token in tokenizer.added_tokens_decoder or token in tokenizer.all_special_ids:
                return int(token)
    return None


def find_opened_tag(tokenizer: Any, system_prompt: str) -> str | None:
    """The tag that the chat template writes at the end of a prompt, such as `<think>`; completions lack it."""
    with _template_errors():
        text = tokenizer.apply_chat_template(
            build_messages("?", system_prompt), add_generation_prompt=True, tokenize=False
        )
    tag = re.search(r"<\w+>(?=\s*$)", text)
    return tag[0] if tag and tag[0] not in tokenizer.all_special_tokens else None
