"""Multiple-choice problems, from rows in the shape of ARC, MMLU or OpenBookQA.

The loader is called through `LOADERS` of grpo/tasks/datasets.py. The options of a row are written below its
question. This module knows neither completions nor how answers are compared.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError, no_column
from grpo.policy.chat_template import Message
from grpo.tasks.data_files import without_default_subset
from grpo.tasks.example import Example
from grpo.tasks.options import OPTION_COLUMNS, read_options
from grpo.tasks.row_reader import RowReader
from grpo.tasks.rows import read_rows

DEFAULT_SUBSET = "ARC-Challenge"  # in conf/data/multiple_choice.yaml


def load_multiple_choice(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    """The problems of a split."""
    config = without_default_subset(config, DEFAULT_SUBSET)
    reader = RowReader(config, split, notes)
    return reader.finish(read_rows(config, split, lambda row: with_options(reader.read(row), row), notes))


def with_options(example: Example, row: Mapping[str, Any]) -> Example:
    """The problem with its options below the question.

    Raises:
        UserError: the row has no options.
    """
    options = read_options(row)
    if options is None:
        raise UserError(f"there is {no_column(row, *OPTION_COLUMNS)}.")
    lines = "\n".join(f"{letter}) {text}" for letter, text in options.items())
    messages = example.messages
    if messages is not None:
        last: Message = {"role": messages[-1]["role"], "content": f"{messages[-1]['content']}\n{lines}"}
        messages = (*messages[:-1], last)
    return replace(example, question=f"{example.question}\n{lines}", messages=messages)
