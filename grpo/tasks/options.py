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


def letters_by_reading(answer: str | int, row: Mapping[str, Any]) -> dict[str, str]:
    """The letters of the options that a reference answer names, by the name of the reading, the likeliest first.

    A text is likelier the text of an option than an index, and a number likelier an index.

    Raises:
        UserError: it names no option, or the row has none.
    """
    options, labels = read_options(row), _labels(row)
    assert options is not None
    text = str(answer).strip()
    is_index = text.isascii() and text.isdigit() and int(text) < len(options)
    readings = {
        "letter": text.upper() if text.upper() in options else None,
        "label": labels.get(text),
        "text": letter_of_text(text, options),
        "index from 0": list(options)[int(text)] if is_index else None,
    }
    if isinstance(answer, int):
        readings["text"] = readings.pop("text")  # moved to the end
    found = {reading: letter for reading, letter in readings.items() if letter is not None}
    if not found:
        raise UserError(
            f"the reference answer {str(answer)!r} is not an option of the row (A to {max(options)}), its text or its "
            "index from 0."
        )
    return found


class OptionReferences:
    """Reads the reference answers of a split, all in the same way: `2` may be the index or the text of an option.

    Attributes:
        readings: the ways in which every answer so far names an option, the likeliest first.
        letters: for each answer, the letter that it names in each reading.
    """

    def __init__(self) -> None:
        self.readings: list[str] = []
        self.letters: list[dict[str, str]] = []

    def add(self, answer: str | int, row: Mapping[str, Any]) -> str:
        """The letter that the reference answer of the next row names, in the reading that is likeliest so far.

        Raises:
            UserError: it names no option, or no reading is possible in this row and all before.
        """
        letters = letters_by_reading(answer, row)
        common = [reading for reading in self.readings or letters if reading in letters]
        if not common:
            raise UserError(
                f"the reference answer {str(answer)!r} names an option by its {' or '.join(letters)}, and those of the "
                f"rows before by {' or '.join(self.readings)}; write all of them in the same way."
            )
        self.readings = common
        self.letters.append(letters)
        return letters[common[0]]

    def final_letters(self) -> list[str]:
        """The letter of each answer."""
        return [letters[self.readings[0]] for letters in self.letters]


def letter_of_text(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the only option with this text, ignoring case and surrounding punctuation; else None."""
    letters = [letter for letter, option in options.items() if normalized_text(option) == normalized_text(text)]
    return letters[0] if len(letters) == 1 else None


def _labels(row: Mapping[str, Any]) -> dict[str, str]:
    """The letter of each label of the options of a row that has labels."""
    name = next(name for name in OPTION_COLUMNS if name in row)
    pairs = zip((label for label, _ in _labelled_texts(row[name], name)), read_options(row) or {}, strict=True)
    return {label: letter for label, letter in pairs if label is not None}


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
