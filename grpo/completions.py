"""Completions in files: those made elsewhere, those of an evaluation that is kept, and those of one under way."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from grpo.data import Example, read_jsonl, text_of
from grpo.errors import UserError, first_line
from grpo.evaluation import Batch, Completion
from grpo.files import written_aside

SUFFIXES = (".jsonl", ".parquet")


def read_completions(path: Path, setting: str) -> tuple[list[Example], Batch]:
    """The problems of a file with `question`, `gold` and `completion` a row, and their completions.

    Rows of the same question and gold are samples of one problem; so are those of the same `problem`, where the file
    numbers them. `tokens` and `truncated` are read where it has them.

    Raises:
        UserError: the file is missing, damaged, empty, or a row lacks something.
    """
    if path.suffix == ".parquet":
        rows = [_row(row) for row in _parquet(path, setting)]
    elif path.suffix == ".jsonl":
        rows = list(read_jsonl(path, _row, setting))
    else:
        raise UserError(f"{setting}={path}: the name of a file of completions ends in {' or '.join(SUFFIXES)}.")
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


def _parquet(path: Path, setting: str) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except FileNotFoundError as error:
        raise UserError(f"{setting}: there is no file {path}.") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{setting}: {path} is damaged or not a Parquet file: {first_line(error)}.") from error


def _row(row: dict[str, Any]) -> tuple[Any, Example, Completion]:
    example = Example(text_of(row, "question").strip(), text_of(row, "gold").strip())
    tokens, truncated = row.get("tokens"), row.get("truncated")
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int)):
        raise UserError(f"'tokens' is {tokens!r}; it must be a whole number.")
    if truncated is not None and not isinstance(truncated, bool):
        raise UserError(f"'truncated' is {truncated!r}; it must be true or false.")
    return row.get("problem", example), example, Completion(text_of(row, "completion", blank=True), tokens, truncated)


class Unfinished:
    """The completions of an evaluation under way, on disk batch by batch, so that an interrupted one goes on."""

    def __init__(self, path: Path, identity: str) -> None:
        """Takes up what `path` holds for `identity`; anything else in it is begun anew."""
        self.path, self.done = path, Batch()
        self.header = json.dumps({"identity": identity})
        try:
            header, *lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            return
        if header == self.header:
            for line in lines[:-1]:  # a process that is killed may leave half a line behind the last line break
                problem, sample, *completion = json.loads(line)
                self.done[problem, sample] = Completion(*completion)

    def through(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """What was done before as the first batch, then `batches`, each written down before it is handed on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(self.path) as partial:
            partial.write_text("\n".join([self.header, *self._lines(self.done)]) + "\n", encoding="utf-8")
        if self.done:
            yield self.done
        with self.path.open("a", encoding="utf-8") as file:
            for batch in batches:
                file.writelines(f"{line}\n" for line in self._lines(batch))
                file.flush()
                yield batch

    def _lines(self, batch: Batch) -> list[str]:
        return [json.dumps([*place, each.text, each.tokens, each.truncated]) for place, each in batch.items()]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
