"""The rows of a split, from files or from the hub: JSON Lines by our own reader, all else by `datasets`.

Called by the loaders of datasets in tables. It does not know what the columns mean. `datasets` takes seconds to import,
so only what needs it imports it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError, first_line, listed
from grpo.policy.hub import hub_error, is_hub_id, prepare_hub
from grpo.tasks.columns import Row
from grpo.tasks.data_files import choose_split, files_of_split, listed_files
from grpo.tasks.jsonl import read_jsonl
from grpo.tasks.row_filter import RowFilter

if TYPE_CHECKING:
    from datasets import Dataset

Item = TypeVar("Item")
Parse = Callable[[Row], Item]

BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json"}
TYPE_NAMES = {".parquet": "Parquet", ".arrow": "Arrow", ".csv": "CSV", ".json": "JSON"}
# pandas would read the texts `NA` and `None` as missing values.
READ_OPTIONS: dict[str, dict[str, Any]] = {"csv": {"keep_default_na": False}}
# Rows of a larger dataset stay in its file, and are read again when somebody asks for a column: open-r1 has gigabytes
# of solutions.
MAX_BYTES_IN_MEMORY = 500_000_000


class StoredRow(Mapping[str, Any]):
    """A row of a dataset in a file.

    Attributes:
        values_in_memory: the row; None reads it from the file.
    """

    def __init__(self, table: "Dataset", number: int, values_in_memory: Row | None) -> None:
        self.table, self.number, self.values_in_memory = table, number, values_in_memory

    def __getitem__(self, name: str) -> Any:
        if name not in self.table.column_names:
            raise KeyError(name)
        return (self.values_in_memory or self.table[self.number])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table.column_names)

    def __len__(self) -> int:
        return len(self.table.column_names)


def read_rows(config: DataConfig, split: str, parse: Parse[Item], notes: list[str]) -> list[Item] | None:
    """`parse(row)` for each row of a split (`train`, `validation`, `test`) that data.filter retains.

    data.path is a file, a folder or the name of a dataset of the hub. None if the dataset has no such split.

    Raises:
        UserError: the rows cannot be found or read, none remains, or `parse` raised; the message names the row.
    """
    assert config.path is not None
    path = Path(config.path).expanduser()
    if path.exists():
        files = files_of_split(config, split, notes)
        return None if files is None else read_files(files, config, parse)
    if not is_hub_id(config.path):
        raise UserError(f"data.path: there is no file or folder {config.path}.")
    if config.name == "files":
        raise UserError(
            f"data.path: there is no file or folder {config.path}; for a dataset of the hub type data=hub "
            f"data.path={config.path}."
        )
    return _read_hub(config, split, parse)


def read_files(files: list[Path], config: DataConfig, parse: Parse[Item]) -> list[Item]:
    """`parse(row)` for each row of files of one type that data.filter retains.

    Raises:
        UserError: as `read_rows`.
    """
    row_filter = RowFilter(config.filter)
    parse_retained = row_filter.before(parse)
    if files[0].suffix == ".jsonl":
        return row_filter.require([item for file in files for item in read_jsonl(file, parse_retained)])
    source = str(files[0]) if len(files) == 1 else f"{files[0].parent}, {len(files)} {files[0].suffix} files"
    return row_filter.require(_parse_table(_load_files(files), parse_retained, source))


def _read_hub(config: DataConfig, split: str, parse: Parse[Item]) -> list[Item] | None:
    assert config.path is not None
    for name in ("train_file", "test_file", "validation_file"):
        if (file := getattr(config, name)) is not None:
            raise UserError(f"data.{name}={file}: applies to a folder, and data.path={config.path} is on the hub.")
    prepare_hub()
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        with _quiet_library():
            splits = load_dataset(config.path, config.subset)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        if "Config name is missing" in str(error) or "BuilderConfig" in str(error):
            raise UserError(
                f"data.subset={config.subset or 'null'}: {config.path} has other subsets: {_subsets_in(str(error))}."
            ) from error
        raise hub_error(f"The dataset {config.path}", "data.path", error) from error
    source = f"{config.path}{f' {config.subset}' if config.subset else ''}"
    chosen = choose_split(list(splits), split, config, f"data.path={source}")
    if chosen is None:
        return None
    row_filter = RowFilter(config.filter)
    return row_filter.require(_parse_table(splits[chosen], row_filter.before(parse), f"{source}, {chosen} split"))


def _subsets_in(message: str) -> str:
    """The names of subsets in an error message of `datasets`, which ends with a list of them."""
    _, _, names = message.partition("[")
    return listed([name.strip(" '\"") for name in names.partition("]")[0].split(",")])


def _parse_table(table: "Dataset | list[Row]", parse: Parse[Item], source: str) -> list[Item]:
    # A list is an empty table.
    store = None if isinstance(table, list) or table.data.nbytes <= MAX_BYTES_IN_MEMORY else table
    items = []
    for number, values in enumerate(table):
        row = values if store is None else StoredRow(store, number, values)
        try:
            items.append(parse(row))
        except UserError as error:
            raise UserError(f"{source}, row {number + 1}: {error}") from error
        if isinstance(row, StoredRow):
            row.values_in_memory = None
    return items


def _load_files(files: list[Path]) -> "Dataset | list[Row]":
    """The rows of files of one type, concatenated; an empty list if they have none.

    Raises:
        UserError: a file is damaged or of another type than its name says, or columns differ from file to file.
    """
    import pyarrow
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    builder = BUILDERS[files[0].suffix]
    paths = [str(file.resolve()) for file in files]
    try:
        with _quiet_library():
            loaded = load_dataset(builder, data_files={"train": paths}, **READ_OPTIONS.get(builder, {}))
    except (DatasetsError, OSError, ValueError, pyarrow.ArrowException) as error:
        if "corresponds to no data" in str(error):
            return []
        if len(files) > 1:  # one of them is damaged, or they do not go together
            for file in files:
                _load_files([file])
        named = str(files[0]) if len(files) == 1 else f"{listed_files(files)} together"
        reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise UserError(f"data.path: {named} cannot be read as {TYPE_NAMES[files[0].suffix]}: {reason}.") from error
    return loaded["train"]


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Without the progress bars of `datasets`, and its log, which repeats the errors that it raises."""
    import datasets

    logger = logging.getLogger("datasets")
    level, shown = logger.level, datasets.is_progress_bar_enabled()
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            datasets.enable_progress_bars()
