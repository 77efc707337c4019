"""`Recorder` records each logged step of a run, as a `TrainerCallback` of transformers.

It hands the metrics to `metrics.jsonl`, the tracker, the alarms and the progress bar, and the completions to
`completions/`. The session builds one for each run and reads its times; the parts of the trainer show their phase
through it. It knows no policy and no sampler.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.text import Text
from transformers import TrainerCallback, TrainerControl

from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import say
from grpo.core.metric_names import ABSTAINED_PREFIX, ACCURACY_STRICT, REWARD
from grpo.core.progress import Bar
from grpo.policy.chat_template import UNKNOWN_FRAMING, TemplateFraming
from grpo.rewards.stack import RewardStack
from grpo.runs.run_dir import RunDir
from grpo.tasks.answer_types import accuracy_labels
from grpo.training.alarms import Alarm, Alarms
from grpo.training.completion_log import CompletionLog
from grpo.training.metrics_file import MetricsFile
from grpo.training.step_progress import StepProgress, no_bar
from grpo.training.trackers.interface import Tracker


class Recorder(TrainerCallback):
    """Records the steps of a run.

    Attributes:
        stopped_by: the alarm, or the search, that ends the run early; None as long as it trains.
        between_steps_seconds: time spent between steps, on validation and the example questions.
    """

    def __init__(
        self,
        config: Config,
        rewards: RewardStack,
        tracker: Tracker,
        out: Path,
        start_bar: Callable[[int], Bar] = no_bar,
        framing: TemplateFraming = UNKNOWN_FRAMING,
    ) -> None:
        self.config, self.rewards, self.tracker, self.out = config, rewards, tracker, out
        run = RunDir(out)
        self.is_main_process = distributed.is_main_process()
        self.metrics_file = MetricsFile(run.metrics_jsonl, writes=self.is_main_process)
        self.completion_log = CompletionLog(config, rewards, tracker, run)
        right = accuracy_labels(rewards.answer_type, rewards.correct_by)[ACCURACY_STRICT]
        self.progress = StepProgress(start_bar, right, config.logging_steps)
        self.alarms = Alarms(config, rewards, framing)
        self.stopped_by: str | None = None
        self.between_steps_seconds = 0.0
        self._abstained: set[str] = set()  # the metrics of the rewards that have abstained
        self._seconds_before = 0.0  # training time of the sessions before a resume
        self._started = time.perf_counter()

    def elapsed_seconds(self) -> float:
        """Seconds since training began, evaluations between steps and sessions before a resume included."""
        return self._seconds_before + time.perf_counter() - self._started

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores of the recorder; the keys are part of its format."""
        return {
            "table": self.completion_log.table,
            "weights": self.completion_log.weights,
            "beside": self.progress.figures,
            "last_step": self.progress.last_step,
            "sampled_at": self.completion_log.last_sampled,
            "quarters": self.completion_log.quarters,
            "abstained": sorted(self._abstained),
            "stopped_by": self.stopped_by,
            "asking": self.between_steps_seconds,
            "alarms": self.alarms.state(),
            "seconds": self.elapsed_seconds(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned when a checkpoint was written."""
        log = self.completion_log
        log.table, log.last_sampled, log.quarters = state["table"], state["sampled_at"], state["quarters"]
        log.weights = state.get("weights", log.weights)  # older checkpoints have none
        self._abstained = set(state.get("abstained", ()))
        self.stopped_by, self.between_steps_seconds = state["stopped_by"], state["asking"]
        self.alarms.restore(state["alarms"])
        self._seconds_before = state["seconds"]
        self.progress.restore(state["last_step"], state["beside"])

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        self._started = time.perf_counter()
        self.progress.start(state.max_steps)

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            control.should_log = True  # the last step is logged whatever logging_steps is

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or "train_runtime" in logs:
            return
        step = state.global_step
        # TRL logs None for a metric that is nan in every micro-batch.
        metrics = {
            name: math.nan if value is None else value
            for name, value in logs.items()
            if isinstance(value, int | float | None)
        }
        metrics = self._without_rewards_that_never_abstain(metrics)
        self.record_metrics(metrics, step)
        for alarm in self.alarms.check(metrics, step):
            self._raise_alarm(alarm, step, control)
        # A further pass over the same completions (algorithm.num_iterations) has no rewards of its own.
        has_rollout = REWARD in metrics
        self.progress.move_to(step, metrics if has_rollout else None)
        if has_rollout and self.is_main_process:
            self.completion_log.save(step, state.max_steps)

    def _without_rewards_that_never_abstain(self, metrics: dict[str, float]) -> dict[str, float]:
        """The metrics without the share of abstentions of rewards that have had none since training began."""
        shares = {name: share for name, share in metrics.items() if name.startswith(ABSTAINED_PREFIX)}
        self._abstained |= {name for name, share in shares.items() if share}
        return {name: value for name, value in metrics.items() if name not in shares or name in self._abstained}

    def record_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Append a line to metrics.jsonl, and log the same to the tracker."""
        self.metrics_file.append_metrics(metrics, step)
        self.tracker.log(metrics, step)

    def _raise_alarm(self, alarm: Alarm, step: int, control: TrainerControl) -> None:
        say(Text(f"Alarm: {alarm.message}", style="yellow"))
        self.metrics_file.append({"step": step, "alarm": alarm.name, "message": alarm.message})
        self.tracker.alert(alarm.title, alarm.message, step)
        if alarm.name in self.config.stop_on:
            self.stopped_by = alarm.name
            control.should_training_stop = True
