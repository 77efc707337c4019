"""The tables of a sweep for a terminal of 80 columns.

Printed by `grpo.report` and at the end of a sweep. It computes no statistics.
"""

from collections.abc import Sequence
from math import isnan

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from grpo.core.metric_format import format_interval, format_metric, label_and_formatter
from grpo.core.statistics import PairedTTest
from grpo.core.tables import empty_table, key_value_table
from grpo.core.text import format_p_value, printable, with_sign
from grpo.reports.arms import PRIMARY_METRIC, Arm, truncate_text
from grpo.reports.baseline import choose_baseline
from grpo.reports.sweep_results import SweepResults, UnfinishedJob
from grpo.reports.sweep_statistics import Trial, compute_contrasts, mean_accuracy, search_trials

MAX_TERMINAL_ROWS = 20  # of a table, and of the list of jobs without results


def sweep_table(sweep: SweepResults, baseline: Arm | None = None) -> RenderableType:
    """The arms of a sweep, or the trials of a search, for a terminal of 80 columns; below them the unfinished jobs."""
    parts: list[RenderableType] = []
    if sweep.arms_with_runs:
        base = baseline or choose_baseline(sweep, None)
        parts += _trials_table(sweep) if sweep.maximize else _arms_table(sweep, base)
    failed = [job for job in sweep.unfinished if not job.without_steps]
    rows = {f"{job.folder}  {job.state}": _job_description(job) for job in failed[:MAX_TERMINAL_ROWS]}
    if len(failed) > MAX_TERMINAL_ROWS:
        rows[f"and {len(failed) - MAX_TERMINAL_ROWS} more"] = ""
    for state in ("without a step", "not started"):
        if names := [job.folder for job in sweep.unfinished if job.state == state]:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            rows[f"{len(names)}  {state}"] = f"{', '.join(names[:5])}{more}"
    return Group(*parts, key_value_table(rows)) if rows else Group(*parts)


def _job_description(job: UnfinishedJob) -> str:
    reason = " ".join(job.reason.split())
    return ": ".join(truncate_text(part, 300) for part in (job.name, reason) if part)


def best_arms(sweep: SweepResults, baseline: Arm, most: int) -> list[Arm]:
    """All arms; if they are more than `most`, the baseline and those with the most right answers."""
    # Without the list of jobs in sweep.json, an arm without runs is only a run that was started.
    arms = sweep.arms if sweep.command else sweep.arms_with_runs
    if len(arms) <= most:
        return arms
    best = sorted((arm for arm in sweep.arms_with_runs if arm is not baseline), key=lambda arm: -mean_accuracy(arm))
    return [baseline, *best[: most - 1]]


def _arms_table(sweep: SweepResults, baseline: Arm) -> list[RenderableType]:
    table = empty_table("seeds", "right", "difference", "95% interval", "Holm p")
    table.columns[0].header = "arm"
    contrasts, arms = compute_contrasts(sweep, baseline), best_arms(sweep, baseline, MAX_TERMINAL_ROWS)
    names = [printable(arm.difference_from(baseline)) for arm in arms]
    labels, legend = _row_labels(names)
    for arm, label in zip(arms, labels, strict=True):
        if not arm.runs:
            table.add_row(label, "0", "", "", "", "")
            continue
        cells = ["baseline" if arm is baseline else "", "", ""]
        if contrast := contrasts.get(arm.name):
            cells = [
                with_sign(label_and_formatter(PRIMARY_METRIC)[1](contrast.difference)),
                *_interval_and_p_cells(contrast.test, contrast.p_holm),
            ]
        table.add_row(label, str(len(arm.runs)), format_metric(PRIMARY_METRIC, mean_accuracy(arm)), *cells)
    over = "seeds and problems" if all(contrast.crossed for contrast in contrasts.values()) else "seeds"
    table.caption = f"{sweep.labels[PRIMARY_METRIC]}: mean over seeds; paired t intervals over {over}"
    table.caption_justify = "left"
    if len(sweep.factors) > 1:
        legend = [Text("Arms are named by their differences from the baseline."), *legend]
    return [table, *legend, *_left_out_note(len(sweep.arms_with_runs), len(arms), "arms")]


def _row_labels(names: Sequence[str], room: int = 32) -> tuple[list[Text], list[RenderableType]]:
    """The first column of a table, and a legend below it: numbers replace names that need more than two lines."""
    longest_word = max((cell_len(word) for name in names for word in name.split()), default=0)
    if longest_word <= room and max(map(cell_len, names), default=0) <= 2 * room:
        return [Text(name) for name in names], []
    numbers = [str(number) for number in range(1, len(names) + 1)]
    return [Text(number) for number in numbers], [key_value_table(dict(zip(numbers, names, strict=True)))]


def _left_out_note(total: int, count: int, noun: str) -> list[RenderableType]:
    return [Text(f"The best {count} of {total} {noun}; all are in sweep.csv.")] if count < total else []


def _interval_and_p_cells(paired: PairedTTest, p_holm: float) -> tuple[str, str]:
    interval = "unknown" if isnan(paired.low) else format_interval(PRIMARY_METRIC, paired.low, paired.high)
    return interval, "" if isnan(p_holm) else format_p_value(p_holm)


def _trials_table(sweep: SweepResults) -> list[RenderableType]:
    table = empty_table(*(label_and_formatter(metric, sweep.labels)[0] for metric in sweep.maximize))
    table.columns[0].header = "trial"
    trials, total = best_trials(sweep, MAX_TERMINAL_ROWS), len(sweep.finished_runs)
    labels, legend = _row_labels([printable(f"{trial.folder}  {truncate_text(trial.name, 300)}") for trial in trials])
    for trial, label in zip(trials, labels, strict=True):
        cells = [
            "" if value is None else format_metric(metric, value)
            for metric, value in zip(sweep.maximize, trial.values, strict=True)
        ]
        table.add_row(label, *cells, style="bold" if trial.best else None)
    table.caption, table.caption_justify = "bold: no other trial is better", "left"
    return [table, *legend, *_left_out_note(total, len(trials), "trials")]


def best_trials(sweep: SweepResults, most: int) -> list[Trial]:
    """All trials, or if they are more than `most`, the Pareto front and the best others by the first objective."""
    trials = search_trials(sweep)
    if len(trials) <= most:
        return trials
    sign = -1 if next(iter(sweep.maximize.values())) else 1
    return sorted(trials, key=lambda trial: (not trial.best, sign * (trial.values[0] or 0.0)))[:most]
