"""Which files of data.path belong to which split, by their names, as in the layouts of the hub.

Called by grpo/tasks/rows.py. It reads no file and imports no library for data.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError, listed
from grpo.core.paths import display_path
from grpo.tasks.text_files import GZIP_SUFFIX

TEXT_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
DATA_SUFFIXES = (".parquet", ".arrow", *TEXT_SUFFIXES)
DATA_NAMES = f"{listed(DATA_SUFFIXES)}; those of text also with .gz"
METADATA_FILES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
# The words in the name of a file, folder or split that tell its use; the first of them is preferred.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def data_suffix(file: Path) -> str | None:
    """The type of a data file: the end of its name in lower case, without .gz; None if it is no data file."""
    name = file.name.lower()
    is_compressed = name.endswith(GZIP_SUFFIX)
    suffix = Path(name.removesuffix(GZIP_SUFFIX)).suffix
    return suffix if suffix in (TEXT_SUFFIXES if is_compressed else DATA_SUFFIXES) else None


def without_default_subset(config: DataConfig, default: str) -> DataConfig:
    """The settings for a local folder, in which the subset `default` is the folder itself if none has that name."""
    path = Path(str(config.path)).expanduser()
    is_folder_itself = config.subset == default and path.exists() and not (path / default).is_dir()
    return replace(config, subset=None) if is_folder_itself else config


def split_of_name(name: str) -> str | None:
    """The split that the first known word in `name` belongs to; None if there is none."""
    for word in re.findall("[a-z]+", name.lower()):
        for split, words in SPLIT_WORDS.items():
            if word in words:
                return split
    return None


def choose_split(names: Sequence[str], use: str, config: DataConfig, source: str) -> str | None:
    """Which of the splits `names` of a dataset is used as `train`, `validation` or `test` (held out).

    The training split is data.split, else the one with that name, else the only split. A dataset without a test split
    holds out its validation split. None if no split has this use.

    Raises:
        UserError: the training split is ambiguous, or data.split is none of `names`.
    """
    train = config.split
    if train is None:
        candidates = ["train"] if "train" in names else [name for name in names if split_of_name(name) == "train"]
        if not candidates and len(names) == 1:
            candidates = list(names)
        if len(candidates) != 1:
            raise UserError(f"{source} has the splits {listed(names)}; type data.split=NAME, the one to train on.")
        train = candidates[0]
    elif train not in names:
        raise UserError(f"data.split={train}: {source} has no such split, only {listed(names)}.")
    if use == "train":
        return train
    uses: dict[str, str] = {}
    for split in ("validation", "test"):
        if candidates := [name for name in names if name != train and split_of_name(name) == split]:
            uses[split] = min(candidates, key=_preference)
    if "test" not in uses and "validation" in uses:
        uses["test"] = uses.pop("validation")
    return uses.get(use)


def _preference(name: str) -> tuple[int, str]:
    words = re.findall("[a-z]+", name.lower())
    return min(known.index(word) for known in SPLIT_WORDS.values() for word in words if word in known), name


def files_of_split(config: DataConfig, use: str, notes: list[str]) -> list[Path] | None:
    """The files of a split: data.train_file and the like, else those whose names have a word of `SPLIT_WORDS`.

    Files of which none has such a word are the training split.

    Raises:
        UserError: there are no such files, they are of several types, or of several subsets.
    """
    assert config.path is not None
    path = Path(display_path(Path(config.path).expanduser()))  # the setting is absolute; messages show it as typed
    if path.is_file():
        if config.subset is not None:
            raise UserError(
                f"data.subset={config.subset}: data.path={path} is a file, which has no subsets; leave it out."
            )
        folder, by_split = path.parent, {"train": [path]}
        if config.train_file not in (None, path.name):
            raise UserError(
                f"data.train_file={config.train_file}: data.path={path} names the training file already; omit one."
            )
    elif path.is_dir():
        folder = subset_folder(path, config.subset)
        by_split = _files_by_split(folder, config, notes)
    else:
        raise UserError(f"data.path: {path} is neither a file nor a folder.")
    for split, name in _named_files(config).items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"data.{split}_file={name}: there is no file {file}{_others(folder)}.")
        by_split = {other: [item for item in files if item != file] for other, files in by_split.items()}
        by_split[split] = [file]
    by_split = {split: files for split, files in by_split.items() if files}
    if not by_split:
        raise UserError(f"data.path={path}: the folder has no data file ({DATA_NAMES}).")
    chosen = choose_split(list(by_split), use, config, f"data.path={path}")
    return None if chosen is None else _of_one_type(by_split[chosen], chosen)


def _named_files(config: DataConfig) -> dict[str, str]:
    names = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
    return {split: name for split, name in names.items() if name is not None}


def _files_by_split(folder: Path, config: DataConfig, notes: list[str]) -> dict[str, list[Path]]:
    files = data_files(folder)
    subsets = _subsets(folder, files)
    if any(file.parent == folder for file in files):
        # Folders next to the data have other files, such as `outputs`.
        files = [file for file in files if file.relative_to(folder).parts[0] not in subsets]
    elif len(subsets) > 1:
        raise UserError(f"data.path={folder} has the subsets {listed(subsets)}; type data.subset=NAME.")
    by_split: dict[str, list[Path]] = {}
    without = []
    for file in files:
        names = file.relative_to(folder).parts
        split = next(filter(None, (split_of_name(name) for name in (file.stem, *reversed(names[:-1])))), None)
        by_split.setdefault(split, []).append(file) if split else without.append(file)
    if not by_split:
        return {"train": without}
    if without := [file for file in without if file.name not in _named_files(config).values()]:
        note = (
            f"Not read, because no word in the name tells the split (train, validation, test): {listed_files(without)}."
        )
        if note not in notes:
            notes.append(note)
    return by_split


def data_files(folder: Path) -> list[Path]:
    """The data files in `folder` and up to two levels of folders below it, without hidden files and metadata."""
    found = (file for pattern in ("*", "*/*", "*/*/*") for file in folder.glob(pattern))
    return sorted(
        file
        for file in found
        if data_suffix(file) is not None
        and file.is_file()
        and not any(name.startswith(".") for name in file.relative_to(folder).parts)
        and file.name not in METADATA_FILES
        and not file.name.startswith("cache-")  # `datasets` writes them next to its Arrow files
    )


def subset_folder(path: Path, subset: str | None) -> Path:
    """The folder of a subset below the folder `path`.

    Raises:
        UserError: there is none.
    """
    if subset is None:
        return path
    if not (path / subset).is_dir():
        folders = sorted(item.name for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
        raise UserError(
            f"data.subset={subset}: {path} has no folder of that name"
            + (f", only {listed(folders)}." if folders else "; leave it out.")
        )
    return path / subset


def _subsets(folder: Path, files: Iterable[Path]) -> list[str]:
    """The folders in `folder` that have data files and are named neither after a split nor `data`."""
    tops = {file.relative_to(folder).parts[0] for file in files if file.parent != folder}
    return sorted(name for name in tops if name != "data" and split_of_name(name) is None)


def _of_one_type(files: list[Path], split: str) -> list[Path]:
    if other := next((file for file in files if data_suffix(file) is None), None):
        raise UserError(f"{other} is no data file: the name of one ends in {DATA_NAMES}.")
    types = [str(data_suffix(file)) for file in files]
    suffixes = sorted(set(types))
    if len(suffixes) > 1:
        counts = listed([f"{types.count(suffix)} {suffix}" for suffix in suffixes])
        raise UserError(
            f"data.path={files[0].parent}: the {split} split has files of several types, {counts}; name one of them, "
            f"data.{split}_file={files[0].name}, or a folder with one type."
        )
    return files


def _others(folder: Path) -> str:
    names = [file.name for file in data_files(folder) if file.parent == folder]
    return f"; the folder has {listed(names)}" if names else ""


def listed_files(files: Sequence[Path]) -> str:
    return listed([file.name for file in files])
