"""The figures of a sweep: every seed as a dot or in a band, with the mean over seeds.

Used by `sweep_report`. It computes no statistics.
"""

from collections.abc import Mapping, Sequence
from math import isnan
from statistics import fmean
from textwrap import wrap
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator, PercentFormatter

from grpo.core.metric_format import NON_PERCENT_FORMATS, label_and_formatter
from grpo.core.metric_names import (
    CORRECT,
    MEAN_LENGTH,
    PHANTOM,
    SCORE_PREFIX,
    VALIDATION_ACCURACY,
    VALIDATION_PREFIX,
    ZERO_STD,
    reward_mean,
)
from grpo.core.statistics import Interval
from grpo.core.text import printable
from grpo.reports.arms import (
    COMPLETIONS_SAMPLED,
    PRIMARY_METRIC,
    Arm,
    completions_sampled,
    parse_number,
    truncate_text,
)
from grpo.reports.figures import (
    HUES,
    STYLE,
    WIDTH,
    Chart,
    finish_chart,
    light_colour,
    new_axes,
    percent_axis,
    smoothing_window,
)
from grpo.reports.sweep_statistics import Effect, Trial

# metric -> title; each is a mean over the completions of a step
CURVES = {
    CORRECT: "Right completions",
    reward_mean("strict_format"): "Score of strict_format",
    reward_mean("soft_format"): "Score of soft_format",
    MEAN_LENGTH: "Length of completions, tokens",
    ZERO_STD: "Groups without advantages",
    PHANTOM: "Phantom share of squared advantages",
}
SHARE_METRICS = {CORRECT, ZERO_STD, PHANTOM, VALIDATION_ACCURACY}
MAX_COLOURED_ARMS = len(HUES)  # arms with different colours
ROW_BOTTOM = 0.22  # inches from the dots of a row to its lower end


class DotRow(NamedTuple):
    """A row of `dot_rows_figure`."""

    name: str
    values: list[float]  # one dot for each
    interval: Interval | None
    hue: str


def arms_figure(
    arms: Sequence[Arm], baseline: Arm, hues: Mapping[str, str], labels: Mapping[str, str], title: str
) -> Chart:
    """The primary metric of each arm, whose label is `title`: a dot for each seed, and their mean."""
    rows = [
        DotRow(labels[arm.name], [*arm.values(PRIMARY_METRIC).values()], None, hues.get(arm.name, "soft"))
        for arm in arms
    ]
    note = "a dot: a seed; the bar: their mean"
    if len(arms) > 1:
        note += f"; dotted: the mean of {printable(baseline.short_name(baseline))}"
    reference = fmean(baseline.values(PRIMARY_METRIC).values()) if len(arms) > 1 else None
    with mpl.rc_context(STYLE):
        figure, _ = dot_rows_figure(rows, reference)
    return Chart("settings", f"Held-out problems: {title}", note, figure)


def dot_rows_figure(rows: Sequence[DotRow], reference: float | None = None) -> tuple[Figure, Axes]:
    """A figure with one row of dots per arm or level, and the name above each row.

    Args:
        reference: where each row has a dotted mark; the marks end below the names.
    """
    names = [wrap_row_name(row.name) for row in rows]
    heights = [0.4 + 0.18 * (name.count("\n") + 1) for name in names]  # inches
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
    figure = Figure(figsize=(WIDTH, 0.5 + sum(heights)), layout=layout)
    axes = figure.add_subplot()
    top = 0.0
    for name, height, row in zip(names, heights, rows, strict=True):
        middle = top + height - ROW_BOTTOM
        style: dict[str, Any] = {"va": "top", "linespacing": 1.0, "parse_math": False}
        # The grid ends at the names, which it would cross.
        style["bbox"] = {"facecolor": light_colour("page"), "edgecolor": "none", "pad": 1}
        axes.text(0, top + 0.03, name, transform=axes.get_yaxis_transform(), **style)
        axes.axhline(middle, color=light_colour("rule"), linewidth=0.8, zorder=0)
        if reference is not None:
            ends = [middle - ROW_BOTTOM / 2, middle + ROW_BOTTOM]
            axes.plot([reference] * 2, ends, color=light_colour("soft"), linewidth=1.2, linestyle=":")
        if row.interval and not isnan(row.interval[0]):
            axes.plot(row.interval, [middle, middle], color=light_colour(row.hue), linewidth=2)
        axes.plot(
            row.values, [middle] * len(row.values), "o", color=light_colour(row.hue), alpha=0.6, markersize=7, mew=0
        )
        if row.values:
            axes.plot(fmean(row.values), middle, "|", color=light_colour(row.hue), markersize=16, markeredgewidth=3)
        top += height
    axes.set_ylim(top, 0)
    axes.yaxis.set_major_locator(NullLocator())
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    fit_share_axis(axes, "x", [value for row in rows for value in (*row.values, *(row.interval or ()))])
    return figure, axes


