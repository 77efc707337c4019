"""The tables of a sweep for a terminal of 80 columns.

Printed by `grpo.report` and at the end of a sweep. It computes no statistics of its own.
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
from grpo.reports.sweep_results import Sweep, UnfinishedJob, choose_baseline
from grpo.reports.sweep_statistics import Trial, compute_contrasts, mean_accuracy, search_trials

MOST = 20  # rows of a table, and jobs without results, that a terminal shows


def sweep_table(sweep: Sweep, baseline: Arm | None = None) -> RenderableType:
    """The settings of a sweep, or the trials of a search, for a terminal of 80 columns; below them what is missing."""
    parts: list[RenderableType] = []
    if sweep.compared:
        base = baseline or choose_baseline(sweep, None)
        parts += _trials_table(sweep) if sweep.maximize else _arms_table(sweep, base)
    listed = [job for job in sweep.undone if not job.without_steps]
    missing = {f"{job.folder}  {job.state}": _job_description(job) for job in listed[:MOST]}
    if len(listed) > MOST:
        missing[f"and {len(listed) - MOST} more"] = ""
    for state in ("without a step", "not started"):
        if names := [job.folder for job in sweep.undone if job.state == state]:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            missing[f"{len(names)}  {state}"] = f"{', '.join(names[:5])}{more}"
    return Group(*parts, key_value_table(missing)) if missing else Group(*parts)


def _job_description(job: UnfinishedJob) -> str:
    reason = " ".join(job.reason.split())
    return ": ".join(truncate_text(part, 300) for part in (job.name, reason) if part)


def best_arms(sweep: Sweep, baseline: Arm, most: int) -> list[Arm]:
    """All settings, or if they are more than `most`, the baseline and the best ones."""
    # Outside a sweep, settings without figures were only started.
    settings = sweep.settings if sweep.command else sweep.compared
    if len(settings) <= most:
        return settings
    best = sorted((each for each in sweep.compared if each is not baseline), key=lambda each: -mean_accuracy(each))
    return [baseline, *best[: most - 1]]


def _arms_table(sweep: Sweep, baseline: Arm) -> list[RenderableType]:
    table = empty_table("seeds", "correct", "difference", "95% interval", "Holm p")
    table.columns[0].header = "setting"
    found, settings = compute_contrasts(sweep, baseline), best_arms(sweep, baseline, MOST)
    names = [printable(setting.beside(baseline)) for setting in settings]
    labels, legend = _row_labels(names)
    for setting, label in zip(settings, labels, strict=True):
        if not setting.runs:
            table.add_row(label, "0", "", "", "", "")
            continue
        cells = ["baseline" if setting is baseline else "", "", ""]
        if contrast := found.get(setting.name):
            cells = [
                with_sign(label_and_formatter(PRIMARY_METRIC)[1](contrast.paired.difference)),
                *_interval_and_p_cells(contrast.paired, contrast.p_holm),
            ]
        table.add_row(label, str(len(setting.runs)), format_metric(PRIMARY_METRIC, mean_accuracy(setting)), *cells)
    table.caption = "correct: inside <answer>, mean over seeds; paired t intervals with the seed as unit"
    table.caption_justify = "left"
    if len(sweep.factors) > 1:
        legend = [Text("Settings are named by their differences from the baseline."), *legend]
    return [table, *legend, *_left_out_note(len(sweep.compared), len(settings), "settings")]


def _row_labels(names: Sequence[str], room: int = 32) -> tuple[list[Text], list[RenderableType]]:
    """The first column of a table, and a legend below it: names that need more than two lines become numbers."""
    longest_word = max((cell_len(word) for name in names for word in name.split()), default=0)
    if longest_word <= room and max(map(cell_len, names), default=0) <= 2 * room:
        return [Text(name) for name in names], []
    numbers = [str(number) for number in range(1, len(names) + 1)]
    return [Text(number) for number in numbers], [key_value_table(dict(zip(numbers, names, strict=True)))]


def _left_out_note(all_of: int, shown_of: int, what: str) -> list[RenderableType]:
    return [Text(f"The best {shown_of} of {all_of} {what}; all are in sweep.csv.")] if shown_of < all_of else []


def _interval_and_p_cells(paired: PairedTTest, p_holm: float) -> tuple[str, str]:
    return (
        ("unknown", "")
        if isnan(paired.p)
        else (format_interval(PRIMARY_METRIC, paired.low, paired.high), format_p_value(p_holm))
    )


def _trials_table(sweep: Sweep) -> list[RenderableType]:
    table = empty_table(*(label_and_formatter(figure)[0] for figure in sweep.maximize))
    table.columns[0].header = "trial"
    found, total = best_trials(sweep, MOST), len(sweep.trials)
    labels, legend = _row_labels([printable(f"{trial.folder}  {truncate_text(trial.name, 300)}") for trial in found])
    for trial, label in zip(found, labels, strict=True):
        cells = [
            "" if each is None else format_metric(figure, each)
            for figure, each in zip(sweep.maximize, trial.values, strict=True)
        ]
        table.add_row(label, *cells, style="bold" if trial.best else None)
    table.caption, table.caption_justify = "bold: no trial is better", "left"
    return [table, *legend, *_left_out_note(total, len(found), "trials")]


def best_trials(sweep: Sweep, most: int) -> list[Trial]:
    """All trials, or if they are more than `most`, those that no other beats and the best by the first objective."""
    found = search_trials(sweep)
    if len(found) <= most:
        return found
    sign = -1 if next(iter(sweep.maximize.values())) else 1
    return sorted(found, key=lambda trial: (not trial.best, sign * (trial.values[0] or 0.0)))[:most]
