"""The answer format: how a question asks for it, and how an answer is read back out of a completion."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from grpo.errors import UserError

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


def chat(question: str, system_prompt: str) -> list[Message]:
    """The conversation that asks `question`; an empty system prompt is left out."""
    user = {"role": "user", "content": question}
    return [{"role": "system", "content": system_prompt}, user] if system_prompt else [user]


def prompt_ids(tokenizer: Any, questions: Sequence[str], system_prompt: str) -> list[list[int]]:
    """The token ids of each question's prompt, the opening of the assistant's turn included, without padding."""
    import jinja2

    chats = [chat(question, system_prompt) for question in questions]
    try:
        encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)
    except jinja2.TemplateError as error:
        raise UserError(
            f"the policy's chat template refuses the prompt: {error}. If it takes no system role: system_prompt=''."
        ) from error
    return encoded["input_ids"]


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