def wrap_row_name(name: str, width: int = 52, max_lines: int = 3) -> str:
    """The name of a row, wrapped for the space above it."""
    return "\n".join(wrap(printable(name), width, max_lines=max_lines, placeholder=" …")) or "…"


def fit_share_axis(axes: Axes, side: str, values: Sequence[float]) -> None:
    """Show shares as percents along "x" or "y". The axis ends near 0 and 1, even if an interval goes beyond."""
    finite = [value for value in values if not isnan(value)]
    low, high = max(0.0, min(finite, default=0.0)), min(1.0, max(finite, default=1.0))
    margin = max(0.01, 0.06 * (high - low))
    axes.set(**{f"{side}lim": (low - margin, high + margin)})
    percent_axis(axes.xaxis if side == "x" else axes.yaxis)


def effect_figure(effect: Effect, number: int, several: bool) -> Chart:
    """The levels of a factor: along an axis if they are numbers, else in rows.

    Args:
        number: of the effect, for the name of the file.
        several: whether the sweep has several factors.
    """
    over = ", over the other factors" if several else ""
    note = f"a dot: a seed{over}; the mean with its 95% interval over seeds"
    title = f"Effect of {printable(effect.factor)} on right answers"
    numbers = [parse_number(level.name) for level in effect.levels]
    with mpl.rc_context(STYLE):
        if None in numbers:
            rows = [DotRow(level.name, [*level.by_seed.values()], level.interval, "c0") for level in effect.levels]
            return Chart(f"effect_{number}", title, note, dot_rows_figure(rows)[0])
        figure, axes = new_axes()
        order = np.argsort(np.array(numbers, dtype=np.float64))
        levels, along = [effect.levels[i] for i in order], [float(numbers[i] or 0) for i in order]
        hue = light_colour("c0")
        for seed in levels[0].by_seed:
            heights = [level.by_seed[seed] for level in levels]
            axes.plot(along, heights, "o-", color=hue, alpha=0.4, markersize=5, linewidth=0.8, mew=0)
        axes.plot(along, [level.mean for level in levels], color=hue, linewidth=2)
        for x, level in zip(along, levels, strict=True):
            axes.plot([x, x], level.interval, color=hue, linewidth=2)
            axes.plot(x, level.mean, "_", color=hue, markersize=14, markeredgewidth=3)
        if suits_log_scale(along):
            axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(along))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(NullFormatter())
        axes.set_xticks(along, [level.name for level in levels], parse_math=False)
        axes.margins(x=0.08)
        axes.set_xlabel(wrap_row_name(effect.factor), parse_math=False)
        fit_share_axis(axes, "y", [value for level in levels for value in (*level.by_seed.values(), *level.interval)])
    return Chart(f"effect_{number}", title, note + "; a thin line joins a seed", figure)


def suits_log_scale(along: Sequence[float]) -> bool:
    """Whether sorted numbers are more evenly spaced by ratio than by difference."""
    if along[0] <= 0 or len(along) < 3:
        return along[0] > 0 and along[-1] / along[0] >= 3
    gaps, ratios = np.diff(along), np.diff(np.log(along))
    return bool(gaps.max() / gaps.min() > ratios.max() / ratios.min())


class TrainingCurves(NamedTuple):
    """The metrics during training, and the titles of those that were zero at each step of each arm."""

    charts: list[Chart]
    zero: list[str]


def training_curves(arms: Sequence[Arm], hues: Mapping[str, str], baseline: Arm) -> TrainingCurves:
    """The metrics during training: the mean over the seeds of an arm, in a band from the lowest to the highest."""
    chosen = [arm for arm in arms if arm.name in hues]
    names = {arm.name: curve_label(arm, baseline) for arm in chosen}
    zero = [title for column, title in CURVES.items() if column != CORRECT and is_zero(chosen, column)]
    charts = [
        training_curve(chosen, names, hues, column, title, column)
        for column, title in CURVES.items()
        if title not in zero
    ]
    if len({arm.values(COMPLETIONS_SAMPLED).get(seed) for arm in chosen for seed in arm.runs}) > 1:
        title = "Right completions by completions sampled"
        charts.insert(1, training_curve(chosen, names, hues, CORRECT, title, "by_completions"))
    charts.append(
        training_curve(chosen, names, hues, VALIDATION_ACCURACY, "Validation problems right", VALIDATION_ACCURACY)
    )
    return TrainingCurves([chart for chart in charts if chart], zero)


