"""The options of a multiple-choice problem, as rows of ARC, MMLU, OpenBookQA and similar datasets have them.

Called by the answer type `choice` and the loader of multiple_choice. It knows nothing of completions.
"""

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from grpo.core.errors import UserError
from grpo.tasks.normalized_text import normalized_text

OPTION_COLUMNS = ("choices", "options")


def read_options(row: Mapping[str, Any]) -> dict[str, str] | None:
    """The options of a row, letter -> text, from its column `choices` or `options`; None if it has no such column.

    The column is a list of texts, `{"text": [...], "label": [...]}`, a list of `{"text", "label"}`, or `{"A": text}`.
    The letters are the labels of the row if these are letters, else A, B, C, ... in its order.

    Raises:
        UserError: the column holds something else.
    """
    if (name := next((name for name in OPTION_COLUMNS if name in row), None)) is None:
        return None
    labels, texts = zip(*_labelled_texts(row[name], name), strict=True)
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise UserError(f"'{name}' has {len(texts)} options; there must be 2 to {len(ascii_uppercase)}.")
    letters = [label.upper() for label in labels if label and label.upper() in set(ascii_uppercase)]
    own_letters = len(set(letters)) == len(texts)
    return dict(zip(letters if own_letters else ascii_uppercase, texts, strict=False))


def option_letter(answer: Any, row: Mapping[str, Any]) -> str | None:
    """The letter of the option that `answer` names: by its label in the row, its letter, its index from 0, or its text.

    None if it names none, or the row has no options.
    """
    if (options := read_options(row)) is None:
        return None
    name = next(name for name in OPTION_COLUMNS if name in row)
    text = str(answer).strip()
    by_label = dict(zip((label for label, _ in _labelled_texts(row[name], name)), options, strict=True))
    if text in by_label:
        return by_label[text]
    if text.upper() in options:
        return text.upper()
    if text.isascii() and text.isdigit() and int(text) < len(options):
        return list(options)[int(text)]
    return letter_of_text(text, options)


def letter_of_text(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the only option with this text, ignoring case and surrounding punctuation; else None."""
    letters = [letter for letter, option in options.items() if normalized_text(option) == normalized_text(text)]
    return letters[0] if len(letters) == 1 else None


def _labelled_texts(value: Any, name: str) -> list[tuple[str | None, str]]:
    """(label, text) of each option; the label is None in a list of texts."""
    if isinstance(value, Mapping) and set(value) >= {"text", "label"}:
        pairs = list(zip(value["label"], value["text"], strict=False))
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
        pairs = [(item.get("label"), item.get("text")) for item in value]
    elif isinstance(value, list | tuple):
        pairs = [(None, item) for item in value]
    else:
        pairs = []
    if not pairs or not all(isinstance(text, str | int | float) for _, text in pairs):
        raise UserError(
            f"'{name}' is {value!r}; it must be a list of options, or {{'text': [...], 'label': [...]}} as in ARC."
        )
    return [(None if label is None else str(label).strip(), str(text).strip()) for label, text in pairs]
