"""A check before sampling: the policy can write the answer format with its tokenizer and chat template.

Called by training and evaluations once the tokenizer is loaded. A tag that is a special token is left out when
completions are decoded, and a tag that the tokenizer does not know is lost; no completion would then be right. This
module knows nothing of problems and scores.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from grpo.config.rules import FORMAT_RULES
from grpo.config.schema import CommonConfig
from grpo.core.errors import UserError
from grpo.policy.chat_template import ChatTemplate
from grpo.tasks.answer_format import AnswerFormat, BoxedFormat, TagFormat, answer_format_of

# Names of tags that a message may advise, in the order of preference.
NAMES = {"reasoning": ("reasoning", "thinking", "work"), "answer": ("answer", "solution", "result")}


def check_tokenized_format(tokenizer: Any, config: CommonConfig) -> list[str]:
    """Check that a completion in the format of the run is the same after encoding and decoding.

    Returns:
        Notes for the user: that the chat template opens text with which no completion can be exactly in the format.

    Raises:
        UserError: tags or line breaks are lost; the message names a format that the tokenizer can write, if any.
    """
    chat, requested = ChatTemplate.of(tokenizer, config), answer_format_of(config.format)
    decoded = _decoded(chat, requested)
    if not requested.is_exact(decoded):
        lost = [tag for tag in requested.tags if tag not in decoded] or ["the line breaks"]
        advice = next(
            (f"set {other.setting}" for other in _others(requested) if other.is_exact(_decoded(chat, other))),
            "use another tokenizer",
        )
        raise UserError(
            f"{requested.setting}: the tokenizer of {config.model.setting} loses {' and '.join(lost)}: a completion in "
            f"the format is decoded as {decoded!r}, so none could be right; {advice}."
        )
    return [] if _can_continue(requested, chat.opened) else [_opened_note(requested, chat.opened)]


def _can_continue(answer_format: AnswerFormat, opened: str) -> bool:
    """Whether a completion that begins with `opened` can be exactly in the format."""
    text = answer_format.render("1 + 2 = 3", "3")
    return any(answer_format.is_exact(opened + text[start:]) for start in range(len(text)))


def _opened_note(requested: AnswerFormat, opened: str) -> str:
    """The note that no completion that begins with `opened` is in the format, with the setting that changes this."""
    rule, advice = "", "change the template, chat_template.jinja in the policy's folder"
    if isinstance(requested, TagFormat):
        rule = f", which begins with {requested.tags[0]} alone on its line"
        name = opened[1:].partition(">")[0]
        allowed = FORMAT_RULES["format.reasoning"][0](name) and name != requested.answer
        if allowed and _can_continue(replace(requested, reasoning=name), opened):
            advice = f"set format.reasoning={name}"
    return (
        f"{requested.setting}: the chat template begins every completion with {opened!r}, so none can be exactly in "
        f"the format{rule}; {advice}."
    )


def _others(requested: AnswerFormat) -> Iterator[AnswerFormat]:
    """Formats to advise; the fewest changes come first."""
    if isinstance(requested, TagFormat):
        reasoning = (requested.reasoning, *NAMES["reasoning"])
        answer = (requested.answer, *NAMES["answer"])
        pairs = product(range(len(reasoning)), range(len(answer)))
        for i, j in sorted(pairs, key=lambda pair: (sum(index > 0 for index in pair), sum(pair))):
            if reasoning[i] != answer[j]:
                yield TagFormat(reasoning[i], answer[j])
    yield BoxedFormat()


def _decoded(chat: ChatTemplate, answer_format: AnswerFormat) -> str:
    """A completion in the format, encoded and decoded as completions are, after the text that the prompt opens."""
    text = answer_format.render("1 + 2 = 3", "3")
    begin = chat.opened if text.startswith(chat.opened) else ""
    ids = chat.tokenizer(text.removeprefix(begin), add_special_tokens=False)["input_ids"]
    return begin + str(chat.tokenizer.decode(ids, skip_special_tokens=True))
