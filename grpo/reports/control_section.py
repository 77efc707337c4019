"""The section of a sweep's report on its controls: a placebo, and pass@k before and after training.

`sweep_report` calls it; a sweep without either has no such section. The statistics are those of `control_statistics`,
the sentences those of `control_findings`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from grpo.core.metric_format import label_and_formatter
from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT, STRICT_FORMAT
from grpo.reports.arms import Arm
from grpo.reports.control_findings import (
    bounds,
    caveat,
    elicited_sentence,
    format_sentence,
    percent,
    placebo_sentence,
    points,
    verdict_of,
)
from grpo.reports.control_statistics import Change, PassAtK, gains_over, is_placebo, pass_at_k_of
from grpo.reports.figures import STYLE, Chart, finish_chart, light_colour, new_axes
from grpo.reports.sweep_results import SweepResults

ACCURACIES = (ACCURACY_STRICT, ACCURACY_FLEXIBLE)


class Cell(NamedTuple):
    """A cell of the table: a figure, and its change below it."""

    text: str = "–"
    below: str = ""


class ArmRow(NamedTuple):
    """A row of the table; `hue` is the name of the arm's colour, empty if it has none."""

    name: str
    hue: str
    cells: list[Cell]


@dataclass(frozen=True)
class ControlSection:
    """What the section shows; `titles` are those of the cells."""

    sentences: list[str]
    charts: list[Chart]
    titles: list[str]
    rows: list[ArmRow]


def control_section(
    sweep: SweepResults, baseline: Arm, hues: Mapping[str, str], names: Mapping[str, str]
) -> ControlSection | None:
    """The section of a sweep that has a placebo, or samples before and after training.

    Args:
        baseline: the arm that the sentences are about; of a placebo, the first other arm.
        hues: arm -> the name of its colour, of the arms that have one.
        names: arm -> its name in tables and sentences.
    """
    arms = sweep.arms_with_runs
    placebo = next(filter(is_placebo, arms), None)
    subject = next((arm for arm in (baseline, *arms) if arm is not placebo), None)
    curves = {arm.name: of_arm for arm in arms if (of_arm := pass_at_k_of(arm))}
    if subject is None or (placebo is None and not curves):
        return None
    gains = gains_over(sweep, placebo) if placebo else {}
    sentences, k = [], None
    if len(gains.get(subject.name, {})) == len(ACCURACIES):
        sentences.append(placebo_sentence(names[subject.name], gains[subject.name], sweep.labels))
    if subject.name in curves:
        flexible = curves[subject.name][ACCURACY_FLEXIBLE]
        k = flexible.ks[-1]
        one, most = flexible.changes[1], flexible.changes[k]
        sentences.append(elicited_sentence(names[subject.name], one, most, k, flexible.crossing))
    before = [run.results["before"].get(STRICT_FORMAT) for arm in arms for run in arm.runs.values()]
    if None not in before:
        learnt = {names[arm.name]: fmean(arm.values(STRICT_FORMAT).values()) for arm in arms}
        sentences.append(format_sentence(fmean(before), learnt))
    sentences.append(caveat(k, len(subject.runs)))
    charts = [
        pass_at_k_figure(curves, subject, hues, names, accuracy, sweep.labels[accuracy])
        for accuracy in reversed(ACCURACIES)
        if subject.name in curves
    ]
    titles, rows = control_table(arms, subject, hues, names, gains, curves, sweep.labels)
    return ControlSection(sentences, charts, titles, rows)


def control_table(
    arms: list[Arm],
    subject: Arm,
    hues: Mapping[str, str],
    names: Mapping[str, str],
    gains: Mapping[str, Mapping[str, Change]],
    curves: Mapping[str, Mapping[str, PassAtK]],
    labels: Mapping[str, str],
) -> tuple[list[str], list[ArmRow]]:
    """The titles of the columns, and a row for the policy before training and for each arm.

    The columns: greedy answers, their gain over the placebo, and pass@k in any format with its change by training.
    """
    greedy = [*ACCURACIES, STRICT_FORMAT]
    sampled = curves.get(subject.name, {}).get(ACCURACY_FLEXIBLE)
    titles = [label_and_formatter(metric, labels)[0] for metric in greedy]
    titles += [f"{labels[accuracy]}, gain over the placebo" for accuracy in ACCURACIES] if gains else []
    titles += ["pass@1", f"pass@{sampled.ks[-1]}", "verdict"] if sampled else []
    before = [_mean_cell([run.results["before"].get(metric) for run in subject.runs.values()]) for metric in greedy]
    before += [Cell()] * len(ACCURACIES) if gains else []
    before += [Cell(percent(sampled.changes[k].before)) for k in (1, sampled.ks[-1])] if sampled else []
    before += [Cell()] if sampled else []
    rows = [ArmRow("before training", "soft", before)]
    for arm in arms:
        cells = [_mean_cell([*arm.values(metric).values()]) for metric in greedy]
        if gains:
            of_arm = gains.get(arm.name, {})
            cells += [
                Cell(points(of_arm[accuracy]), bounds(of_arm[accuracy])) if accuracy in of_arm else Cell()
                for accuracy in ACCURACIES
            ]
        if sampled and arm.name in curves:
            flexible = curves[arm.name][ACCURACY_FLEXIBLE]
            one, most = flexible.changes[1], flexible.changes[flexible.ks[-1]]
            cells += [Cell(percent(change.after), f"{points(change)} ({bounds(change)})") for change in (one, most)]
            cells.append(Cell(verdict_of(one, most, flexible.ks[-1])))
        elif sampled:
            cells += [Cell()] * 3
        rows.append(ArmRow(names[arm.name], hues.get(arm.name, ""), cells))
    return titles, rows


def _mean_cell(values: Sequence[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    return Cell(percent(fmean(known))) if known else Cell()


def pass_at_k_figure(
    curves: Mapping[str, Mapping[str, PassAtK]],
    subject: Arm,
    hues: Mapping[str, str],
    names: Mapping[str, str],
    accuracy: str,
    label: str,
) -> Chart:
    """The share of problems that are right at least once in k samples: before training, and after it for each arm."""
    before = curves[subject.name][accuracy]
    drawn = {name: of_arm[accuracy] for name, of_arm in curves.items() if name in hues}
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(lines=len(drawn) + 1)
        axes.set_xscale("log", base=2)
        lowest = before.before.mean(axis=(0, 1))
        axes.plot(before.ks, lowest, color=light_colour("soft"), linewidth=2, linestyle=(0, (4, 2)))
        labels = [(float(lowest[-1]), "before", "soft")]
        for name, of_arm in drawn.items():
            heights = of_arm.after.mean(axis=(0, 1))
            style: dict[str, Any] = {"linewidth": 2, "markersize": 4, "clip_on": False}
            axes.plot(of_arm.ks, heights, "o-", color=light_colour(hues[name]), **style)
            labels.append((float(heights[-1]), names[name].rpartition("=")[2], hues[name]))
        axes.set_ylim(0, 1.02)
        note = "right at least once in k samples; dashed: before training; means over seeds"
        name = "pass_at_k" if accuracy == ACCURACY_FLEXIBLE else "pass_at_k_strict"
        chart = finish_chart(name, f"pass@k, {label}", note, figure, axes, labels, along="k, samples per problem")
        axes.xaxis.set_major_locator(FixedLocator(before.ks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return chart
