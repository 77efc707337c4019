"""data.difficulty: the training problems whose solve rate is within data.solve_rate, or the windows of data.curriculum.

Called by grpo/tasks/splits.py and grpo/tasks/curriculum.py. A file of difficulties has one JSON object per line with
`question`, or the column of the question in the dataset, and `solve_rate`, the share of completions that were right;
other keys are ignored. Questions are the same if they are equal apart from white space (`Example.key`); of several
lines with the same question, the last counts. This module does not know which policy solved the problems.
"""

from functools import partial
from pathlib import Path
from typing import Any

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError, shorten
from grpo.core.paths import display_path
from grpo.tasks.columns import recognize_question, require_value
from grpo.tasks.example import Example
from grpo.tasks.jsonl import read_jsonl
from grpo.tasks.row_reader import read_question


def select_by_solve_rate(examples: list[Example], config: DataConfig, notes: list[str]) -> list[Example]:
    """The examples with a solve rate within data.solve_rate, or between the extremes of data.curriculum.

    Raises:
        UserError: the file cannot be read, or no example is left.
    """
    path, rates = _path(config), read_solve_rates(config)
    low, high = config.solve_rate
    if config.curriculum is not None:
        lows, highs = zip(*config.curriculum.values(), strict=True)
        low, high = min(lows), max(highs)
    known = [example for example in examples if example.key in rates]
    if not known:
        raise UserError(
            f"data.difficulty={path}: none of its {len(rates):,} questions is one of the {len(examples):,} training "
            f"problems, of which the first is {shorten(examples[0].question)!r}; give the file for this data."
        )
    selected = [example for example in known if low <= rates[example.key] <= high]
    counts = (
        f"data.difficulty={path}: {len(selected):,} of {len(examples):,} training problems have a solve rate from "
        f"{low:g} to {high:g}, {len(known) - len(selected):,} have another, {len(examples) - len(known):,} have none"
    )
    if not selected:
        setting = "data.solve_rate=[LOW,HIGH]" if config.curriculum is None else "data.curriculum"
        raise UserError(f"{counts}; set other bounds, {setting}.")
    notes.append(f"{counts}. The others are left out.")
    return selected


def read_solve_rates(config: DataConfig) -> dict[str, float]:
    """`Example.key` of a problem -> its solve rate, from the file of data.difficulty.

    Raises:
        UserError: the file cannot be read.
    """
    return dict(read_jsonl(_path(config), partial(_read_line, config), "data.difficulty"))


def _path(config: DataConfig) -> Path:
    assert config.difficulty is not None
    return Path(display_path(Path(config.difficulty).expanduser()))


def _read_line(config: DataConfig, row: dict[str, Any]) -> tuple[str, float]:
    column = next((name for name in ("question", config.question_column) if name in row), None)
    question, _ = read_question(row, column or recognize_question(row))
    rate = require_value(row, "solve_rate")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise UserError(f"'solve_rate' is {rate!r}; it must be a number from 0 to 1.")
    return Example(question, "").key, float(rate)
