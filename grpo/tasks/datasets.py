"""Datasets: rows of questions and gold answers, and the prompts made of them."""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo.config.schema import Config, DataConfig
from grpo.core.errors import UserError, kind_of
from grpo.core.paths import shortest
from grpo.policy.chat_template import chat, prompt_ids
from grpo.policy.hub import prepare_hub, unreachable
from grpo.tasks import arithmetic
from grpo.tasks.answers import one_number, parse_number

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Made = TypeVar("Made")


@dataclass(frozen=True)
class Example:
    question: str
    gold: str

    @property
    def key(self) -> str:
        """The question with normalized white space; two problems with the same key are the same problem."""
        return " ".join(self.question.split())


# The recipe's showcase. It is a row of GSM8K's training split, so it is taken out of every training set.
JOY = Example("Joy can read 8 pages of a book in 20 minutes. How many hours will it take her to read 120 pages?", "5")
TRAIN_FILE = "train.jsonl"  # the default in conf/data/jsonl.yaml
MOST_BY_DEFAULT = 200  # problems taken out of the training split if no file has them; a fifth of a small split


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

    The splits share no question: training problems that are also held out or validated on are left out of training.
    Where only a part of a split is taken, it is drawn with `config.seed`.

    Raises:
        UserError: files that are missing or unreadable, or a split without problems.
    """
    splits = Splits([], [], [], [])
    notes, read = splits.notes, READERS[config.name]
    train, held_out = read(config, "train"), read(config, "test")
    assert train is not None
    if held_out is None:
        held_out, train = _cut(train, "eval_problems", config, notes)
    splits.held_out = _some(_part(held_out, config.eval_problems, config), "held-out", config)
    without_joy = [example for example in train if example.key != JOY.key]
    if len(without_joy) < len(train):
        notes.append(
            f"Joy's question is taken out of the training set, to be asked before and after: {len(without_joy):,} "
            "problems remain."
        )
    train = _without(without_joy, held_out, ("training", "held-out"), config, notes)
    if validation:
        found = read(config, "validation")
        if found is None:
            found, train = _cut(train, "validation_problems", config, notes)
        else:
            found = _without(found, held_out, ("validation", "held-out"), config, notes)
        splits.validation = _some(_part(found, config.validation_problems, config), "validation", config)
        train = _without(train, found, ("training", "validation"), config, notes)
    splits.train = _some(_part(train, config.train_problems, config), "train", config)
    return splits


def load_held_out(config: DataConfig) -> list[Example]:
    """The held-out problems alone, the same as `load_splits` gives."""
    held_out = READERS[config.name](config, "test")
    if held_out is None:
        return load_splits(config).held_out
    return _some(_part(held_out, config.eval_problems, config), "held-out", config)


def _without(
    examples: list[Example], others: list[Example], splits: tuple[str, str], config: DataConfig, notes: list[str]
) -> list[Example]:
    """The examples of the first of two splits that are not also in the second.

    Raises:
        UserError: none remains.
    """
    (what, other), known = splits, {example.key for example in others}
    kept = [example for example in examples if example.key not in known]
    if examples and not kept:
        raise UserError(
            f"data={config.name}: each of the {len(examples):,} {what} problems is also a {other} problem, so none "
            "remains; name files with different questions (data.train_file, data.validation_file, data.test_file)."
        )
    if len(kept) < len(examples):
        notes.append(
            f"{len(examples) - len(kept):,} of {len(examples):,} {what} problems are also {other} problems and are "
            f"left out: {len(kept):,} remain."
        )
    return kept


def _some(examples: list[Example], split: str, config: DataConfig) -> list[Example]:
    if not examples:
        raise UserError(f"data={config.name}: the {split} split has no problems.")
    return examples


def _part(examples: list[Example], count: int | None, config: DataConfig) -> list[Example]:
    """`count` of the examples, or all where it is None or they are fewer."""
    return examples if count is None or count >= len(examples) else _divide(examples, count, config)[0]


def _divide(examples: list[Example], count: int, config: DataConfig) -> tuple[list[Example], list[Example]]:
    """`count` examples, drawn since a file may be sorted, and the others, both in their order.

    With the same seed, a smaller part is contained in a larger one.
    """
    order = list(range(len(examples)))
    random.Random(config.seed).shuffle(order)
    drawn = sorted(order[:count]), sorted(order[count:])
    return [examples[i] for i in drawn[0]], [examples[i] for i in drawn[1]]


def _cut(
    train: list[Example], setting: str, config: DataConfig, notes: list[str]
) -> tuple[list[Example], list[Example]]:
    """Problems drawn from the training split because there is no file of them, and the others.

    Raises:
        UserError: the split is too small for the number that is set.
    """
    file = {"eval_problems": "test_file"}.get(setting, "validation_file")
    given, a_fifth = getattr(config, setting), max(1, min(MOST_BY_DEFAULT, len(train) // 5))
    count = a_fifth if given is None else given
    if len(train) < 2:
        raise UserError(
            f"data={config.name}: the training split has {len(train)} problems, too few to hold some out; name another "
            f"file, data.{file}=FILE."
        )
    if count >= len(train):
        raise UserError(
            f"data.{setting}={count}: the training split has only {len(train):,} problems, and without a data.{file} "
            f"they are taken out of it; set data.{setting}={a_fifth}, or null for a fifth."
        )
    why = f"; data.{setting}=N takes another number" if given is None else ""
    notes.append(
        f"No data.{file}: {count:,} of the {len(train):,} training problems, drawn with data.seed={config.seed}, are "
        f"held out of training{why}."
    )
    return _divide(train, count, config)


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
    folder = Path(shortest(Path(config.path).expanduser()))  # settings have it absolute; messages name it as typed
    files = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
    if folder.is_file() or (folder.suffix == ".jsonl" and not folder.is_dir()):
        if config.train_file not in (TRAIN_FILE, folder.name):
            raise UserError(
                f"data.train_file={config.train_file}: data.path={folder} names the training file already; leave "
                f"one out, or type the folder, data.path={folder.parent}."
            )
        folder, files["train"] = folder.parent, folder.name
    if (name := files[split]) is None:
        return None
    others = sorted(path.name for path in folder.glob("*.jsonl"))
    if not (folder / name).exists() and others:
        raise UserError(
            f"data.path: there is no file {folder / name}; the folder has {', '.join(others[:9])}: set "
            f"data.{split}_file=NAME."
        )
    return list(read_jsonl(folder / name, lambda row: _example(row, config)))


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
            raise UserError(f"{path}, line {number}: not a JSON object but {kind_of(row)}.")
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
    number_in = parse_number if config.answer_match == "strict" else one_number
    if config.gold == "number" and number_in(gold) is None:
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
