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
from grpo.tasks.data_files import data_files, data_suffix, subset_folder, without_default_subset
from grpo.tasks.example import Example
from grpo.tasks.multiple_choice import load_multiple_choice
from grpo.tasks.reasoning_gym import load_reasoning_gym
from grpo.tasks.row_reader import RowReader
from grpo.tasks.rows import read_files, read_rows

DEFAULT_TRAIN_FILE = "train.jsonl"  # the default in conf/data/jsonl.yaml
GSM8K_ON_HUB = "openai/gsm8k"
GSM8K_SUBSET, GSM8K_TEST_FILE = "main", "test.jsonl"  # the defaults in conf/data/gsm8k.yaml


def load_gsm8k(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    """GSM8K from the hub; from a folder with the files of the hub, main/train-*.parquet; or with train.jsonl."""
    if config.path is None:
        return load_table(replace(_without_default_files(config), path=GSM8K_ON_HUB), split, notes)
    config = without_default_subset(config, GSM8K_SUBSET)
    path = Path(str(config.path)).expanduser()
    if ".parquet" in (data_suffix(file) for file in (path, *data_files(path))):
        return load_table(_without_default_files(config), split, notes)
    if config.split is not None:
        raise UserError(
            f"data.split={config.split}: the files of data.path={display_path(path)} are chosen by name; set "
            "data.train_file."
        )
    if path.is_dir():
        config = replace(config, path=str(subset_folder(path, config.subset)))
    return load_jsonl(config, split, notes)


def _without_default_files(config: DataConfig) -> DataConfig:
    """The settings without the names of JSON Lines files in conf/data/gsm8k.yaml."""
    return replace(
        config,
        train_file=None if config.train_file == DEFAULT_TRAIN_FILE else config.train_file,
        test_file=None if config.test_file == GSM8K_TEST_FILE else config.test_file,
    )


def load_table(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    """Any dataset of the hub, and any files."""
    reader = RowReader(config, split, notes)
    return reader.finish(read_rows(config, split, reader.read, notes))


def load_jsonl(config: DataConfig, split: str, notes: list[str]) -> list[Example] | None:
    """Files with one JSON object per line, whose names are settings."""
    assert config.path is not None and config.train_file is not None
    folder = Path(display_path(Path(config.path).expanduser()))  # the setting is absolute; messages show it as typed
    files = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
    if folder.exists() and not folder.is_file() and not folder.is_dir():
        raise UserError(f"data.path: {folder} is neither a file nor a folder.")
    if folder.is_file() or (data_suffix(folder) is not None and not folder.is_dir()):
        if config.train_file not in (DEFAULT_TRAIN_FILE, folder.name):
            raise UserError(
                f"data.train_file={config.train_file}: data.path={folder} names the training file already; omit one of "
                f"them, or type the folder, data.path={folder.parent}."
            )
        folder, files["train"] = folder.parent, folder.name
    if (name := files[split]) is None:
        return None
    if data_suffix(Path(name)) not in (".jsonl", None):
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
    reader = RowReader(config, split, notes)
    return reader.finish(read_files([folder / name], config, reader.read))


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
