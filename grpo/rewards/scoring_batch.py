"""`ScoringBatch`: completions with what a reward can ask for by name.

Made by the trainer, the evaluation and `grpo.audit`, and passed to grpo/rewards/scoring.py. It knows no reward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from grpo.tasks.example import Example


def log_nothing(name: str, value: Any) -> None:
    """`log_metric` and `log_extra` outside training."""


@dataclass(frozen=True)
class ScoringBatch:
    """N completions to score; the completions of one prompt are adjacent.

    A value that is not known is None: a reward that takes it by name abstains.

    Attributes:
        completions: (N,) the texts.
        examples: (N,) the problem that each completion answers.
        completion_ids: (N,) the token ids of each completion; known where a policy samples.
        completion_tokens: (N,) the number of tokens, with the token that ends a completion.
        truncated: (N,) whether the completion reached the limit of tokens.
        step: the optimizer step, from 1; outside training it equals `max_steps`.
        max_steps: the last optimizer step; 1 outside training.
        trainer_state: the state of transformers' `Trainer`; outside training only the two numbers and the epoch.
        log_metric: TRL's function (name, number) that logs a metric; it does nothing outside training.
        log_extra: TRL's function (column, N values) that logs a column of the completions; also only in training.
    """

    completions: Sequence[str]
    examples: Sequence[Example]
    completion_ids: Sequence[Sequence[int]] | None = None
    completion_tokens: Sequence[int | None] | None = None
    truncated: Sequence[bool | None] | None = None
    step: int = 1
    max_steps: int = 1
    trainer_state: Any = field(default_factory=lambda: SimpleNamespace(global_step=1, max_steps=1, epoch=1.0))
    log_metric: Callable[[str, float], None] = log_nothing
    log_extra: Callable[[str, list[Any]], None] = log_nothing

    def rows(self, start: int, stop: int) -> "ScoringBatch":
        """The batch of the completions from `start` to `stop`."""

        def part(values: Sequence[Any] | None) -> Sequence[Any] | None:
            return None if values is None else values[start:stop]

        return replace(
            self,
            completions=self.completions[start:stop],
            examples=self.examples[start:stop],
            completion_ids=part(self.completion_ids),
            completion_tokens=part(self.completion_tokens),
            truncated=part(self.truncated),
        )

    def column(self, name: str) -> list[Any]:
        """(N,) the column `name` of the dataset; None for a row without it."""
        return [example.columns.get(name) for example in self.examples]

    def column_names(self) -> Mapping[str, None]:
        """The columns of the examples, in their order."""
        return {name: None for example in self.examples for name in example.columns}
