"""The loaders of datasets: from the settings of conf/data to the problems of a split.

Called by grpo/tasks/splits.py through `LOADERS`. A new dataset is one function here, one row in `LOADERS` and one file
in conf/data. The loaders know neither prompts and tokens nor which problems are held out.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError
from grpo.core.paths import display_path
from grpo.policy.hub import hub_error, prepare_hub
from grpo.tasks import arithmetic
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.example import Example
from grpo.tasks.jsonl import read_jsonl, text_column

DEFAULT_TRAIN_FILE = "train.jsonl"  # the default in conf/data/jsonl.yaml


def load_arithmetic(config: DataConfig, split: str, notes: list[str]) -> list[Example]:
    assert config.seed is not None and config.max_number is not None
    assert config.min_steps is not None and config.max_steps is not None
    assert config.eval_problems is not None and config.validation_problems is not None
    ranges = {
        "train": (0, config.train_problems),
        "test": (0, config.eval_problems),
        # The validation problems follow the held-out problems in the generator's sequence that is not for training.
        "validation": (config.eval_problems, config.eval_problems + config.validation_problems),
    }
    source = arithmetic.generate_problems(
        split != "train",
        seed=config.seed,
        max_number=config.max_number,
        min_steps=config.min_steps,
        max_steps=config.max_steps,
    )
    return [
        Example(problem.question, str(problem.answer), columns=problem.row())
        for problem in islice(source, *ranges[split])
    ]


def load_gsm8k(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    if config.path is not None:
        return load_jsonl(config, split, notes)
    if split == "validation":
        return None
    prepare_hub()
    from datasets import load_dataset

    try:
        dataset = load_dataset("openai/gsm8k", "main", split=split)
    except (OSError, ValueError) as error:
        raise hub_error("The dataset openai/gsm8k", "data.path", error) from error
    return [_example_from_row(row, config) for row in dataset]


def load_jsonl(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    assert config.path is not None
    folder = Path(display_path(Path(config.path).expanduser()))  # the setting is absolute; messages show it as typed
    files = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
    if folder.is_file() or (folder.suffix == ".jsonl" and not folder.is_dir()):
        if config.train_file not in (DEFAULT_TRAIN_FILE, folder.name):
            raise UserError(
                f"data.train_file={config.train_file}: data.path={folder} names the training file already; omit one of "
                f"them, or type the folder, data.path={folder.parent}."
            )
        folder, files["train"] = folder.parent, folder.name
    if (name := files[split]) is None:
        return None
    others = sorted(path.name for path in folder.glob("*.jsonl"))
    if not (folder / name).exists() and others:
        raise UserError(
            f"data.path: there is no file {folder / name}; the folder has {', '.join(others[:9])}: set "
            f"data.{split}_file=NAME."
        )
    return list(read_jsonl(folder / name, lambda row: _example_from_row(row, config)))


def _example_from_row(row: dict[str, Any], config: DataConfig) -> Example:
    """The question and the reference answer of a row: the text after `####` in the answer column, or all of it.

    Raises:
        UserError: a column is missing, or the reference answer is empty or unreadable under data.answer.
    """
    assert config.question_column is not None and config.answer_column is not None
    question, answer = (text_column(row, key).strip() for key in (config.question_column, config.answer_column))
    gold = answer.rpartition("####")[2].strip()
    if not gold:
        raise UserError(f"nothing follows #### in '{config.answer_column}'.")
    example = Example(question, gold, columns=row)
    ANSWER_TYPES[config.answer].check_reference(example)
    return example


# data.name -> the function that loads the split `train`, `validation` or `test` (the held-out problems); it returns
# None if the dataset has no such split, and adds notes for the user to the list that it is given.
LOADERS: dict[str, Callable[[DataConfig, str, list[str]], list[Example] | None]] = {
    "arithmetic": load_arithmetic,
    "gsm8k": load_gsm8k,
    "jsonl": load_jsonl,
}
