"""Completions in files: those made elsewhere, those of an evaluation that is kept, and those of one under way."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError, first_line
from grpo.core.files import atomic_write
from grpo.evaluation.completion import Completion, CompletionBatch
from grpo.tasks.example import Example
from grpo.tasks.jsonl import read_jsonl, text_column

COMPLETION_SUFFIXES = (".jsonl", ".parquet")


def read_completions(path: Path, setting: str) -> tuple[list[Example], CompletionBatch]:
    """The problems of a file with `question`, `gold` and `completion` a row, and their completions.

    Rows of the same question and gold, and of the same `problem` where the file numbers them, are samples of one
    problem. `tokens` and `truncated` are read where it has them.

    Raises:
        UserError: the file is missing, damaged, empty, or a row lacks something.
    """
    if path.suffix == ".parquet":
        rows = list(_parquet(path, setting))
    elif path.suffix == ".jsonl":
        rows = list(read_jsonl(path, _row, setting))
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


Row = tuple[Any, Example, Completion]


def _parquet(path: Path, setting: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except FileNotFoundError as error:
        raise UserError(f"{setting}: there is no file {path}.") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{setting}: {path} is damaged or not a Parquet file: {first_line(error)}.") from error
    for number, row in enumerate(rows, start=1):
        try:
            yield _row(row)
        except UserError as error:
            raise UserError(f"{path}, row {number}: {error}") from error


def _row(row: dict[str, Any]) -> Row:
    example = Example(text_column(row, "question").strip(), text_column(row, "gold").rpartition("####")[2].strip())
    tokens, truncated = row.get("tokens"), row.get("truncated")
    if isinstance(tokens, float) and tokens.is_integer():  # as pandas keeps whole numbers beside missing ones
        tokens = int(tokens)
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0):
        raise UserError(f"'tokens' is {tokens!r}; it must be a whole number.")
    if truncated is not None and not isinstance(truncated, bool):
        raise UserError(f"'truncated' is {truncated!r}; it must be true or false.")
    key = (repr(row.get("problem")), example)
    return key, example, Completion(text_column(row, "completion", blank=True), tokens, truncated)


class CompletionJournal:
    """The completions of an evaluation under way, on disk batch by batch, so that an interrupted one goes on."""

    def __init__(self, path: Path, identity: str) -> None:
        """Takes up what `path` holds.

        Raises:
            UserError: it is damaged, or of another evaluation than `identity`.
        """
        self.path, self.done = path, CompletionBatch()
        self.header = json.dumps({"identity": identity})
        if not path.is_file():
            return
        try:
            header, *lines = path.read_text(encoding="utf-8").split("\n")
            for line in lines[:-1]:  # a process that is killed may leave half a line behind the last line break
                problem, sample, *completion = json.loads(line)
                self.done[problem, sample] = Completion(*completion)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path} is damaged; delete it to begin anew.") from error
        if header != self.header:
            raise UserError(
                f"{path} holds another evaluation, which was interrupted; give this one another name=, or delete it."
            )

    def through(self, batches: Iterable[CompletionBatch]) -> Iterator[CompletionBatch]:
        """What was done before as the first batch, then `batches`, each written down before it is handed on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as partial:
            partial.write_text("\n".join([self.header, *self._lines(self.done)]) + "\n", encoding="utf-8")
        if self.done:
            yield self.done
        with self.path.open("a", encoding="utf-8") as file:
            for batch in batches:
                file.writelines(f"{line}\n" for line in self._lines(batch))
                file.flush()
                yield batch

    def _lines(self, batch: CompletionBatch) -> list[str]:
        return [json.dumps([*place, each.text, each.tokens, each.truncated]) for place, each in batch.items()]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
