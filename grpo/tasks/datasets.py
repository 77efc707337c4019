"""`LOADERS`, the loaders of all datasets, and those that read tables: files, the hub, GSM8K and MATH.

A loader makes the problems of a split from the settings of conf/data. Called by grpo/tasks/splits.py. A new dataset is
one loader, here or in a file of its own, one row in `LOADERS` and one file in conf/data. The loaders know neither
prompts and tokens nor which problems are left out of training.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError, listed
from grpo.core.paths import display_path
from grpo.tasks.arithmetic import load_arithmetic
from grpo.tasks.countdown import load_countdown
from grpo.tasks.data_files import DATA_SUFFIXES, data_files
from grpo.tasks.example import Example
from grpo.tasks.multiple_choice import load_multiple_choice
from grpo.tasks.reasoning_gym import load_reasoning_gym
from grpo.tasks.row_reader import RowReader
from grpo.tasks.rows import read_files, read_rows

DEFAULT_TRAIN_FILE = "train.jsonl"  # the default in conf/data/jsonl.yaml
GSM8K_ON_HUB = "openai/gsm8k"


def load_gsm8k(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    """GSM8K from the hub; from a folder with the files of the hub, main/train-*.parquet; or with train.jsonl."""
    if config.path is None:
        at_hub = replace(config, path=GSM8K_ON_HUB, train_file=None, test_file=None, validation_file=None)
        return load_table(at_hub, split, notes)
    path = Path(config.path).expanduser()
    if path.suffix == ".parquet" or any(file.suffix == ".parquet" for file in data_files(path)):
        subset = config.subset if config.subset and (path / config.subset).is_dir() else None
        return load_table(replace(config, subset=subset, train_file=None, test_file=None), split, notes)
    return load_jsonl(config, split, notes)


def load_table(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    """Any dataset of the hub, and any files."""
    return read_rows(config, split, RowReader(config, notes).read, notes)


def load_jsonl(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    """Files with one JSON object per line, whose names are settings."""
    assert config.path is not None and config.train_file is not None
    folder = Path(display_path(Path(config.path).expanduser()))  # the setting is absolute; messages show it as typed
    files = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
    if folder.is_file() or (folder.suffix in DATA_SUFFIXES and not folder.is_dir()):
        if config.train_file not in (DEFAULT_TRAIN_FILE, folder.name):
            raise UserError(
                f"data.train_file={config.train_file}: data.path={folder} names the training file already; omit one of "
                f"them, or type the folder, data.path={folder.parent}."
            )
        folder, files["train"] = folder.parent, folder.name
    if (name := files[split]) is None:
        return None
    if Path(name).suffix in DATA_SUFFIXES and not name.endswith(".jsonl"):
        raise UserError(
            f"data.path: {folder / name} is no JSON Lines file (.jsonl); data=files reads it, as in data=files "
            f"data.path={folder / name}."
        )
    others = sorted(path.name for path in folder.glob("*.jsonl"))
    if not (folder / name).exists() and others:
        raise UserError(
            f"data.path: there is no file {folder / name}; the folder has {listed(others)}: set data.{split}_file=NAME."
        )
    if not (folder / name).exists() and (found := data_files(folder)):
        raise UserError(
            f"data.path: there is no file {folder / name}; data=files reads the other data files of the folder, such "
            f"as {found[0].relative_to(folder)}."
        )
    return read_files([folder / name], config, RowReader(config, notes).read)


# data.name -> the function that loads the split `train`, `validation` or `test` (the held-out problems); it returns
# None if the dataset has no such split, and adds notes for the user to the list that it is given.
LOADERS: dict[str, Callable[[DataConfig, str, list[str]], list[Example] | None]] = {
    "arithmetic": load_arithmetic,
    "countdown": load_countdown,
    "reasoning_gym": load_reasoning_gym,
    "gsm8k": load_gsm8k,
    "math": load_table,
    "multiple_choice": load_multiple_choice,
    "jsonl": load_jsonl,
    "files": load_table,
    "hub": load_table,
}
