"""How the completions of an optimizer step are split into micro-batches and over processes.

Called before a run starts, and by the planner. It only computes sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import ceil

from grpo.config.schema import Config
from grpo.core.errors import UserError


@dataclass(frozen=True)
class BatchSplit:
    """The split of one optimizer step: `world_size * accumulation * per_device` completions.

    Args:
        per_device: completions in a micro-batch.
        accumulation: micro-batches of each process.
        world_size: number of processes.
    """

    num_generations: int
    prompts_per_step: int
    per_device: int
    accumulation: int
    world_size: int

    @property
    def completions(self) -> int:
        return self.num_generations * self.prompts_per_step

    def __str__(self) -> str:
        split = f"{self.accumulation} x {self.per_device}" + f" on {self.world_size} processes" * (self.world_size > 1)
        prompts = f"{self.prompts_per_step} prompts x {self.num_generations} completions"
        return f"{prompts} = {self.completions} per step, {split}"


def derive_batch(num_generations: int, prompts_per_step: int, micro_batch_size: int, world_size: int = 1) -> BatchSplit:
    """The split with the largest micro-batch of at most `micro_batch_size` completions that gives equal micro-batches.

    TRL counts its batches in completions and splits those of a step evenly over the processes. Its `grpo` loss is a
    mean over micro-batches, so they must have equal sizes.

    Raises:
        UserError: the completions of a step cannot be divided evenly among the processes; the message has the nearest
            settings that can.
    """
    completions = num_generations * prompts_per_step
    if completions % world_size:
        prompts = _nearest(prompts_per_step, 1, lambda n: n * num_generations % world_size == 0)
        generations = _nearest(num_generations, 2, lambda n: n * prompts_per_step % world_size == 0)
        raise UserError(
            f"prompts_per_step={prompts_per_step} x num_generations={num_generations} = {completions} completions "
            f"per step cannot be divided evenly among {world_size} processes. Nearest that can: "
            f"prompts_per_step={prompts}, or num_generations={generations}."
        )
    share = completions // world_size
    per_device = max(size for size in range(1, min(micro_batch_size, share) + 1) if share % size == 0)
    return BatchSplit(num_generations, prompts_per_step, per_device, share // per_device, world_size)


def smaller_micro_batch(batch: BatchSplit) -> BatchSplit | None:
    """The same step with the next smaller size of micro-batches; None if it is 1 already."""
    if batch.per_device == 1:
        return None
    return derive_batch(batch.num_generations, batch.prompts_per_step, batch.per_device - 1, batch.world_size)


def optimizer_steps(config: Config, problems: int) -> int:
    """Number of optimizer steps of a run on `problems` training problems."""
    if config.max_steps is not None:
        return config.max_steps
    steps, passes = config.algorithm.steps_per_generation, config.algorithm.num_iterations
    rollouts = problems // (config.prompts_per_step * steps)
    return ceil(rollouts * steps * passes * config.num_train_epochs)


def _nearest(value: int, least: int, fits: Callable[[int], bool]) -> str:
    """The nearest smaller and larger numbers that fit, as text; there is always a larger one."""
    below = next((n for n in range(value - 1, least - 1, -1) if fits(n)), None)
    above = next(n for n in count(value + 1) if fits(n))
    return f"{above}" if below is None else f"{below} or {above}"
