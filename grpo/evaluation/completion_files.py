"""Completions in files: from elsewhere, of a saved evaluation, and of one in progress.

Called by `grpo.evaluate` and `grpo.audit`. It must not score completions or import torch.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError, first_line, shorten
from grpo.core.files import atomic_write
from grpo.evaluation.completion import Completion, CompletionBatch, scoring_batch
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.tasks.column_table import read_dataset_columns
from grpo.tasks.columns import completion_column, reference_column, text_column
from grpo.tasks.example import Example
from grpo.tasks.jsonl import read_jsonl

OPTIONAL_COLUMNS = ("tokens", "truncated", "completion_ids")  # what a file may say about a completion
COMPLETION_SUFFIXES = (".jsonl", ".parquet")


def read_completions(path: Path, setting: str) -> tuple[list[Example], CompletionBatch]:
    """The problems and completions of a file with `question`, `gold` and `completion` in each row.

    Rows with the same question and gold are samples of one problem; if the file has a column `problem`, that must be
    the same, too. `tokens` and `truncated` are read if the file has them. The columns of the dataset in a file of this
    package, and all columns of another file, are the columns of the problem.

    Raises:
        UserError: the file is missing, damaged or empty, or a row lacks a value.
    """
    if path.suffix == ".parquet":
        rows = list(_read_parquet_rows(path, setting))
    elif path.suffix == ".jsonl":
        rows = list(read_jsonl(path, _parse_row, setting))
    else:
        raise UserError(
            f"{setting}={path}: the name of a file of completions ends in {' or '.join(COMPLETION_SUFFIXES)}."
        )
    if not rows:
        raise UserError(f"{setting}={path}: the file has no completions.")
    numbers: dict[Any, int] = {}
    examples, counts, completions = [], [], {}
    for key, example, completion in rows:
        if key not in numbers:
            numbers[key] = len(numbers)
            examples.append(example)
            counts.append(0)
        problem = numbers[key]
        completions[problem, counts[problem]] = completion
        counts[problem] += 1
    return examples, completions


def read_scoring_batch(path: Path, setting: str) -> tuple[ScoringBatch, list[int]]:
    """The N completions of a file as rewards receive them, and the numbers (N,) of their problems, in order.

    Raises:
        UserError: as `read_completions`.
    """
    examples, completions = read_completions(path, setting)
    keys = sorted(completions)  # the completions of one problem are adjacent, as in training
    problems = [problem for problem, _ in keys]
    return scoring_batch([completions[key] for key in keys], [examples[problem] for problem in problems]), problems


CompletionRow = tuple[Any, Example, Completion]


def _read_parquet_rows(path: Path, setting: str) -> Iterator[CompletionRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except FileNotFoundError as error:
        raise UserError(f"{setting}: there is no file {path}.") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{setting}: {path} is damaged or not a Parquet file: {first_line(error)}.") from error
    rows = zip(table.to_pylist(), read_dataset_columns(table), strict=True)
    for number, (row, columns) in enumerate(rows, start=1):
        try:
            yield _parse_row(row, columns)
        except UserError as error:
            raise UserError(f"{path}, row {number}: {error}") from error


def _parse_row(row: dict[str, Any], columns: dict[str, Any] | None = None) -> CompletionRow:
    question, gold = text_column(row, "question").strip(), reference_column(row, "gold").rpartition("####")[2].strip()
    columns = {name: value for name, value in (columns or row).items() if name not in ("completion", *OPTIONAL_COLUMNS)}
    example = Example(question, gold, columns=columns)
    tokens, truncated = row.get("tokens"), row.get("truncated")
    if isinstance(tokens, float) and tokens.is_integer():  # pandas stores integers beside missing values as floats
        tokens = int(tokens)
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0):
        raise UserError(f"'tokens' is {tokens!r}; it must be a whole number.")
    if truncated is not None and not isinstance(truncated, bool):
        raise UserError(f"'truncated' is {truncated!r}; it must be true or false.")
    ids = row.get("completion_ids")
    if ids is not None and not (isinstance(ids, list) and all(type(token) is int for token in ids)):
        raise UserError(f"'completion_ids' is {shorten(repr(ids))}; it must be a list of whole numbers, the token ids.")
    key = (repr(row.get("problem")), example)
    text = completion_column(row, "completion")
    return key, example, Completion(text, tokens, truncated, None if ids is None else tuple(ids))


class CompletionJournal:
    """The completions of an evaluation in progress, saved batch by batch, so that it can be resumed."""

    def __init__(self, path: Path, identity: str) -> None:
        """Read the completions in `path`, if there is such a file.

        Raises:
            UserError: it is damaged, or of an evaluation other than `identity`.
        """
        self.path, self.saved = path, CompletionBatch()
        self.header = json.dumps({"identity": identity})
        if not path.is_file():
            return
        try:
            header, *lines = path.read_text(encoding="utf-8").split("\n")
            for line in lines[:-1]:  # a killed process may leave half a line after the last line break
                problem, sample, text, tokens, truncated, *ids = json.loads(line)
                self.saved[problem, sample] = Completion(text, tokens, truncated, *map(tuple, ids))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path} is damaged; delete it to start again.") from error
        if header != self.header:
            raise UserError(
                f"{path} holds another evaluation, which was interrupted; give this one another name=, or delete it."
            )

    def save(self, batches: Iterable[CompletionBatch]) -> Iterator[CompletionBatch]:
        """The saved completions as the first batch, then `batches`, each saved before it is passed on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as partial:
            partial.write_text("\n".join([self.header, *self._lines(self.saved)]) + "\n", encoding="utf-8")
        if self.saved:
            yield self.saved
        with self.path.open("a", encoding="utf-8") as file:
            for batch in batches:
                file.writelines(f"{line}\n" for line in self._lines(batch))
                file.flush()
                yield batch

    def _lines(self, batch: CompletionBatch) -> list[str]:
        return [
            json.dumps([*sample_id, completion.text, completion.tokens, completion.truncated, completion.ids])
            for sample_id, completion in batch.items()
        ]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
