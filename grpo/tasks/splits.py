"""The training, validation and held-out problems of a dataset, which share no question.

Called by training and evaluation. It knows nothing of prompts and tokens.
"""

import random
from dataclasses import dataclass

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError
from grpo.tasks.datasets import LOADERS
from grpo.tasks.example import SHOWCASE, Example

MAX_HELD_OUT_BY_DEFAULT = 200  # problems taken out of the training split if no file has them; a fifth of a small split


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
    notes, read = splits.notes, LOADERS[config.name]
    train, held_out = read(config, "train"), read(config, "test")
    assert train is not None
    if held_out is None:
        held_out, train = _hold_out(train, "eval_problems", config, notes)
    splits.held_out = _require_problems(_draw(held_out, config.eval_problems, config), "held-out", config)
    without_joy = [example for example in train if example.key != SHOWCASE.key]
    if len(without_joy) < len(train):
        notes.append(
            f"Joy's question is taken out of the training set, to be asked before and after: {len(without_joy):,} "
            "problems remain."
        )
    train = _exclude_shared(without_joy, held_out, ("training", "held-out"), config, notes)
    if validation:
        found = read(config, "validation")
        if found is None:
            found, train = _hold_out(train, "validation_problems", config, notes)
        else:
            found = _exclude_shared(found, held_out, ("validation", "held-out"), config, notes)
        splits.validation = _require_problems(_draw(found, config.validation_problems, config), "validation", config)
        train = _exclude_shared(train, found, ("training", "validation"), config, notes)
    splits.train = _require_problems(_draw(train, config.train_problems, config), "train", config)
    return splits


def load_held_out(config: DataConfig) -> list[Example]:
    """The held-out problems alone, the same as `load_splits` gives."""
    held_out = LOADERS[config.name](config, "test")
    if held_out is None:
        return load_splits(config).held_out
    return _require_problems(_draw(held_out, config.eval_problems, config), "held-out", config)


def _exclude_shared(
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


def _require_problems(examples: list[Example], split: str, config: DataConfig) -> list[Example]:
    if not examples:
        raise UserError(f"data={config.name}: the {split} split has no problems.")
    return examples


def _draw(examples: list[Example], count: int | None, config: DataConfig) -> list[Example]:
    """`count` of the examples, or all where it is None or they are fewer."""
    return examples if count is None or count >= len(examples) else _draw_and_rest(examples, count, config)[0]


def _draw_and_rest(examples: list[Example], count: int, config: DataConfig) -> tuple[list[Example], list[Example]]:
    """`count` examples, drawn since a file may be sorted, and the others, both in their order.

    With the same seed, a smaller part is contained in a larger one.
    """
    order = list(range(len(examples)))
    random.Random(config.seed).shuffle(order)
    drawn = sorted(order[:count]), sorted(order[count:])
    return [examples[i] for i in drawn[0]], [examples[i] for i in drawn[1]]


def _hold_out(
    train: list[Example], setting: str, config: DataConfig, notes: list[str]
) -> tuple[list[Example], list[Example]]:
    """Problems drawn from the training split because there is no file of them, and the others.

    Raises:
        UserError: the split is too small for the number that is set.
    """
    file = {"eval_problems": "test_file"}.get(setting, "validation_file")
    given, a_fifth = getattr(config, setting), max(1, min(MAX_HELD_OUT_BY_DEFAULT, len(train) // 5))
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
    return _draw_and_rest(train, count, config)
