"""The figures of one run, drawn from its metrics.

Used by the page of a run. It reads no files: the metrics come as tables.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from grpo.core.metric_names import (
    ALL_CORRECT,
    CLIPPED_RATIO,
    ENTROPY,
    GRAD_NORM,
    KL,
    MAX_LENGTH,
    MEAN_LENGTH,
    MIN_LENGTH,
    MIXED,
    NONE_CORRECT,
    REWARD,
    REWARD_STD,
    VALIDATION_ACCURACY,
    VALIDATION_ACCURACY_HIGH,
    VALIDATION_ACCURACY_LOW,
    ZERO_STD,
    advantage_share,
    reward_mean,
    reward_weight,
)
from grpo.reports.figures import HUES, STYLE, Chart, finish_chart, light_colour, new_axes, smoothing_window
from grpo.rewards.reward_files import SHIPPED_REWARDS

# The built-in rewards have the same colour in every run; your own rewards take the free colours in their order.
REWARD_COLOURS = dict(zip((name for name in SHIPPED_REWARDS if "verbatim" not in name), HUES, strict=False))


def reward_colours(rewards: Sequence[str]) -> dict[str, str]:
    """reward -> the name of its colour. A `verbatim_` reward has the colour of the built-in reward of that name."""
    fixed = {
        name: REWARD_COLOURS[base] for name in rewards if (base := name.removeprefix("verbatim_")) in REWARD_COLOURS
    }
    free = [hue for hue in HUES if hue not in fixed.values()] or HUES
    others = [name for name in rewards if name not in fixed]
    return fixed | {name: free[i % len(free)] for i, name in enumerate(others)}


class RunCharts(NamedTuple):
    """The figures of a run, and the titles of those that are left out because their metric was zero at each step."""

    charts: list[Chart]
    zero: list[str]


def run_charts(history: pd.DataFrame, validations: pd.DataFrame, weights: dict[str, Any], limit: int) -> RunCharts:
    """The figures of a run, without those whose metrics it lacks.

    Args:
        history: a row for each logged step with a rollout, indexed by step; columns as in metrics.jsonl.
        validations: a row for each evaluation on the validation problems, indexed by step.
        weights: reward -> its weight, a number or the mapping of a schedule.
        limit: max_completion_length, tokens.
    """
    with mpl.rc_context(STYLE):
        figures = RunFigures(history, weights)
        drawn = [
            figures.total_reward(),
            figures.reward_scores(),
            figures.reward_weights(),
            figures.advantage_shares(),
            figures.groups(),
            figures.completion_length(limit),
            figures.single_metric("truncated", "Truncated at the limit", CLIPPED_RATIO, "c4", percent=True),
            figures.single_metric("entropy", "Entropy, nats per token", ENTROPY, "c5"),
            figures.single_metric("grad_norm", "Norm of the gradient", GRAD_NORM, "c6"),
            figures.single_metric("kl", "KL from the reference policy, nats per token", KL, "c7"),
            figures.validation_accuracy(validations),
        ]
    return RunCharts([chart for chart in drawn if chart], figures.zero)


class RunFigures:
    """The figures of one run. Thin lines are the logged values, thick lines their running mean."""

    def __init__(self, history: pd.DataFrame, weights: dict[str, Any]) -> None:
        if len(history) == 1:  # a single point would be invisible
            history = pd.concat([history, history]).set_axis(history.index[0] + np.array([-0.5, 0.5]))
        self.history, self.weights, self.colours = history, weights, reward_colours(list(weights))
        self.zero: list[str] = []
        self.window = smoothing_window(len(history))
        self.smooth = history.rolling(self.window, min_periods=1, center=True).mean()

    def total_reward(self) -> Chart | None:
        figure, axes = new_axes()
        light = light_colour("c0")
        mean, spread = self.smooth[REWARD], self.smooth[REWARD_STD]
        axes.fill_between(mean.index, mean - spread, mean + spread, color=light, alpha=0.15, linewidth=0)
        self.draw_line(axes, REWARD, "c0")
        return finish_chart("reward", "Total reward", "band: ± its standard deviation, TRL's reward_std", figure, axes)

    def reward_scores(self) -> Chart | None:
        figure, axes = new_axes(lines=len(self.weights))
        labels = []
        for name, weight in self.weights.items():
            end = self.draw_line(axes, reward_mean(name), self.colours[name], dashed=not weight)
            labels.append((end, name, self.colours[name]))
        note = "dashed: weight 0, measured only" if 0 in self.weights.values() else ""
        return finish_chart("rewards", "Score of each reward", note, figure, axes, labels)

    def reward_weights(self) -> Chart | None:
        scheduled = [name for name in self.weights if reward_weight(name) in self.history]
        if not scheduled:
            return None
        figure, axes = new_axes(lines=len(scheduled))
        labels = []
        for name in scheduled:
            weights = self.history[reward_weight(name)]
            axes.plot(weights.index, weights, color=light_colour(self.colours[name]), linewidth=2.0)
            labels.append((float(weights.iloc[-1]), name, self.colours[name]))
        return finish_chart("weights", "Weights with a schedule", "", figure, axes, labels)

    def advantage_shares(self) -> Chart | None:
        weighted = [name for name, weight in self.weights.items() if weight]
        columns = [advantage_share(name) for name in weighted]
        if not set(columns) <= set(self.history) or self.history[columns].isna().all(axis=None):
            return None
        figure, axes = new_axes(lines=len(weighted))
        shares = self.smooth[columns].interpolate(limit_direction="both")
        above, below = np.zeros(len(shares)), np.zeros(len(shares))
        labels = []
        for name, column in zip(weighted, columns, strict=True):
            share = shares[column].to_numpy()
            for base, part in ((above, share.clip(min=0)), (below, share.clip(max=0))):
                hue = light_colour(self.colours[name])
                axes.fill_between(
                    shares.index, base, base + part, facecolor=hue, edgecolor=light_colour("page"), linewidth=0.6
                )
                if part[-1]:
                    labels.append((base[-1] + part[-1] / 2, name, self.colours[name]))
                base += part
        axes.axhline(0, color=light_colour("ink"), linewidth=0.8)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(False)
        note = "the share of each reward in the advantages; below zero: it opposed the total"
        return finish_chart("advantage_share", "Shares of the advantage", note, figure, axes, labels)

    def groups(self) -> Chart | None:
        figure, axes = new_axes()
        labels, base = [], np.zeros(len(self.smooth))
        for column, name, hue in (
            (ALL_CORRECT, "all right", "c2"),
            (MIXED, "mixed", "c5"),
            (NONE_CORRECT, "none right", "c4"),
        ):
            share = self.smooth[column].to_numpy()
            axes.fill_between(self.smooth.index, base, base + share, color=light_colour(hue), alpha=0.75, linewidth=0)
            labels.append((base[-1] + share[-1] / 2, name, hue))
            base = base + share
        self.draw_line(axes, ZERO_STD, "ink", dashed=True)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(False)
        note = "dashed: groups with equal totals, which give no gradient"
        return finish_chart("groups", "Groups by right answers", note, figure, axes, labels)

    def completion_length(self, limit: int) -> Chart | None:
        figure, axes = new_axes()
        if {MIN_LENGTH, MAX_LENGTH} <= set(self.history):
            low, high = self.smooth[MIN_LENGTH], self.smooth[MAX_LENGTH]
            axes.fill_between(low.index, low, high, color=light_colour("c3"), alpha=0.12, linewidth=0)
        self.draw_line(axes, MEAN_LENGTH, "c3")
        axes.axhline(limit, color=light_colour("soft"), linewidth=1, linestyle=":")
        axes.set_ylim(0, limit * 1.05)
        note = "band: shortest to longest of a step; dotted: the limit"
        return finish_chart("length", "Length of completions, tokens", note, figure, axes)

    def single_metric(self, name: str, title: str, column: str, hue: str, percent: bool = False) -> Chart | None:
        if column not in self.history or self.history[column].isna().all():
            return None
        if not self.history[column].fillna(0).any():
            self.zero.append(title)
            return None
        figure, axes = new_axes()
        self.draw_line(axes, column, hue)
        low, high = self.history[column].min(), self.history[column].max()
        axes.set_ylim(min(0, low * 1.05), (1 if percent and high > 0.2 else high * 1.05) or 1)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        return finish_chart(name, title, "", figure, axes)

    def validation_accuracy(self, validations: pd.DataFrame) -> Chart | None:
        if VALIDATION_ACCURACY not in validations:
            return None
        figure, axes = new_axes()
        low, high = validations[VALIDATION_ACCURACY_LOW], validations[VALIDATION_ACCURACY_HIGH]
        axes.fill_between(low.index, low, high, color=light_colour("c0"), alpha=0.15, linewidth=0)
        axes.plot(
            validations.index,
            validations[VALIDATION_ACCURACY],
            color=light_colour("c0"),
            linewidth=2,
            marker="o",
            markersize=4,
        )
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        return finish_chart("accuracy", "Validation problems right", "band: 95% interval", figure, axes)

    def draw_line(self, axes: Axes, column: str, hue: str, dashed: bool = False) -> float:
        """Draw the logged values thin and their running mean thick; returns the last value of the mean."""
        if self.window > 1 and not dashed:
            axes.plot(self.history.index, self.history[column], color=light_colour(hue), alpha=0.3, linewidth=0.8)
        style: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.4} if dashed else {"linewidth": 2.0}
        axes.plot(self.smooth.index, self.smooth[column], color=light_colour(hue), **style)
        return float(self.smooth[column].iloc[-1])
