"""The training, validation and held-out problems of a dataset, which share no question.

Called by training, evaluation and sweeps. It knows nothing of prompts and tokens.
"""

import random
from dataclasses import dataclass, replace

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError
from grpo.tasks.datasets import LOADERS
from grpo.tasks.difficulty import select_by_solve_rate
from grpo.tasks.example import SHOWCASE, Example

# The datasets whose runs answer the showcase question. Others have problems of another kind.
SHOWCASE_DATASETS = ("arithmetic", "gsm8k")
EXAMPLE_QUESTIONS = 3
# Without a file of held-out problems, a fifth of the training split is drawn by default, at most this many problems.
MAX_HELD_OUT_BY_DEFAULT = 200


@dataclass
class Splits:
    """The problems of a dataset by use, and notes for the user: which problems are left out, and why.

    Attributes:
        examples: those whose answers a run shows before, during and after training.
    """

    train: list[Example]
    validation: list[Example]
    held_out: list[Example]
    examples: list[Example]
    notes: list[str]


def load_splits(config: DataConfig, validation: bool = False) -> Splits:
    """Load the problems of `config`. Validation problems are loaded on request, as they may reduce the training set.

    The splits share no question: training problems that are also held-out or validation problems are left out of
    training. A part of a split is drawn at random with `config.seed`.

    Raises:
        UserError: a file is missing or unreadable, or a split has no problems.
    """
    splits = Splits([], [], [], [], [])
    notes, load = splits.notes, LOADERS[config.name]
    train, held_out = load(config, "train", notes), load(config, "test", notes)
    assert train is not None
    if held_out is None:
        held_out, train = _draw_from_train(train, "eval_problems", config, notes)
    splits.held_out = _require_problems(_draw_problems(held_out, config.eval_problems, config), "held-out", config)
    if config.name in SHOWCASE_DATASETS:
        splits.examples.append(SHOWCASE)
        train = _without_showcase(train, notes)
    splits.examples += [example for example in splits.held_out if example not in splits.examples]
    del splits.examples[EXAMPLE_QUESTIONS:]
    train = _exclude_shared(train, held_out, ("training", "held-out"), config, notes)
    if validation:
        validation_problems = load(config, "validation", notes)
        if validation_problems is None:
            validation_problems, train = _draw_from_train(train, "validation_problems", config, notes)
        else:
            validation_problems = _exclude_shared(
                validation_problems, held_out, ("validation", "held-out"), config, notes
            )
        splits.validation = _require_problems(
            _draw_problems(validation_problems, config.validation_problems, config), "validation", config
        )
        train = _exclude_shared(train, validation_problems, ("training", "validation"), config, notes)
    if config.difficulty is not None:
        train = select_by_solve_rate(train, config, notes)
    splits.train = _require_problems(_draw_problems(train, config.train_problems, config), "training", config)
    return splits


def load_held_out(config: DataConfig, notes: list[str] | None = None) -> list[Example]:
    """Load only the held-out problems: the same as those of `load_splits`. `notes` receives notes for the user."""
    held_out = LOADERS[config.name](config, "test", [] if notes is None else notes)
    if held_out is None:
        return load_splits(replace(config, difficulty=None, curriculum=None)).held_out
    return _require_problems(_draw_problems(held_out, config.eval_problems, config), "held-out", config)


def _without_showcase(train: list[Example], notes: list[str]) -> list[Example]:
    remaining = [example for example in train if example.key != SHOWCASE.key]
    if len(remaining) < len(train):
        notes.append(
            "The showcase question is taken out of the training set, because it is asked before and after training: "
            f"{len(remaining):,} problems remain."
        )
    return remaining


def _exclude_shared(
    examples: list[Example], others: list[Example], splits: tuple[str, str], config: DataConfig, notes: list[str]
) -> list[Example]:
    """The examples of the first of two splits that are not in the second; `splits` are the names of both.

    Raises:
        UserError: none remains.
    """
    (split, other_split), other_keys = splits, {example.key for example in others}
    remaining = [example for example in examples if example.key not in other_keys]
    if examples and not remaining:
        raise UserError(
            f"data={config.name}: each of the {len(examples):,} {split} problems is also a {other_split} problem, so "
            "none remains; name files with different questions (data.train_file, data.validation_file, data.test_file)."
        )
    if len(remaining) < len(examples):
        notes.append(
            f"{len(examples) - len(remaining):,} of {len(examples):,} {split} problems are also {other_split} problems "
            f"and are left out: {len(remaining):,} remain."
        )
    return remaining


def _require_problems(examples: list[Example], split: str, config: DataConfig) -> list[Example]:
    if not examples:
        raise UserError(f"data={config.name}: the {split} split has no problems; name other data, data.path=.")
    return examples


def _draw_problems(examples: list[Example], count: int | None, config: DataConfig) -> list[Example]:
    """`count` of the examples; all of them if `count` is None or larger than their number."""
    return examples if count is None or count >= len(examples) else _split_at_random(examples, count, config)[0]


def _split_at_random(examples: list[Example], count: int, config: DataConfig) -> tuple[list[Example], list[Example]]:
    """`count` examples and the rest, both in their original order.

    They are drawn at random because a file may be sorted. With the same seed, a larger part contains a smaller one.
    """
    order = list(range(len(examples)))
    random.Random(config.seed).shuffle(order)
    drawn, rest = sorted(order[:count]), sorted(order[count:])
    return [examples[i] for i in drawn], [examples[i] for i in rest]


def _draw_from_train(
    train: list[Example], setting: str, config: DataConfig, notes: list[str]
) -> tuple[list[Example], list[Example]]:
    """Held-out or validation problems drawn from the training split, because the dataset has none, and its rest.

    `setting` is the name of the setting with their number: `eval_problems` (held out) or `validation_problems`.

    Raises:
        UserError: the split is too small for that number.
    """
    split = "test" if setting == "eval_problems" else "validation"
    missing = f"{split} split" if config.train_file is None else f"data.{split}_file"
    requested, default = getattr(config, setting), max(1, min(MAX_HELD_OUT_BY_DEFAULT, len(train) // 5))
    count = default if requested is None else requested
    if len(train) < 2:
        raise UserError(
            f"data={config.name}: the training split has {len(train)} problems, too few to hold some out"
            + ("." if config.train_file is None else f"; name another file, data.{split}_file=FILE.")
        )
    if count >= len(train):
        raise UserError(
            f"data.{setting}={count}: the training split has only {len(train):,} problems, and without a {missing} "
            f"they are drawn from it; set data.{setting}={default}, or null for a fifth."
        )
    hint = f"; data.{setting}=N sets another number" if requested is None else ""
    notes.append(
        f"No {missing}: {count:,} of the {len(train):,} training problems, drawn with data.seed={config.seed}, are "
        f"held out of training{hint}."
    )
    return _split_at_random(train, count, config)
