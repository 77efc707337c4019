"""What a run writes down while it trains, and who is asked between its steps: transformers' callbacks."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.text import Text
from transformers import TrainerCallback, TrainerControl

from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import say, valid
from grpo.core.files import written_aside
from grpo.policy.chat_template import UNKNOWN, Framing
from grpo.rewards.registry import RewardStack
from grpo.training.alarms import Alarm, Alarms
from grpo.training.trackers.interface import Tracker


class Recorder(TrainerCallback):
    """Writes metrics.jsonl and completions/, feeds the tracker, and tells the progress bar."""

    # What a run that goes on takes up again, besides the alarms.
    KEPT = ("table", "beside", "last_step", "sampled_at", "quarters", "stopped_by", "asking")

    def __init__(
        self,
        config: Config,
        rewards: RewardStack,
        tracker: Tracker,
        out: Path,
        start_bar: Callable[[int], Callable[[int, str], None]],
        framing: Framing = UNKNOWN,
    ) -> None:
        self.config, self.rewards, self.tracker, self.start_bar = config, rewards, tracker, start_bar
        self.out = out
        self.metrics_file = out / "metrics.jsonl"
        self.completions = out / "completions"
        self.leads = distributed.is_main_process()
        self.table: list[list[Any]] = []
        self.logs: dict[str, Any] = {}
        self.beside = ""
        self.last_step = 0
        self.sampled_at = 0
        self.quarters = 0
        self.advance: Callable[[int, str], None] | None = None
        self.alarms = Alarms(config, rewards, framing)
        self.stopped_by: str | None = None
        self.asking = 0.0  # seconds of what was asked of the policy meanwhile
        self.seconds_before = 0.0
        self.began = time.perf_counter()

    def seconds(self) -> float:
        """How long training has taken, that of earlier sessions on record included."""
        return self.seconds_before + time.perf_counter() - self.began

    def on_record(self) -> list[tuple[dict[str, float], int]]:
        """(metrics, step) of every line that is written."""
        if not self.metrics_file.exists():
            return []
        lines = [json.loads(line) for line in self.metrics_file.read_text(encoding="utf-8").splitlines()]
        return [
            (
                {name: math.nan if value is None else value for name, value in line.items() if name != "step"},
                line["step"],
            )
            for line in lines
            if "alarm" not in line
        ]

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.KEPT} | {
            "alarms": self.alarms.state(),
            "seconds": self.seconds(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name in self.KEPT:
            setattr(self, name, state[name])
        self.alarms.restore(state["alarms"])
        self.seconds_before = state["seconds"]
        if self.advance:
            self.advance(self.last_step, self.beside)

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        self.began = time.perf_counter()
        self.advance = self.start_bar(state.max_steps)

    def tell(self, phase: str) -> None:
        """Show the phase of the current step beside the bar."""
        if self.advance:
            self.advance(0, ", ".join(filter(None, (phase, self.beside))))

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            control.should_log = True  # whatever logging_steps is, the last step is on record

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or "train_runtime" in logs:
            return
        step = state.global_step
        # TRL hands on None for what is nan throughout.
        metrics = {
            name: math.nan if value is None else value
            for name, value in logs.items()
            if isinstance(value, int | float | None)
        }
        self.record(metrics, step)
        for alarm in self.alarms.see(metrics, step):
            self._sound(alarm, step, control)
        # A further pass over the same completions (algorithm.num_iterations) has no rewards of its own.
        sampled = "reward" in metrics
        self.beside = beside(metrics) if sampled else self.beside
        assert self.advance, "nothing is logged before training begins"
        self.advance(step - self.last_step, self.beside)
        self.last_step = step
        if not sampled or not self.leads:
            return
        columns, rows = self._latest_completions(step)
        self.completions.mkdir(exist_ok=True)
        with written_aside(self.completions / f"step_{step:06d}.parquet") as partial:
            pd.DataFrame(rows, columns=columns).to_parquet(partial, index=False)
        self._sample_for_table(columns, rows, step, state.max_steps)

    def record(self, metrics: dict[str, float], step: int) -> None:
        """A line of metrics.jsonl, and the same for the tracker."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._write({"step": step, **finite})
        self.tracker.log(metrics, step)

    def _write(self, line: dict[str, Any]) -> None:
        if not self.leads:
            return
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def _sound(self, alarm: Alarm, step: int, control: TrainerControl) -> None:
        say(Text(f"Alarm: {alarm.message}", style="yellow"))
        self._write({"step": step, "alarm": alarm.name, "message": alarm.message})
        self.tracker.alert(alarm.title, alarm.message, step)
        if alarm.name in self.config.stop_on:
            self.stopped_by = alarm.name
            control.should_training_stop = True

    def _sample_for_table(self, columns: list[str], rows: list[list[Any]], step: int, last: int) -> None:
        """Keep a group now and then, and log the table anew after each quarter of the run."""
        every, limit = self.config.tracking.completions_every, self.config.tracking.completions_rows
        if limit and (not self.table or step - self.sampled_at >= every or step == last):
            # A whole group, so that rewards can be compared where the advantages were computed.
            self.table = (self.table + rows[: self.config.num_generations])[-limit:]
            self.sampled_at = step
        if self.table and step * 4 // last > self.quarters:
            self.quarters = step * 4 // last
            self.tracker.log_table("completions", columns, self.table, step)

    def _latest_completions(self, step: int) -> tuple[list[str], list[list[Any]]]:
        """The completions of the last batch as TRL keeps them, a row each."""
        scores = {name: list(self.logs["rewards"][name]) for name in self.rewards.weights}
        completions = [valid(messages[0]["content"]) for messages in self.logs["completion"]]
        questions, golds = self.logs["extra"]["question"], self.logs["extra"]["gold"]
        columns = ["step", "question", "gold", "completion", *scores, "total", "advantage"]
        total, advantages = self.rewards.total(scores), list(self.logs["advantages"])
        rows = zip(questions, golds, completions, *scores.values(), total, advantages, strict=True)
        return columns, [[step, *row] for row in rows]


def beside(metrics: dict[str, float]) -> str:
    """What stands beside the progress bar."""
    parts = [f"reward {metrics['reward']:.2f}"]
    if "rewards/correctness/mean" in metrics:
        parts.append(f"correct {metrics['rewards/correctness/mean'] / 2:.0%}")
    parts.append(f"{metrics['completions/mean_length']:.0f} tokens")
    return ", ".join(parts)
