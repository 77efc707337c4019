"""Alarms: problems of a training run that its metrics show, each printed once with the setting to change.

The recorder passes the metrics of each logged step to `Alarms.check`, and shows, records and sends what it returns. An
alarm knows metrics and settings only: no policy, no completions and no tracker.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from grpo.config.schema import Config
from grpo.core.metric_names import (
    ALL_CORRECT,
    CLIPPED_RATIO,
    CORRECT,
    ENTROPY,
    GRAD_NORM,
    KL,
    LOSS,
    MEAN_LENGTH,
    NONE_CORRECT,
    PHANTOM,
    PHANTOM_ALL_CORRECT,
    PHANTOM_NONE_CORRECT,
    REWARD,
    ZERO_STD,
    reward_mean,
    reward_weight,
    reward_zero_std,
)
from grpo.policy.chat_template import UNKNOWN_FRAMING, TemplateFraming
from grpo.rewards.stack import RewardStack

Metrics = dict[str, float]

NO_SIGNAL_STEPS = 5
# A mean over the window takes at least this many logged rollouts.
MIN_ROLLOUTS = 4
# How many standard errors the means of two windows must differ by. Every step tests again, so two standard errors, 95%
# for a single test, would give false alarms.
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class Alarm:
    name: str  # one of grpo.config.rules.ALARM_NAMES
    message: str
    reward: str = ""  # the reward it is about

    @property
    def title(self) -> str:
        return f"{self.name} {self.reward}".rstrip()


class Alarms:
    """Checks the metrics of every logged step; raises an alarm of the same title once.

    Attributes:
        window: steps over which means are taken.
        history: (step, metrics) of the last two windows.
        first_window: metrics of the rollouts in the first window.
        raised: titles of the alarms so far.
    """

    def __init__(self, config: Config, rewards: RewardStack, framing: TemplateFraming = UNKNOWN_FRAMING) -> None:
        self.config, self.weights, self.framing = config, rewards.weights, framing
        self.correct_by = rewards.correct_by
        algorithm = config.algorithm
        steps_per_rollout = algorithm.num_iterations * algorithm.steps_per_generation
        self.window = max(config.alarm_window, MIN_ROLLOUTS * config.logging_steps * steps_per_rollout)
        self.history: list[tuple[int, Metrics]] = []
        self.first_window: list[Metrics] = []
        self.raised: set[str] = set()

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores; the keys are part of its format."""
        return {"rows": self.history, "first": self.first_window, "said": sorted(self.raised)}

    def restore(self, state: dict[str, Any]) -> None:
        self.history, self.first_window, self.raised = state["rows"], state["first"], set(state["said"])

    def check(self, metrics: Metrics, step: int) -> list[Alarm]:
        """The alarms that `metrics`, logged at `step`, raise for the first time."""
        if step <= self.window and ZERO_STD in metrics:
            self.first_window.append(metrics)
        self.history = [row for row in self.history if row[0] > step - 2 * self.window] + [(step, metrics)]
        new = [alarm for alarm in self._current_alarms(metrics, step) if alarm.title not in self.raised]
        self.raised |= {alarm.title for alarm in new}
        return new

    def _current_alarms(self, metrics: Metrics, step: int) -> Iterable[Alarm]:
        alarms = [self._not_finite(metrics, step), self._truncated(metrics, step), self._no_signal(step)]
        if step >= self.window and self.first_window and self._rollout_metrics(step - self.window, step):
            alarms += [self._constant_reward(reward, step) for reward, weight in self._weights(step) if weight]
            alarms += [self._length_limit_or_collapse(step), self._entropy_collapse(step)]
            if not self.config.placebo:  # whatever changes, no reward has moved the policy there
                alarms += [self._reward_hacking(step), self._phantom(step)]
        return filter(None, alarms)

    def _rollout_metrics(self, start: int, end: int) -> list[Metrics]:
        """The metrics of steps with a rollout, after step `start` and up to step `end`."""
        return [metrics for step, metrics in self.history if start < step <= end and CORRECT in metrics]

    def _window_mean(self, key: str, step: int) -> float:
        """The mean over the window that ends at `step`."""
        return fmean(metrics[key] for metrics in self._rollout_metrics(step - self.window, step))

    def _weights(self, step: int) -> list[tuple[str, float]]:
        """Each reward with its weight at `step`."""
        metrics = self._rollout_metrics(step - self.window, step)[-1]
        return [(name, metrics.get(reward_weight(name), weight)) for name, weight in self.weights.items()]

    def _not_finite(self, metrics: Metrics, step: int) -> Alarm | None:
        for name in (LOSS, GRAD_NORM, KL, REWARD):
            all_abstained = name == REWARD and ZERO_STD in metrics  # otherwise it has no attribution
            if not math.isfinite(metrics.get(name, 0.0)) and not all_abstained:
                where = "algorithm.beta or optimizer.lr" if name == KL else "optimizer.lr or optimizer.max_grad_norm"
                then = "the policy may be damaged from here on"
                if self.config.on_nonfinite == "skip" and name != KL:
                    then = "such steps are skipped (on_nonfinite=skip)"
                return Alarm("not_finite", f"{name} is {metrics[name]} at step {step}: {then}. Lower {where}.")
        return None

    def _truncated(self, metrics: Metrics, step: int) -> Alarm | None:
        share = metrics.get(CLIPPED_RATIO, 0.0)
        if share <= 0.5:
            return None
        limit = self.config.max_completion_length
        ends = f" ({' or '.join(self.framing.end_tokens)})" if self.framing.end_tokens else ""
        message = f"{share:.0%} of the completions of step {step} were truncated at {limit} tokens."
        advice = "Raise max_completion_length."
        if share == 1:
            message = f"no completion of step {step} contains an end token{ends} within its {limit} tokens."
            advice += (
                " If that changes nothing, the policy has not learnt to end its turn: use an instruction-tuned one, or "
                "the chat template that it was tuned with."
            )
        return Alarm("truncated", f"{message} {advice}")

    def _no_signal(self, step: int) -> Alarm | None:
        """Whether no group has had any difference in its total reward."""
        span = min(self.window, max(NO_SIGNAL_STEPS, self.config.logging_steps))
        rows = self._rollout_metrics(step - span, step)
        if step < span or not rows or any(metrics[ZERO_STD] < 1 for metrics in rows):
            return None
        all_correct = fmean(metrics[ALL_CORRECT] for metrics in rows)
        none_correct = fmean(metrics[NONE_CORRECT] for metrics in rows)
        advice = "Raise num_generations or temperature."
        if all_correct > 0.9:
            advice = "All answers are right already: use harder problems (data), or fewer steps (max_steps)."
        elif none_correct > 0.9:
            advice = "No answer is right: use easier problems (data), a stronger model, or more num_generations."
        if (gate := self.config.algorithm.gate) != "off" and all_correct + none_correct > 0.9:
            advice += (
                f" Right answers did not vary within the groups, so algorithm.gate={gate} left out the other rewards; "
                "algorithm.gate=off trains on them."
            )
        return Alarm(
            "no_signal",
            f"for {span} steps up to step {step}, the rewards of every group were all equal, so nothing was learnt. "
            f"{advice}",
        )

    def _constant_reward(self, reward: str, step: int) -> Alarm | None:
        """Whether `reward` has not varied within any group of the window."""
        rows = self._rollout_metrics(step - self.window, step)
        if any(metrics[reward_zero_std(reward)] < 1 for metrics in rows):
            return None
        scores = [metrics[reward_mean(reward)] for metrics in rows if not math.isnan(metrics[reward_mean(reward)])]
        gave, opened = f"gave {scores[-1]:g}" if scores else "abstained", self.framing.opened
        advice = f"python -m grpo.audit tests the stack; rewards.{reward}=0 only measures it."
        if opened:  # an audit does not show this: its probes have the format of the run
            advice = (
                f"The policy's chat template ends the prompt with {opened!r}, and every completion is scored with this "
                "text before it: a reward that wants another start cannot be earned, and one for this text alone is "
                "always earned. Change the format, the reward or the template "
                f"(chat_template.jinja in the policy's folder); rewards.{reward}=0 only measures it."
            )
        return Alarm(
            "constant_reward",
            f"{reward} was equal for all completions of every group for {self.window} steps up to step {step} (it "
            f"{gave}), so it teaches nothing. Is it learnt, or can it not be earned? {advice}",
            reward,
        )

    def _reward_hacking(self, step: int) -> Alarm | None:
        """Whether a reward has risen and right answers have become fewer from one window to the next, beyond chance."""
        before = self._rollout_metrics(step - 2 * self.window, step - self.window)
        after = self._rollout_metrics(step - self.window, step)
        if step < 2 * self.window or min(len(before), len(after)) < 2:
            return None
        old_correct, new_correct, fall = metric_change(CORRECT, before, after)
        if math.isnan(fall) or fall > -STANDARD_ERRORS:
            return None
        for name, weight in self._weights(step):
            old, new, rise = metric_change(reward_mean(name), before, after)
            if weight and name != self.correct_by and math.copysign(1, weight) * rise >= STANDARD_ERRORS:
                return Alarm(
                    "reward_hacking",
                    f"{name} rose from {old:.2f} to {new:.2f} while right answers fell from {old_correct:.0%} to "
                    f"{new_correct:.0%} (means of {self.window} steps, at step {step}). Lower rewards.{name}, or "
                    f"raise rewards.{self.correct_by}.",
                )
        return None

    def _phantom(self, step: int) -> Alarm | None:
        """Whether most squared advantages are in groups all right or all wrong, while right answers do not increase."""
        before = self._rollout_metrics(step - 2 * self.window, step - self.window)
        rows = [row for row in self._rollout_metrics(step - self.window, step) if PHANTOM in row]
        algorithm = self.config.algorithm
        # reinforce_pp compares a completion with the batch: right answers differ between groups.
        compares_groups = algorithm.advantage_estimator == "reinforce_pp"
        if step < 2 * self.window or not before or not rows or algorithm.gate == "correctness" or compares_groups:
            return None
        phantom, none_correct, all_correct = (
            fmean(row[key] for row in rows) for key in (PHANTOM, PHANTOM_NONE_CORRECT, PHANTOM_ALL_CORRECT)
        )
        old, new = fmean(row[CORRECT] for row in before), self._window_mean(CORRECT, step)
        if phantom <= 0.5 or new > old or new >= 0.9:
            return None
        return Alarm(
            "phantom",
            f"{phantom:.0%} of the squared advantages are in groups whose answers are all wrong ({none_correct:.0%}) "
            f"or all right ({all_correct:.0%}), and right answers went from {old:.0%} to {new:.0%} (means of "
            f"{self.window} steps, at step {step}): other rewards than {self.correct_by} move the policy. Leave them "
            "out in such groups, algorithm.gate=correctness, or lower their weights.",
        )

    def _length_limit_or_collapse(self, step: int) -> Alarm | None:
        """Whether completions have grown to the limit, or shrunk to less than half of their length at the start."""
        length, limit = self._window_mean(MEAN_LENGTH, step), self.config.max_completion_length
        start = fmean(metrics[MEAN_LENGTH] for metrics in self.first_window)
        if length > 0.9 * limit:
            return Alarm(
                "length_limit",
                f"completions are {length:.1f} of the {limit} tokens allowed (mean of {self.window} steps, "
                f"at step {step}). Raise max_completion_length, or see which reward pays for length.",
            )
        if length < 0.5 * start:
            return Alarm(
                "length_collapse",
                f"completions have shrunk from {start:.0f} to {length:.0f} tokens (means of {self.window} steps, at "
                f"step {step}). See which reward pays for short completions, or lower optimizer.lr.",
            )
        return None

    def _entropy_collapse(self, step: int) -> Alarm | None:
        """Whether exploration has ended before the problems were learnt."""
        if ENTROPY not in self.first_window[0]:
            return None
        entropy, start = self._window_mean(ENTROPY, step), fmean(metrics[ENTROPY] for metrics in self.first_window)
        accuracy = self._window_mean(CORRECT, step)
        if entropy >= 0.1 * start or accuracy >= 0.9:
            return None
        return Alarm(
            "entropy_collapse",
            f"entropy has fallen from {start:.3g} to {entropy:.3g} nats per token with {accuracy:.0%} right (means of "
            f"{self.window} steps, at step {step}): the policy hardly explores. Lower optimizer.lr, raise temperature "
            "or algorithm.epsilon_high, or keep the policy near its start with algorithm.beta.",
        )


def metric_change(key: str, before: list[Metrics], after: list[Metrics]) -> tuple[float, float, float]:
    """Mean of a metric before and after, and their difference in standard errors (Welch)."""
    columns = [[metrics[key] for metrics in rows] for rows in (before, after)]
    columns = [[score for score in column if not math.isnan(score)] for column in columns]  # nan: a reward abstained
    if min(map(len, columns)) < 2:
        return math.nan, math.nan, math.nan
    old, new = map(fmean, columns)
    error = math.sqrt(sum(variance(column) / len(column) for column in columns))
    return old, new, (new - old) / error if error else math.copysign(math.inf, new - old) * (new != old)
