"""Which of the problems that a generator makes are held out, and which belong to a split.

Called by the datasets that are generated from a seed, arithmetic.py and countdown.py. It knows neither numbers nor
questions.
"""

import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from grpo.config.schema import DataConfig

Item = TypeVar("Item")

HELD_OUT_ONE_IN = 8


def is_held_out(key: str) -> bool:
    """Whether the problem with the numbers `key` is held out, whatever the seed: one in `HELD_OUT_ONE_IN` is."""
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


def take_split(generate: Callable[[bool], Iterator[Item]], config: DataConfig, split: str) -> list[Item]:
    """The problems of `train`, `validation` or `test`.

    `generate(held_out)` is the sequence of the training problems, or that of the problems that training never uses: the
    held-out problems come first in it, then the validation problems.
    """
    assert config.eval_problems is not None and config.validation_problems is not None
    ranges = {
        "train": (0, config.train_problems),
        "test": (0, config.eval_problems),
        "validation": (config.eval_problems, config.eval_problems + config.validation_problems),
    }
    return list(islice(generate(split != "train"), *ranges[split]))
