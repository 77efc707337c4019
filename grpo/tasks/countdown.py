"""Problems of the game Countdown, made from a seed: combine the numbers to reach the target. The loader of countdown.

Called through `LOADERS` of grpo/tasks/datasets.py. Every problem has a solution, because the target is made by
combining its numbers. Training and held-out problems share no set of numbers.
"""

import random
import zlib
from collections.abc import Iterator
from itertools import islice

from grpo.config.schema import DataConfig
from grpo.tasks.example import Example

HELD_OUT_ONE_IN = 8


def load_countdown(config: DataConfig, split: str, notes: list[str]) -> list[Example]:
    """The problems of a split; the validation problems follow the held-out problems in the same sequence."""
    assert config.eval_problems is not None and config.validation_problems is not None
    ranges = {
        "train": (0, config.train_problems),
        "test": (0, config.eval_problems),
        "validation": (config.eval_problems, config.eval_problems + config.validation_problems),
    }
    return list(islice(generate_problems(split != "train", config), *ranges[split]))


def generate_problems(held_out: bool, config: DataConfig) -> Iterator[Example]:
    """An endless sequence of problems with distinct sets of numbers, the same for the same seed."""
    assert config.min_numbers is not None and config.max_numbers is not None
    assert config.max_operand is not None and config.max_target is not None
    rng = random.Random(f"{config.seed} {held_out}")
    seen: set[tuple[int, ...]] = set()
    while True:
        numbers = [
            rng.randint(1, config.max_operand) for _ in range(rng.randint(config.min_numbers, config.max_numbers))
        ]
        key = tuple(sorted(numbers))
        if key in seen or (zlib.crc32(f"{key}".encode()) % HELD_OUT_ONE_IN == 0) is not held_out:
            continue
        target = combine(rng, numbers)
        if target <= config.max_target:
            seen.add(key)
            yield make_example(numbers, target)


def combine(rng: random.Random, numbers: list[int]) -> int:
    """A positive whole number that an expression of all `numbers` has as its value; every step gives one."""
    values = list(numbers)
    while len(values) > 1:
        rng.shuffle(values)
        left, right = values.pop(), values.pop()
        results = [left + right, left * right]
        results += [left - right] if left > right else []
        results += [left // right] if left % right == 0 else []
        values.append(rng.choice(results))
    return values[0]


def make_example(numbers: list[int], target: int) -> Example:
    question = (
        f"Using the numbers {numbers}, write an expression that equals {target}. You can use + - * / and brackets, and "
        "each number must be used exactly once."
    )
    return Example(question, str(target), columns={"numbers": numbers, "target": target})