def is_zero(arms: Sequence[Arm], column: str) -> bool:
    """Whether a metric was logged and was zero at each step of each run."""
    logged = [run.history[column].fillna(0) for arm in arms for run in arm.runs.values() if column in run.history]
    return bool(logged) and not any(values.any() for values in logged)


def training_curve(
    arms: Sequence[Arm],
    names: Mapping[str, str],
    hues: Mapping[str, str],
    column: str,
    title: str,
    name: str,
) -> Chart | None:
    """The curve of one metric for each arm, by steps, or with the name `by_completions` by completions sampled."""
    by_completions = name == "by_completions"
    bands = {arm.name: band for arm in arms if (band := band_over_seeds(arm, column)) is not None}
    if not bands:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(lines=len(bands) if len(arms) > 1 else 0)
        labels = []
        for arm in arms:
            if (band := bands.get(arm.name)) is None:
                continue
            steps = band.index.to_numpy()
            if by_completions:  # a mean over seeds, which sample different numbers of groups with algorithm.resample
                sampled = pd.concat([completions_sampled(run) for run in arm.runs.values()], axis="columns")
                steps = sampled.mean(axis=1).loc[steps].to_numpy()
            hue = hues[arm.name]
            axes.fill_between(steps, band["low"], band["high"], color=light_colour(hue), alpha=0.13, linewidth=0)
            axes.plot(
                steps, band["mean"], color=light_colour(hue), linewidth=2, marker="o" * (len(band) < 8), markersize=4
            )
            labels.append((float(band["mean"].iloc[-1]), names[arm.name], hue))
        if column in SHARE_METRICS:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        along = "completions sampled" if by_completions else "step"
        return finish_chart(
            name.replace("/", "_"), title, "", figure, axes, labels if len(arms) > 1 else (), along=along
        )


def band_over_seeds(arm: Arm, column: str) -> pd.DataFrame | None:
    """mean, low and high over the seeds of an arm, indexed by the steps that all seeds have; None if there are none."""
    series = []
    for run in arm.runs.values():
        table = run.validations if column.startswith(VALIDATION_PREFIX) else run.history
        if column not in table or (values := table[column].dropna()).empty:
            return None
        if not column.startswith(VALIDATION_PREFIX):
            values = values.rolling(smoothing_window(len(values)), min_periods=1, center=True).mean()
        series.append(values[~values.index.duplicated(keep="last")])
    seeds = pd.concat(series, axis="columns", join="inner")
    if seeds.empty:
        return None
    return pd.DataFrame({"mean": seeds.mean(axis=1), "low": seeds.min(axis=1), "high": seeds.max(axis=1)})


def curve_label(arm: Arm, baseline: Arm) -> str:
    """The label of an arm's line: its levels, or if they are too long, those that differ from the baseline."""
    text = printable(", ".join(arm.levels.values()))
    if len(text) > 26 and arm is not baseline:
        levels = [level for factor, level in arm.levels.items() if baseline.levels.get(factor) != level]
        text = printable(", ".join(levels))
    return truncate_text("baseline" if len(text) > 26 and arm is baseline else text, 26)


def pareto_figure(trials: Sequence[Trial], objectives: Sequence[str], labels: Mapping[str, str]) -> Chart:
    """The trials of a search with two objectives; those on the Pareto front are joined by a line."""
    complete = [trial for trial in trials if None not in trial.values]
    best: Any = sorted(trial.values for trial in complete if trial.best)
    with mpl.rc_context(STYLE):
        figure, axes = new_axes()
        points: Any = [trial.values for trial in complete if not trial.best]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=light_colour("soft"), alpha=0.6, markersize=5, mew=0)
        axes.plot(*zip(*best, strict=True), "o-", color=light_colour("c0"), markersize=7, linewidth=1)
        for trial in complete:
            if trial.best:
                label_style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "parse_math": False}
                axes.annotate(printable(trial.folder)[-12:], trial.values, (6, 6), **label_style)  # type: ignore[arg-type]
        axes.margins(0.08)
        axes.grid(True, axis="both")
        for axis, name in zip((axes.xaxis, axes.yaxis), objectives, strict=True):
            axis.set_label_text(label_and_formatter(name, labels)[0])
            axis.set_major_locator(MaxNLocator(5))
            if name not in NON_PERCENT_FORMATS and not name.startswith(SCORE_PREFIX):
                axis.set_major_formatter(PercentFormatter(1, decimals=0))
                low, high = axis.get_view_interval()
                axis.set_view_interval(max(low, -0.02), min(high, 1.02), ignore=True)
    note = "blue: no other trial is at least as good in both and better in one; the numbers are jobs"
    return Chart("front", " and ".join(label_and_formatter(name, labels)[0] for name in objectives), note, figure)
