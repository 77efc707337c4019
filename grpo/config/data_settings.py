"""The settings of each dataset: those that it needs, those that it may have, and checks of their combinations.

Called by validation.py. A new dataset is one row in `DATA_SETTINGS`. It needs neither files nor the hub.
"""

import math
from dataclasses import fields
from typing import Any

from grpo.config.limits import DISTINCT_PROBLEMS
from grpo.config.schema import SOLVE_RATE, DataConfig
from grpo.core.errors import UserError, shorten

# Settings that every dataset has.
SHARED_SETTINGS = (
    "name",
    "train_problems",
    "eval_problems",
    "validation_problems",
    "seed",
    "answer",
    "difficulty",
    "solve_rate",
    "curriculum",
)
COLUMN_SETTINGS = ("question_column", "answer_column", "answer_marker", "filter")
TABLE_SETTINGS = ("path", "subset", "split", "test_file", "validation_file", *COLUMN_SETTINGS)

# data.name -> the settings that need a value, and those that may have one, in addition to the shared ones.
DATA_SETTINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "arithmetic": (
        ("min_steps", "max_steps", "max_number", "train_problems", "eval_problems", "validation_problems"),
        (),
    ),
    "countdown": (
        (
            *("min_numbers", "max_numbers", "max_operand", "max_target"),
            *("train_problems", "eval_problems", "validation_problems"),
        ),
        (),
    ),
    "reasoning_gym": (("task", "train_problems", "eval_problems", "validation_problems"), ()),
    "gsm8k": (("train_file",), TABLE_SETTINGS),
    "math": ((), ("train_file", *TABLE_SETTINGS)),
    "multiple_choice": ((), ("train_file", *TABLE_SETTINGS)),
    "jsonl": (("train_file",), ("path", "test_file", "validation_file", *COLUMN_SETTINGS)),
    "files": ((), ("train_file", *TABLE_SETTINGS)),
    "hub": ((), ("path", "subset", "split", *COLUMN_SETTINGS)),
}
# Datasets whose path is never a name of the hub.
FILE_DATASETS = ("jsonl", "files")
# What a dataset without a default path needs.
NEEDED_PATHS = {
    "jsonl": "the folder of your files, data.path=FOLDER, or one file",
    "files": "the folder of your files, data.path=FOLDER, or one file",
    "hub": "the name of a dataset of the hub, data.path=OWNER/NAME",
}


def check_data(data: DataConfig) -> None:
    """Check that the dataset has the settings that are given, and that it is given those that it needs.

    Raises:
        UserError: a setting is missing or does not belong to the dataset, or two values exclude each other.
    """
    required, optional = DATA_SETTINGS[data.name]
    for name in required:
        if getattr(data, name) is None:
            raise UserError(f"data.{name}=null: data={data.name} needs a value there.")
    for name in (item.name for item in fields(data)):
        value = getattr(data, name)
        if value is not None and name not in (*SHARED_SETTINGS, *required, *optional):
            raise UserError(
                f"data.{name}={shorten(value)}: data={data.name} has no such setting; choose the dataset with data=."
            )
    if data.path is None and data.name in NEEDED_PATHS:
        raise UserError(f"data.path: data={data.name} needs {NEEDED_PATHS[data.name]}.")
    if data.name == "arithmetic":
        _check_arithmetic(data)
    if data.name == "countdown":
        _check_countdown(data)
    _check_filter(data.filter)
    _check_solve_rate("data.solve_rate", data.solve_rate)
    _check_curriculum(data)
    for name, default in (("solve_rate", list(SOLVE_RATE)), ("curriculum", None)):
        if data.difficulty is None and getattr(data, name) != default:
            raise UserError(
                f"data.{name}: there are no solve rates; add the file with them, data.difficulty=FILE, or leave out "
                f"data.{name}."
            )


def _check_countdown(data: DataConfig) -> None:
    assert data.min_numbers is not None and data.max_numbers is not None and data.max_operand is not None
    assert data.max_target is not None and data.train_problems is not None
    assert data.eval_problems is not None and data.validation_problems is not None
    for low, high in (("min_numbers", "max_numbers"), ("max_operand", "max_target")):
        if getattr(data, low) > getattr(data, high):
            raise UserError(f"data.{low}={getattr(data, low)}: must not exceed data.{high}={getattr(data, high)}.")
    sizes = range(data.min_numbers, data.max_numbers + 1)
    sets = sum(math.comb(data.max_operand + size - 1, size) for size in sizes)
    # An eighth of the sets is for held-out and validation problems. Half of the sets are enough: the generator draws
    # sets until it has enough new ones.
    for names, most in ((["train_problems"], sets * 7 // 16), (["eval_problems", "validation_problems"], sets // 16)):
        if sum(getattr(data, name) for name in names) > most:
            requested = " ".join(f"data.{name}={getattr(data, name)}" for name in names)
            raise UserError(
                f"{requested}: at most {most:,} such problems are generated with these numbers; set fewer, or raise "
                "data.max_operand or data.max_numbers."
            )


def _check_arithmetic(data: DataConfig) -> None:
    assert data.min_steps is not None and data.max_steps is not None
    if data.min_steps > data.max_steps:
        raise UserError(f"data.min_steps={data.min_steps}: must not exceed data.max_steps={data.max_steps}.")
    for names, split in ((["train_problems"], "training"), (["eval_problems", "validation_problems"], "held-out")):
        if sum(getattr(data, name) for name in names) > DISTINCT_PROBLEMS[split]:
            sizes = ", ".join(f"data.{name}={getattr(data, name)}" for name in names)
            raise UserError(
                f"{sizes}: data=arithmetic has at most {DISTINCT_PROBLEMS[split]:,} distinct {split} problems; set "
                "fewer."
            )


def _check_filter(columns: Any) -> None:
    values = columns.values() if isinstance(columns, dict) else () if columns is None else ({},)
    for value in values:
        items = value if isinstance(value, list) else [value]
        if not items or any(isinstance(item, list | dict) for item in items):
            raise UserError(
                f"data.filter={shorten(columns)}: must be columns with a value or a list of values, as in "
                "'data.filter={level:[4,5],type:Algebra}'."
            )


def _check_solve_rate(key: str, bounds: Any) -> None:
    is_list = isinstance(bounds, list) and all(type(bound) in (int, float) for bound in bounds)
    if not is_list or len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
        raise UserError(
            f"{key}={shorten(bounds)}: must be the lowest and the highest solve rate, from 0 to 1, as in "
            f"{key}=[0.1,0.9]."
        )


def _check_curriculum(data: DataConfig) -> None:
    if data.curriculum is None:
        return
    if not isinstance(data.curriculum, dict) or set(data.curriculum) != {"start", "end"}:
        raise UserError(
            f"data.curriculum={shorten(data.curriculum)}: must be the first and the last window of solve rates, as in "
            "'data.curriculum={start:[0.5,1.0],end:[0.1,0.6]}'."
        )
    for name, bounds in data.curriculum.items():
        _check_solve_rate(f"data.curriculum.{name}", bounds)
