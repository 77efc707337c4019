"""Datasets: rows of questions and gold answers, and the prompts made of them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo import arithmetic
from grpo.config import Config, DataConfig
from grpo.errors import UserError
from grpo.hub import prepare_hub, unreachable
from grpo.prompts import chat, parse_number, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    question: str
    gold: str


# The recipe's showcase. It is a row of GSM8K's training split, so it is taken out of every training set.
JOY = Example("Joy can read 8 pages of a book in 20 minutes. How many hours will it take her to read 120 pages?", "5")
GSM8K_TRAIN = 7_472  # training problems without it


@dataclass
class Splits:
    """Problems to train on and held-out ones to evaluate on, and what was done to them, for a person to read."""

    train: list[Example]
    held_out: list[Example]
    notes: list[str] = field(default_factory=list)


def load_splits(config: DataConfig) -> Splits:
    """The training and the held-out problems that `config` asks for.

    Raises:
        UserError: files that are missing or unreadable, or a split without problems.
    """
    splits = LOADERS[config.name](config)
    kept = [example for example in splits.train if example.question.strip() != JOY.question]
    if len(kept) < len(splits.train):
        splits.notes.append(
            f"Joy's question is taken out of the training set, to be asked before and after: {len(kept):,} problems "
            "remain."
        )
    splits.train = kept[: config.train_problems]
    splits.held_out = splits.held_out[: config.eval_problems]
    for name, examples in (("train", splits.train), ("held-out", splits.held_out)):
        if not examples:
            raise UserError(f"data={config.name}: the {name} split has no problems.")
    return splits


def _arithmetic(config: DataConfig) -> Splits:
    def take(held_out: bool, count: int | None) -> list[Example]:
        assert config.seed is not None and config.max_number is not None
        assert config.min_steps is not None and config.max_steps is not None
        source = arithmetic.problems(
            held_out,
            seed=config.seed,
            max_number=config.max_number,
            min_steps=config.min_steps,
            max_steps=config.max_steps,
        )
        return [Example(problem.question, str(problem.answer)) for problem in islice(source, count)]

    return Splits(take(False, config.train_problems), take(True, config.eval_problems))


def _gsm8k(config: DataConfig) -> Splits:
    if config.path is not None:
        return _jsonl(config)
    prepare_hub()
    from datasets import load_dataset

    try:
        dataset = load_dataset("openai/gsm8k", "main")
    except (OSError, ValueError) as error:
        raise unreachable("The dataset openai/gsm8k", "data.path", error) from error
    train, held_out = ([_example(row, config) for row in dataset[split]] for split in ("train", "test"))
    return Splits(train, held_out)


def _jsonl(config: DataConfig) -> Splits:
    assert config.path is not None and config.train_file is not None
    folder = Path(config.path).expanduser()
    train = list(read_jsonl(folder / config.train_file, config))
    if config.test_file is not None:
        return Splits(train, list(read_jsonl(folder / config.test_file, config)))
    count = config.eval_problems or 0
    if not 0 < count < len(train):
        raise UserError(
            f"data.eval_problems={config.eval_problems}: {config.train_file} has {len(train)} problems; without a "
            "data.test_file, between 1 and one less than that are held out of it."
        )
    note = f"No data.test_file: the last {count} problems of {config.train_file} are held out of training."
    return Splits(train[:-count], train[-count:], [note])


LOADERS = {"arithmetic": _arithmetic, "gsm8k": _gsm8k, "jsonl": _jsonl}


def read_jsonl(path: Path, config: DataConfig) -> Iterator[Example]:
    """The examples of a file of one JSON object a line; blank lines are skipped.

    Raises:
        UserError: naming file and line, where a line is not an object, lacks a column, or has no question or gold.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"data.path: there is no file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.path: {path} cannot be read as UTF-8 text: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object but {type(row).__name__}.")
        try:
            yield _example(row, config)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from error


def _example(row: dict[str, Any], config: DataConfig) -> Example:
    """The question of a row, and the gold answer: what follows `####` in the answer column, else all of it."""
    values = []
    for key in (config.question_column, config.answer_column):
        assert key is not None
        if key not in row:
            raise UserError(f"there is no column '{key}', only {', '.join(map(repr, row))}.")
        value = row[key]
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise UserError(f"'{key}' is {value!r}; it must hold text or a number.")
        if isinstance(value, float):
            value = format(Decimal(repr(value)), "f")
        try:
            str(value).encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"'{key}' is {value!r}, which is not valid text: {error.reason}.") from error
        values.append(str(value).strip())
    question, answer = values
    gold = answer.rpartition("####")[2].strip()
    if config.gold == "number" and parse_number(gold) is None:
        raise UserError(f"the gold answer {gold!r} is not a number; set data.gold=text for answers in words.")
    if not gold:
        raise UserError(f"nothing follows #### in '{config.answer_column}'.")
    return Example(question, gold)


def build_train_set(
    examples: Iterable[Example], tokenizer: "PreTrainedTokenizerBase", config: Config
) -> tuple[list[dict[str, Any]], list[str]]:
    """TRL's training rows (`prompt`, `question`, `gold`) without prompts over `max_prompt_length`, and notes on them.

    Raises:
        UserError: fewer prompts are left than one optimizer step takes.
    """
    examples, notes = list(examples), []
    if config.max_prompt_length is not None:
        ids = prompt_ids(tokenizer, [example.question for example in examples], config.system_prompt)
        lengths = [len(prompt) for prompt in ids]
        kept = [
            example for example, length in zip(examples, lengths, strict=True) if length <= config.max_prompt_length
        ]
        if not kept:
            raise UserError(
                f"max_prompt_length={config.max_prompt_length}: every training prompt is longer; the shortest has "
                f"{min(lengths)} tokens, the longest {max(lengths)}."
            )
        if len(kept) < len(examples):
            notes.append(
                f"{len(examples) - len(kept):,} of {len(examples):,} training prompts have more than "
                f"{config.max_prompt_length} tokens (max_prompt_length) and are dropped; {len(kept):,} remain."
            )
        examples = kept
    if len(examples) < config.prompts_per_step:
        raise UserError(
            f"prompts_per_step={config.prompts_per_step}: there are only {len(examples)} training prompts; an "
            "optimizer step takes that many at the most."
        )
    rows = [
        {"prompt": chat(example.question, config.system_prompt), "question": example.question, "gold": example.gold}
        for example in examples
    ]
    return rows, notes
