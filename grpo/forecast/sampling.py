"""Asks the policy: completions of training problems by the sampler of the run, until the time is up.

Called by `grpo.preflight`. It scores nothing.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from grpo.config.schema import PreflightConfig
from grpo.core.progress import progress
from grpo.core.signals import StoppedBySignal
from grpo.evaluation.completion import CompletionBatch
from grpo.evaluation.generation import generate_completions
from grpo.tasks.curriculum import Curriculum
from grpo.tasks.example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from grpo.sampling.sampler import Sampler


@dataclass(frozen=True)
class Sampled:
    """The completions of the first `problems` problems.

    Attributes:
        requested: the number of problems.
        seconds: of a completion, once the sampler is warm.
        stopped: the signal that ended it early.
    """

    completions: CompletionBatch
    problems: int
    requested: int
    seconds: float
    stopped: StoppedBySignal | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all problems were asked."""
        return self.problems == self.requested


def draw_problems(examples: Sequence[Example], config: PreflightConfig) -> list[Example]:
    """The problems that the policy is asked, drawn at random from those that the first step may draw."""
    curriculum = Curriculum.of(examples, config.data)
    outside = set() if curriculum is None else curriculum.outside(0, 1)
    known = [example for number, example in enumerate(examples) if number not in outside]
    return random.Random(config.seed).sample(known, min(config.problems, len(known)))


def completions_of_each(config: PreflightConfig) -> int:
    """The number of completions of each problem."""
    return max(16, config.num_generations) if config.samples is None else config.samples


def sample_problems(
    sampler: "Sampler", tokenizer: "PreTrainedTokenizerBase", examples: Sequence[Example], config: PreflightConfig
) -> Sampled:
    """Sample completions of whole problems: of one first, then of as many at once as a step of the run has.

    Raises:
        StoppedBySignal: a signal came before the first problem was complete.
        UserError: there is not enough memory for a single completion.
    """
    samples = completions_of_each(config)
    at_once = min(config.eval_batch_size, config.prompts_per_step * config.num_generations)
    config = replace(config, eval_batch_size=at_once)
    completions: CompletionBatch = {}
    count, problems, seconds, stopped = 1, 0, 0.0, None
    started = time.perf_counter()
    with progress("sampling", len(examples) * samples, unit="completions") as advance:
        try:
            while 0 < count <= len(examples) - problems:
                before = time.perf_counter()
                numbers = range(problems, problems + count)
                prompts = [examples[number].prompt for number in numbers]
                part: CompletionBatch = {}
                for batch in generate_completions(
                    sampler, tokenizer, prompts, config, samples, config.temperature, numbers=numbers
                ):
                    part |= {(numbers[i], sample): completion for (i, sample), completion in batch.items()}
                    advance(len(batch), _describe(completions | part))
                completions |= part
                problems += count
                seconds = (time.perf_counter() - before) / len(part)
                left = float("inf") if config.minutes is None else 60 * config.minutes + started - time.perf_counter()
                affordable = min(len(examples), left / (seconds * samples))
                count = min(max(1, at_once // samples), len(examples) - problems, int(affordable))
        except StoppedBySignal as signal:
            if not problems:
                raise
            stopped = signal
    return Sampled(completions, problems, len(examples), seconds, stopped)


def _describe(completions: CompletionBatch) -> str:
    tokens = sum(completion.tokens or 0 for completion in completions.values()) / len(completions)
    truncated = sum(bool(completion.truncated) for completion in completions.values()) / len(completions)
    return f"{tokens:.0f} tokens each, {truncated:.0%} truncated"
