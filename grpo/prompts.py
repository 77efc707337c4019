"""The answer format: how a question asks for it, and how an answer is read back out of a completion."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from grpo.errors import UserError, first_line

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
INTEGER = re.compile(rf"[+-]?{_DIGITS}")
# White space only after a `$` or a sign: three runs of it side by side would take cubic time to refuse a long one.
NUMBER = re.compile(rf"(?:\$\s*)?(?:([+-])\s*)?(?:\$\s*)?(?:({_DIGITS})(\.[0-9]*)?|(\.[0-9]+))\s*\$?")
# A sign belongs to the number unless it stands between two operands, as in `10-5`.
LAST_NUMBER = re.compile(
    r"(?:(?<![\w.)])[+-])?\$?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\w)\.[0-9]+)"
)

Message = dict[str, str]


@dataclass(frozen=True)
class Framing:
    """What a completion of the policy's chat template stands between."""

    opened: str | None = None  # a tag that the prompt ends with
    ends: tuple[str, ...] = ()  # the tokens that end it


UNKNOWN = Framing()


def chat(question: str, system_prompt: str) -> list[Message]:
    """The conversation that asks `question`; an empty system prompt is left out."""
    user = {"role": "user", "content": question}
    return [{"role": "system", "content": system_prompt}, user] if system_prompt else [user]


def prompt_ids(tokenizer: Any, questions: Sequence[str], system_prompt: str) -> list[list[int]]:
    """The token ids of each question's prompt, the opening of the assistant's turn included, without padding."""
    if not questions:
        return []
    chats = [chat(question, system_prompt) for question in questions]
    with _templates_errors():
        encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)
    return encoded["input_ids"]


@contextmanager
def _templates_errors() -> Iterator[None]:
    """A chat template is a program of the policy's maker: what it raises is its refusal."""
    import jinja2

    try:
        yield
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise UserError(
            f"the policy's chat template refuses the prompt: {first_line(error)}. If it takes no system role: "
            "system_prompt=''."
        ) from error


def end_of_turn(tokenizer: Any) -> int | None:
    """The id of the token that follows the assistant's text in the chat template; None where no single token does.

    Where a conversation ends without one, as in GLM-4's template, the first token of the next turn ends this one.
    """
    said = "42 pens"
    turns = [*chat("How many?", ""), {"role": "assistant", "content": said}, *chat("Why?", "")]
    for conversation in (turns[:2], turns):
        try:
            with _templates_errors():
                text = tokenizer.apply_chat_template(conversation, tokenize=False)
        except UserError:  # it takes no answers
            return None
        after = text.rpartition(said)[2].lstrip() if said in text else ""
        for token in tokenizer(after, add_special_tokens=False)["input_ids"][:1]:
            if token in tokenizer.added_tokens_decoder or token in tokenizer.all_special_ids:
                return int(token)
    return None


def opened_tag(tokenizer: Any, system_prompt: str) -> str | None:
    """The tag, `<think>`, that the chat template opens at the end of a prompt, so that no completion contains it."""
    with _templates_errors():
        text = tokenizer.apply_chat_template(chat("?", system_prompt), add_generation_prompt=True, tokenize=False)
    tag = re.search(r"<\w+>(?=\s*$)", text)
    return tag[0] if tag and tag[0] not in tokenizer.all_special_tokens else None


def extract_answer(text: str) -> str | None:
    """What stands inside the last closed `<answer>...</answer>`, stripped; None where no block is closed."""
    start = text.rfind("<answer>", 0, max(0, text.rfind("</answer>")))
    if start == -1:
        return None
    start += len("<answer>")
    return text[start : text.index("</answer>", start)].strip()


def parse_number(text: str) -> Decimal | None:
    """The number that `text` is, thousands commas, `$` and white space aside; None where it is not one."""
    match = NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    sign, digits, fraction, bare_fraction = match.groups(default="")
    return Decimal(sign + (digits.replace(",", "") + fraction.rstrip(".") or bare_fraction))


def same_answer(answer: str, gold: str) -> bool:
    """Whether two answers are equal: as numbers where both are numbers, else as stripped text."""
    left, right = parse_number(answer), parse_number(gold)
    if left is None or right is None:
        return answer.strip() == gold.strip()
    return left == right


def last_number(text: str) -> str | None:
    """The last number anywhere in `text` (the flexible answer of lm-evaluation-harness), or None."""
    matches = LAST_NUMBER.findall(text)
    return matches[-1] if matches else None
