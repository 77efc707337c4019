"""A prompt or a completion as a list of chat messages, as verl, open-r1 and TRL store it in a column.

Called by the readers of rows. It knows neither the chat template nor the system prompt of a run.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from grpo.core.errors import UserError, shorten
from grpo.policy.chat_template import Message, prompt_text

_CHAT_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:""")
ROLES = ("system", "developer", "user", "assistant", "tool")


def is_chat(value: Any) -> bool:
    """Whether `value` is a list of messages, each with a role."""
    return (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)
    )


def is_chat_text(value: Any) -> bool:
    """Whether `value` is text that begins like the JSON of such a list, or the same in Python's notation."""
    return isinstance(value, str) and _CHAT_TEXT.match(value) is not None


def parse_chat(value: Any, column: str) -> Any:
    """The list of messages in JSON text.

    Raises:
        UserError: `value` is something else.
    """
    try:
        messages = json.loads(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"'{column}' is {shorten(repr(value))}, not chat messages as JSON: {error}.") from error
    if not is_chat(messages):
        raise UserError(f"'{column}' is {shorten(value)}; it must be a list of messages, each with a role.")
    return messages


def read_chat(value: Any, column: str) -> tuple[Message, ...]:
    """The messages in `value` up to the last of the user; the assistant's turns after it are no part of the prompt.

    Raises:
        UserError: a message has an unknown role or no text, or none is the user's.
    """
    messages = [_read_message(message, f"'{column}', message {n}") for n, message in enumerate(value, start=1)]
    while messages and messages[-1]["role"] != "user":
        messages.pop()
    if not messages:
        raise UserError(f"'{column}' has no message of the user; its roles are {_roles(value)}.")
    return tuple(messages)


def chat_question(messages: Sequence[Message]) -> str:
    """The question of a chat: the user's message if there is one, else all turns without the system message."""
    return prompt_text(tuple(message for message in messages if message["role"] != "system")).strip()


def read_answer(value: Any, column: str) -> str:
    """The text of a completion as TRL passes it to rewards: one message of the assistant.

    Raises:
        UserError: there are other messages, or it has no text.
    """
    if [message["role"] for message in value] != ["assistant"]:
        raise UserError(
            f"'{column}' has messages of the roles {_roles(value)}; it must hold text, or one message of the assistant."
        )
    content = _content(value[0], f"'{column}'")
    if not isinstance(content, str):
        raise UserError(f"'{column}' is {shorten(repr(content))}; the message must hold text.")
    return content


def _content(message: Mapping[str, Any], place: str) -> Any:
    """The content of a message; its parts joined, if it has parts.

    Raises:
        UserError: a part is no text.
    """
    content = message.get("content")
    if isinstance(content, list | tuple) and all(isinstance(part, Mapping) for part in content):
        if other := [part.get("type") for part in content if part.get("type") != "text"]:
            raise UserError(f"{place} has a part of type {other[0]!r}; prompts have text only.")
        content = "".join(str(part.get("text", "")) for part in content)
    return content


def _read_message(message: Mapping[str, Any], place: str) -> Message:
    role, content = message["role"], _content(message, place)
    if role not in ROLES:
        raise UserError(f"{place} has the role {role!r}; roles are {', '.join(ROLES)}.")
    if not isinstance(content, str) or not content.strip():
        raise UserError(f"{place} is {shorten(repr(content))}; it must hold text.")
    return {"role": role, "content": content}


def _roles(value: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(message["role"]) for message in value)
