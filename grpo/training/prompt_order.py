"""The order in which training prompts are drawn: it is seeded, and a resumed run continues it.

`CheckpointingMixin` uses it for TRL's batches, `ResamplingMixin` for further prompts. This module knows no policy and
no rewards.
"""

from collections.abc import Callable, Collection, Iterator
from math import ceil
from typing import Any

import numpy as np
from torch.utils.data import Sampler as IndexSampler

from grpo.tasks.curriculum import Curriculum


class PromptOrder:
    """An endless seeded order of `count` prompts: a permutation of all of them, then another one.

    Attributes:
        position: how many prompts of this order have been taken or passed over.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.position = count, seed, 0

    def take(self, wanted: int, excluded: Collection[int]) -> list[int]:
        """The next `wanted` different prompts that are not `excluded`; there must be as many."""
        taken: list[int] = []
        while len(taken) < wanted:
            cycle, start = divmod(self.position, self.count)
            for prompt in np.random.default_rng([self.seed, cycle]).permutation(self.count)[start:].tolist():
                self.position += 1
                if prompt not in excluded and prompt not in taken:
                    taken.append(prompt)
                if len(taken) == wanted:
                    break
        return taken


class EpochSeededSampler(IndexSampler):
    """TRL's `RepeatSampler`, seeded again for each epoch, so that a resumed epoch has the order it had before."""

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.epoch = sampler, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator.manual_seed(self.sampler.seed + self.epoch)
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class CurriculumSampler(EpochSeededSampler):
    """TRL's `RepeatSampler` with the prompts of each rollout drawn from the window of its first step.

    An epoch has as many rollouts as without a curriculum, except the last one, which ends with the run: the data loader
    asks for one rollout more than is trained on, and there may be no problems in its window.

    Args:
        steps: optimizer steps that share a rollout.
        last_step: returns the last step of the run, which is known once training begins.
    """

    def __init__(self, sampler: Any, curriculum: Curriculum, steps: int, last_step: Callable[[], int]) -> None:
        super().__init__(sampler)
        self.curriculum, self.steps, self.last_step = curriculum, steps, last_step

    def __iter__(self) -> Iterator[int]:
        prompts, repeats = self.sampler.batch_size, self.sampler.repeat_count
        rollouts = self.sampler.num_samples // prompts
        order = PromptOrder(self.sampler.num_samples, self.sampler.seed + 1)  # another one than that of further prompts
        last_step = self.last_step()
        for rollout in range(min((self.epoch + 1) * rollouts, ceil(last_step / self.steps))):
            batch = order.take(prompts, self.curriculum.outside(rollout * self.steps, last_step))
            if rollout >= self.epoch * rollouts:
                for _ in range(repeats):
                    yield from (prompt for prompt in batch for _ in range(self.sampler.mini_repeat_count))
