"""Problems of the game Countdown, made from a seed: combine the numbers to reach the target.

The loader is called through `LOADERS` of grpo/tasks/datasets.py. Every problem has a solution, because the target is
made by combining its numbers. Training and held-out problems share no set of numbers. This module does not know how an
answer is judged: grpo/tasks/equation_answer.py does that.
"""

import random
from collections.abc import Iterator
from functools import partial

from grpo.config.schema import DataConfig
from grpo.tasks.example import Example
from grpo.tasks.generated import is_held_out, take_split


def load_countdown(config: DataConfig, split: str, notes: list[str]) -> list[Example]:
    """The problems of a split."""
    return take_split(partial(generate_problems, config), config, split)


def generate_problems(config: DataConfig, held_out: bool) -> Iterator[Example]:
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
        if key in seen or is_held_out(str(key)) is not held_out:
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
