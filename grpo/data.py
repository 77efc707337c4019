"""Datasets: rows of questions and gold answers, and the prompts made of them."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo import arithmetic
from grpo.config import Config, DataConfig
from grpo.errors import UserError
from grpo.hub import prepare_hub, unreachable
from grpo.prompts import chat, parse_number, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Made = TypeVar("Made")


@dataclass(frozen=True)
class Example:
    question: str
    gold: str


# The recipe's showcase. It is a row of GSM8K's training split, so it is taken out of every training set.
JOY = Example("Joy can read 8 pages of a book in 20 minutes. How many hours will it take her to read 120 pages?", "5")
GSM8K_TRAIN = 7_472  # training problems without it


@dataclass
class Splits:
    """Problems to train on, those to look at meanwhile, and those that training never sees; and what was done to them,
    for a person to read."""

    train: list[Example]
    validation: list[Example]
    held_out: list[Example]
    notes: list[str]


def load_splits(config: DataConfig, validation: bool = False) -> Splits:
    """The problems that `config` asks for; validation problems only on demand, since they may cost training some.

    Raises:
        UserError: files that are missing or unreadable, or a split without problems.
    """
    splits = Splits([], [], [], [])
    read = READERS[config.name]
    train, held_out = read(config, "train"), read(config, "test")
    assert train is not None
    if held_out is None:
        train, held_out = _cut(train, "eval_problems", config, splits.notes)
    splits.held_out = held_out[: config.eval_problems]
    kept = [example for example in train if example.question.strip() != JOY.question]
    if len(kept) < len(train):
        splits.notes.append(
            f"Joy's question is taken out of the training set, to be asked before and after: {len(kept):,} problems "
            "remain."
        )
    if validation:
        found = read(config, "validation")
        if found is None:
            kept, found = _cut(kept, "validation_problems", config, splits.notes)
        splits.validation = _some(found[: config.validation_problems], "validation", config)
    splits.train = _some(kept[: config.train_problems], "train", config)
    _some(splits.held_out, "held-out", config)
    return splits


def load_held_out(config: DataConfig) -> list[Example]:
    """The held-out problems alone, the same as `load_splits` gives."""
    held_out = READERS[config.name](config, "test")
    if held_out is None:
        return load_splits(config).held_out
    return _some(held_out[: config.eval_problems], "held-out", config)


def _some(examples: list[Example], split: str, config: DataConfig) -> list[Example]:
    if not examples:
        raise UserError(f"data={config.name}: the {split} split has no problems.")
    return examples


def _cut(
    train: list[Example], setting: str, config: DataConfig, notes: list[str]
) -> tuple[list[Example], list[Example]]:
    """Training problems, and the last ones taken out of them for want of a file."""
    count, file = getattr(config, setting) or 0, {"eval_problems": "test_file"}.get(setting, "validation_file")
    if not 0 < count < len(train):
        raise UserError(
            f"data.{setting}={getattr(config, setting)}: {config.train_file} has {len(train):,} problems; without a "
            f"data.{file}, between 1 and one less than that are held out of it."
        )
    notes.append(f"No data.{file}: the last {count:,} problems of the training split are held out of training.")
    return train[:-count], train[-count:]


def _arithmetic(config: DataConfig, split: str) -> list[Example]:
    assert config.seed is not None and config.max_number is not None
    assert config.min_steps is not None and config.max_steps is not None
    assert config.eval_problems is not None and config.validation_problems is not None
    ranges = {
        "train": (0, config.train_problems),
        "test": (0, config.eval_problems),
        # They follow the test problems, among the held-out numbers.
        "validation": (config.eval_problems, config.eval_problems + config.validation_problems),
    }
    source = arithmetic.problems(
        split != "train",
        seed=config.seed,
        max_number=config.max_number,
        min_steps=config.min_steps,
        max_steps=config.max_steps,
    )
    return [Example(problem.question, str(problem.answer)) for problem in islice(source, *ranges[split])]


def _gsm8k(config: DataConfig, split: str) -> list[Example] | None:
    if config.path is not None:
        return _jsonl(config, split)
    if split == "validation":
        return None
    prepare_hub()
    from datasets import load_dataset

    try:
        dataset = load_dataset("openai/gsm8k", "main", split=split)
    except (OSError, ValueError) as error:
        raise unreachable("The dataset openai/gsm8k", "data.path", error) from error
    return [_example(row, config) for row in dataset]


def _jsonl(config: DataConfig, split: str) -> list[Example] | None:
    assert config.path is not None
    files = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
    if (name := files[split]) is None:
        return None
    return list(read_jsonl(Path(config.path).expanduser() / name, lambda row: _example(row, config)))


# The problems of a split, `train`, `validation` or `test`; None where the dataset has no such split.
READERS: dict[str, Callable[[DataConfig, str], list[Example] | None]] = {
    "arithmetic": _arithmetic,
    "gsm8k": _gsm8k,
    "jsonl": _jsonl,
}


def read_jsonl(path: Path, make: Callable[[dict[str, Any]], Made], setting: str = "data.path") -> Iterator[Made]:
    """What `make` makes of each line of a file of one JSON object a line; blank lines are skipped.

    Raises:
        UserError: naming file and line, where a line is not an object or `make` refuses it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"{setting}: there is no file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{setting}: {path} cannot be read as UTF-8 text: {error}.") from error
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
            yield make(row)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from error


def text_of(row: dict[str, Any], key: str, blank: bool = False) -> str:
    """The text or number under `key`, as text; `blank` says whether it may be empty.

    Raises:
        UserError: it is neither, or not there.
    """
    if key not in row:
        raise UserError(f"there is no column '{key}', only {', '.join(map(repr, row))}.")
    value = row[key]
    kinds = str | int | float | Decimal
    if isinstance(value, bool) or not isinstance(value, kinds) or value != value or not (blank or str(value).strip()):
        raise UserError(f"'{key}' is {value!r}; it must hold text or a number.")
    if isinstance(value, float | Decimal):
        value = format(Decimal(str(value)), "f")
    try:
        str(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"'{key}' is {value!r}, which is not valid text: {error.reason}.") from error
    return str(value)


def _example(row: dict[str, Any], config: DataConfig) -> Example:
    """The question of a row, and the gold answer: what follows `####` in the answer column, else all of it."""
    assert config.question_column is not None and config.answer_column is not None
    question, answer = (text_of(row, key).strip() for key in (config.question_column, config.answer_column))
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
    steps = config.algorithm.steps_per_generation
    if len(examples) < config.prompts_per_step * steps:
        rollout = f" x algorithm.steps_per_generation={steps} = {config.prompts_per_step * steps}" if steps > 1 else ""
        raise UserError(
            f"prompts_per_step={config.prompts_per_step}{rollout}: there are only {len(examples)} training prompts; "
            f"{'a rollout' if steps > 1 else 'an optimizer step'} takes that many at the most."
        )
    rows = [
        {"prompt": chat(example.question, config.system_prompt), "question": example.question, "gold": example.gold}
        for example in examples
    ]
    return rows, notes
