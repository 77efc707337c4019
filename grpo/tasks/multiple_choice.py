"""Multiple-choice problems, from rows in the shape of ARC, MMLU or OpenBookQA.

The loader is called through `LOADERS` of grpo/tasks/datasets.py. The options of a row are written below its
question. This module knows neither completions nor how answers are compared.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError
from grpo.policy.chat_template import Message
from grpo.tasks.example import Example
from grpo.tasks.options import OPTION_COLUMNS, option_letter, read_options
from grpo.tasks.row_reader import RowReader
from grpo.tasks.rows import read_rows


def load_multiple_choice(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    """The problems of a split; data.subset is the folder of local files only if there is such a folder."""
    assert config.path is not None
    folder = Path(config.path).expanduser()
    if config.subset is not None and folder.exists() and not (folder / config.subset).is_dir():
        config = replace(config, subset=None)
    reader = RowReader(config, notes)
    return read_rows(config, split, lambda row: with_options(reader.read(row), row), notes)


def with_options(example: Example, row: Mapping[str, Any]) -> Example:
    """The problem with its options below the question, and the letter of the right one as its reference answer.

    Raises:
        UserError: the row has no options, or the reference answer names none of them.
    """
    options = read_options(row)
    if options is None:
        raise UserError(
            f"there is no column {' or '.join(map(repr, OPTION_COLUMNS))}, only {', '.join(map(repr, row))}."
        )
    lines = "\n".join(f"{letter}) {text}" for letter, text in options.items())
    letter = option_letter(example.gold, row)
    if letter is None:
        raise UserError(f"the reference answer {example.gold!r} names none of the options {', '.join(options)}.")
    messages = example.messages
    if messages is not None:
        last: Message = {"role": messages[-1]["role"], "content": f"{messages[-1]['content']}\n{lines}"}
        messages = (*messages[:-1], last)
    return replace(example, question=f"{example.question}\n{lines}", gold=letter, messages=messages)
