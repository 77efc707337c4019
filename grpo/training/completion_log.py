"""The completions of a run: a Parquet file for each logged step, and a table of some of them for the tracker.

The recorder calls it after each logged rollout. It reads `GRPOTrainer._logs` (TRL 1.16), which holds the completions of
the last generation batch, and knows nothing of metrics or alarms.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import pyarrow
from pyarrow import parquet

from grpo.config.schema import Config
from grpo.core.files import atomic_write
from grpo.core.text import replace_surrogates
from grpo.rewards.reward_log import ROW
from grpo.rewards.stack import RewardStack
from grpo.runs.run_dir import RunDir
from grpo.tasks.column_table import add_dataset_columns
from grpo.tasks.example import Example
from grpo.training.trackers.interface import Tracker


def storable(values: Iterable[Any]) -> list[Any]:
    """Values as a column of a Parquet file, which has one type: texts, if they have several or other types."""
    values = list(values)
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds == {bool}:
        return values
    return [None if value is None else replace_surrogates(str(value)) for value in values]


class CompletionLog:
    """Saves completions with their scores and advantages.

    Attributes:
        trl_logs: `GRPOTrainer._logs` of the trainer, set once it is built.
        examples: the training problems, by the rows that `TrlReward` logs; set once the trainer is built.
        weights: reward -> its weight in the last rollout.
        table: rows of the tracker's table.
        last_sampled: the step at which rows were last added to the table.
        quarters: quarters of the run for which a table has been logged.
    """

    def __init__(self, config: Config, rewards: RewardStack, tracker: Tracker, run: RunDir) -> None:
        self.config, self.rewards, self.tracker, self.run = config, rewards, tracker, run
        self.trl_logs: dict[str, Any] = {}
        self.examples: Sequence[Example] = ()
        self.weights = rewards.weights
        self.table: list[list[Any]] = []
        self.last_sampled = 0
        self.quarters = 0

    def save(self, step: int, last_step: int) -> None:
        """Save the completions of `step`, of a run that ends at `last_step`."""
        columns, rows = self._latest(step)
        self.run.completions.mkdir(exist_ok=True)
        with atomic_write(self.run.completions_of(step)) as partial:
            frame = pd.DataFrame(rows, columns=columns).assign(**self._logged_columns())
            table = pyarrow.Table.from_pandas(frame, preserve_index=False)
            parquet.write_table(add_dataset_columns(table, self._problems()), partial)
        self._update_table(columns, rows, step, last_step)

    def _latest(self, step: int) -> tuple[list[str], list[list[Any]]]:
        """Column names, and a row for each completion of the last generation batch."""
        logs = self.trl_logs
        scores = {name: list(logs["rewards"][name]) for name in self.rewards.weights}
        completions = [replace_surrogates(messages[0]["content"]) for messages in logs["completion"]]
        problems = self._problems()
        questions, golds = [example.question for example in problems], [example.gold for example in problems]
        columns = ["step", "question", "gold", "completion", *scores, "total", "advantage"]
        total, advantages = self.rewards.with_weights(self.weights).total(scores), list(logs["advantages"])
        rows = zip(questions, golds, completions, *scores.values(), total, advantages, strict=True)
        return columns, [[step, *row] for row in rows]

    def _problems(self) -> list[Example]:
        """The problem of each completion of the last generation batch."""
        return [self.examples[row] for row in self.trl_logs["extra"][ROW]]

    def _logged_columns(self) -> dict[str, list[Any]]:
        """The columns that rewards have logged about the last generation batch, with `log_extra`."""
        count = len(self.trl_logs["completion"])
        extra = self.trl_logs["extra"].items()
        return {name: storable(values) for name, values in extra if name != ROW and len(values) == count}

    def _update_table(self, columns: list[str], rows: list[list[Any]], step: int, last_step: int) -> None:
        """Add one group every `tracking.completions_every` steps; log the table after each quarter of the run."""
        every, limit = self.config.tracking.completions_every, self.config.tracking.completions_rows
        if limit and (not self.table or step - self.last_sampled >= every or step == last_step):
            # A complete group, so that rewards can be compared where the advantages were computed.
            self.table = (self.table + rows[: self.config.num_generations])[-limit:]
            self.last_sampled = step
        if self.table and step * 4 // last_step > self.quarters:
            self.quarters = step * 4 // last_step
            self.tracker.log_table("completions", columns, self.table, step)
