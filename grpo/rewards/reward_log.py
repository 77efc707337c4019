"""`RewardLog`: TRL's `log_metric` and `log_extra` as a reward calls them, with a check of what it logs.

Made by grpo/rewards/binding.py for each call of a reward, and by execution.py for what a worker process has logged. The
checks hold in evaluations as well, where nothing is logged. It knows no scores.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

from grpo.core.metric_names import is_metric_of_run
from grpo.rewards.registry import REWARDS
from grpo.rewards.scoring_batch import ScoringBatch

ROW = "row"  # TRL's log of completions receives the indices of the problems under this name
OWN_COLUMNS = ("step", "question", "gold", "completion", "total", "advantage")  # of completions/, without the scores


class RewardLog:
    """What the reward `name` logs about `batch`; `owners` maps each column that a reward has logged to the reward."""

    def __init__(self, name: str, batch: ScoringBatch, owners: dict[str, str]) -> None:
        self.name, self.batch, self.owners = name, batch, owners
        self._columns: set[str] = set()  # of this call

    def log_metric(self, name: str, value: float) -> None:
        """Log a metric, whose mean over a logged step is in metrics.jsonl.

        Raises:
            ValueError: the run has a metric of this name, or the value is not a number.
        """
        if is_metric_of_run(name):
            raise ValueError(f"log_metric: {name!r} is a name of the run's own metrics; choose another name")
        if not isinstance(value, Real) and getattr(value, "shape", None) != ():
            raise ValueError(f"log_metric: {name!r} is {type(value).__name__}, not a number")
        self.batch.log_metric(name, float(value))

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Log a column of completions/.

        Raises:
            ValueError: the name is taken, or there is not one value for each completion.
        """
        count, owner = len(self.batch.completions), self.owners.get(column, self.name)
        if column in (ROW, *OWN_COLUMNS) or column in REWARDS:
            raise ValueError(f"log_extra: completions/ has a column {column!r} of its own; choose another name")
        if owner != self.name or column in self._columns:
            who = "the reward logs it twice" if owner == self.name else f"the reward {owner!r} logs it"
            raise ValueError(f"log_extra: completions/ has a column {column!r} already, {who}; choose another name")
        if len(values) != count:
            raise ValueError(f"log_extra: {column!r} has {len(values)} values for {count} completions")
        self.owners[column] = self.name
        self._columns.add(column)
        self.batch.log_extra(column, list(values))
