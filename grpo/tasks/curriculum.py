"""data.curriculum: the window of solve rates from which training problems are drawn, and how it moves over training.

grpo/tasks/train_set.py checks its windows before PyTorch is imported; the trainer draws prompts from them. This module
knows no prompts and no sampler.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo.config.schema import DataConfig
from grpo.core.statistics import Floats
from grpo.tasks.difficulty import read_solve_rates
from grpo.tasks.example import Example


@dataclass(frozen=True)
class Curriculum:
    """The window of solve rates at each step of a run.

    Attributes:
        start, end: the lowest and the highest solve rate, both included, at the first step and after the last step.
        rates: the solve rate of each training problem.
    """

    start: Sequence[float]
    end: Sequence[float]
    rates: Floats

    @classmethod
    def of(cls, examples: Sequence[Example], config: DataConfig) -> "Curriculum | None":
        """The curriculum of a run on `examples`; None if it has none.

        Raises:
            UserError: the file of data.difficulty cannot be read.
        """
        if config.curriculum is None:
            return None
        rates = read_solve_rates(config)
        return cls(**config.curriculum, rates=np.array([rates[example.key] for example in examples]))

    def window(self, step: int, last_step: int) -> tuple[float, float]:
        """The lowest and the highest solve rate after `step` of `last_step` optimizer steps; they move linearly."""
        progress = min(1.0, step / last_step)
        low, high = (first * (1 - progress) + last * progress for first, last in zip(self.start, self.end, strict=True))
        return low, high

    def outside(self, step: int, last_step: int) -> set[int]:
        """The problems that are not in the window after `step` of `last_step` optimizer steps."""
        low, high = self.window(step, last_step)
        # A computed bound may differ from an equal rate by a rounding error.
        return set(np.flatnonzero((self.rates < low - 1e-9) | (self.rates > high + 1e-9)).tolist())
