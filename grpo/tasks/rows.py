"""The rows of a split, from files or from the hub.

Called by the loaders of datasets in tables. It does not know what the columns mean. `datasets` reads the hub, Parquet
and Arrow; it takes seconds to import, so only what needs it imports it.
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
from grpo.tasks.csv_files import read_csv_files
from grpo.tasks.data_files import choose_split, data_suffix, files_of_split, listed_files
from grpo.tasks.json_file import read_json
from grpo.tasks.jsonl import read_jsonl
from grpo.tasks.row_filter import RowFilter

if TYPE_CHECKING:
    from datasets import Dataset

Item = TypeVar("Item")
Parse = Callable[[Row], Item]

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
    match data_suffix(files[0]):
        case ".parquet" | ".arrow" as suffix:
            source = str(files[0]) if len(files) == 1 else f"{files[0].parent}, {len(files)} {suffix} files"
            items = _parse_table(_load_files(files, suffix.removeprefix(".")), parse_retained, source)
        case ".csv" | ".tsv":
            tables = zip(read_csv_files(files), files, strict=True)
            items = [item for rows, file in tables for item in _parse_table(rows, parse_retained, str(file))]
        case ".json":
            items = [item for file in files for item in read_json(file, parse_retained)]
        case _:  # data=jsonl takes files with any other name
            items = [item for file in files for item in read_jsonl(file, parse_retained)]
    return row_filter.require(items)


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


def _load_files(files: list[Path], file_type: str) -> "Dataset | list[Row]":
    """The rows of Parquet or Arrow files, concatenated; an empty list if they have none.

    Raises:
        UserError: a file is damaged or of another type than its name says, or columns differ from file to file.
    """
    import pyarrow
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    paths = [str(file.resolve()) for file in files]
    try:
        for file in files:
            _check_columns(file, file_type)
        with _quiet_library():
            loaded = load_dataset(file_type, data_files={"train": paths})
    except (DatasetsError, OSError, ValueError, pyarrow.ArrowException) as error:
        if "corresponds to no data" in str(error):
            return []
        if len(files) > 1:  # one of them is damaged, or they do not go together
            for file in files:
                _load_files([file], file_type)
        named = str(files[0]) if len(files) == 1 else f"{listed_files(files)} together"
        reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise UserError(f"data.path: {named} cannot be read as {file_type.title()}: {reason}.") from error
    return loaded["train"]


def _check_columns(file: Path, file_type: str) -> None:
    """Check that each column of a file has a name of its own.

    Raises:
        UserError: two columns have the same one.
        OSError, pyarrow.ArrowException: the file is damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if file_type == "parquet":
        names = parquet.read_schema(file).names
    else:
        with pa.memory_map(str(file)) as source:
            try:
                names = pa.ipc.open_stream(source).schema.names
            except pa.ArrowInvalid:
                names = pa.ipc.open_file(source).schema.names
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"data.path: {file} has several columns '{twice[0]}'; give each its own name.")


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
