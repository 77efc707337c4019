"""Reads the rows of CSV files, which have texts only: which columns are numbers is decided by all of their values.

Called by grpo/tasks/rows.py. It does not know what the columns mean.
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError
from grpo.tasks.data_files import data_suffix
from grpo.tasks.text_files import read_text

LONGEST_VALUE = 2**31 - 1  # characters


def read_csv_files(files: Sequence[Path]) -> list[list[dict[str, Any]]]:
    """The rows of each of the files of a split; .tsv files have tabs between the values.

    A column is numbers if each of its values is written as Python writes that number, so that nothing is lost: `12`,
    `-0.5`, but not `007` or `1.50`. A blank cell of such a column is None. Any other column is texts.

    Raises:
        UserError: a file is damaged or empty, two columns have the same name, or a line has more or fewer values.
    """
    tables = [_read_csv(file) for file in files]
    for name in dict.fromkeys(name for table in tables for row in table[:1] for name in row):
        rows = [row for table in tables for row in table if name in row]
        number_type = _number_type([row[name] for row in rows])
        if number_type is not None:
            for row in rows:
                row[name] = number_type(row[name]) if row[name] else None
    return tables


def _read_csv(file: Path) -> list[dict[str, Any]]:
    text = read_text(file, "data.path")
    separator = "\t" if data_suffix(file) == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    limit = csv.field_size_limit(LONGEST_VALUE)
    try:
        lines = [(reader.line_num, values) for values in reader if values]  # blank lines have none
    except csv.Error as error:
        raise UserError(f"data.path: {file} cannot be read as CSV: line {reader.line_num}: {error}.") from error
    finally:
        csv.field_size_limit(limit)
    if not lines:
        raise UserError(f"data.path: {file} is empty; the first line of a CSV file has the names of the columns.")
    names = [name or f"Unnamed: {number}" for number, name in enumerate(lines[0][1])]  # as pandas names an index
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"data.path: {file} has several columns '{twice[0]}'; give each its own name.")
    for number, values in lines[1:]:
        if len(values) != len(names):
            raise UserError(f"{file}, line {number}: {len(values)} values; the first line names {len(names)} columns.")
    return [dict(zip(names, values, strict=True)) for _, values in lines[1:]]


def _number_type(values: Sequence[str]) -> type[int] | type[float] | None:
    """The type of number that all `values` have that are not blank; None if it would lose any of them."""
    filled = [value for value in values if value]
    for number_type in (int, float):
        if filled and all(_is_exact(value, number_type) for value in filled):
            return number_type
    return None


def _is_exact(value: str, number_type: type[int] | type[float]) -> bool:
    try:
        number = number_type(value)
    except ValueError:
        return False
    return str(number) == value and (isinstance(number, int) or math.isfinite(number))
