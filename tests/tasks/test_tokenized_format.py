"""Whether a tokenizer can write the answer format: tokenizers made here lose tags, or line breaks."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.tasks.answer_format import DEFAULT_FORMAT
from grpo.tasks.tokenized_format import check_tokenized_format

TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
FIRST = "begins with <reasoning> alone on its line"
CHANGE = "change the template, chat_template.jinja in the policy's folder."
BYTES = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def byte_tokenizer(special: tuple[str, ...] = (), added: tuple[str, ...] = (), lower: bool = False) -> Any:
    """A tokenizer of bytes, with special tokens, added tokens that are not special, or in lower case."""
    tokenizer = Tokenizer(models.BPE(vocab=BYTES, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)


def word_tokenizer() -> Any:
    """A tokenizer of words, to which all white space is one space."""
    words = ["[UNK]", *DEFAULT_FORMAT.tags, "\\boxed{3}", *"1+2=3"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", chat_template=TEMPLATE)


@pytest.mark.parametrize(
    ("tokenizer", "overrides"),
    [
        (byte_tokenizer(), []),
        (byte_tokenizer(), ["format=boxed"]),
        (byte_tokenizer(special=("<think>", "</think>")), []),
        (byte_tokenizer(added=("<think>", "</think>")), ["format.reasoning=think"]),  # as in Qwen3
        (byte_tokenizer(special=("<answer>",)), ["format=boxed"]),
        (byte_tokenizer(lower=True), []),
    ],
)
def test_formats_that_survive(tokenizer: Any, overrides: list[str]) -> None:
    assert check_tokenized_format(tokenizer, compose(overrides)) == []


@pytest.mark.parametrize(
    ("opened", "overrides", "note"),
    [
        ("<think>\n", ["format.reasoning=think"], ""),
        ("<think>\n", ["format=boxed"], ""),
        ("<think>\n", [], "begins with <reasoning> alone on its line; set format.reasoning=think."),
        ("<think> ", [], f"begins with <reasoning> alone on its line; {CHANGE}"),
        ("<my:think>\n", [], CHANGE),
        ("<reasoning>\n\n", [], ""),
        ("<reasoning>\nLet me think.", [], ""),
        ("<reasoning> ", [], f"with '<reasoning> ', so none can be exactly in the format, which {FIRST}; {CHANGE}"),
        ("<answer>\n", [], f"with '<answer>\\n', so none can be exactly in the format, which {FIRST}; {CHANGE}"),
        ("<think>\\boxed{1}", ["format=boxed"], f"so none can be exactly in the format; {CHANGE}"),
    ],
)
def test_a_tag_that_the_chat_template_opens(opened: str, overrides: list[str], note: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template += f"{{% if add_generation_prompt %}}{opened}{{% endif %}}"
    notes = check_tokenized_format(tokenizer, compose(overrides))
    assert len(notes) == bool(note) and "".join(notes).endswith(note)


@pytest.mark.parametrize(
    ("tokenizer", "overrides", "lost", "advice"),
    [
        (
            byte_tokenizer(special=("<think>", "</think>")),
            ["format.reasoning=think"],
            "<think> and </think>",
            "set format.reasoning=reasoning format.answer=answer.",
        ),
        (
            byte_tokenizer(special=("</answer>",)),
            ["format.reasoning=think"],
            "</answer>",
            "set format.reasoning=think format.answer=solution.",
        ),
        (
            byte_tokenizer(lower=True),
            ["format.answer=Answer"],
            "<Answer> and </Answer>",
            "set format.reasoning=reasoning format.answer=answer.",
        ),
        (word_tokenizer(), [], "the line breaks", "set format=boxed."),
        (word_tokenizer(), ["format.answer=solution"], "<solution> and </solution>", "set format=boxed."),
    ],
)
def test_formats_that_are_lost(tokenizer: Any, overrides: list[str], lost: str, advice: str) -> None:
    with pytest.raises(UserError) as error:
        check_tokenized_format(tokenizer, compose(overrides))
    message = str(error.value)
    assert (
        f"the tokenizer of model.path=embedded:tiny loses {lost}: a completion in the format is decoded as '" in message
    )
    assert message.endswith(advice) and "\n" not in message
