"""The report of a sweep: `report.html`, and `sweep.csv` with every number on it.

Called by `grpo.report` and at the end of a sweep. It formats; the statistics come from `sweep_statistics`, the charts
from `sweep_figures`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from grpo.core.errors import UserError
from grpo.core.files import atomic_write
from grpo.core.metric_format import format_interval, format_metric, label_and_formatter
from grpo.core.statistics import PairedTTest
from grpo.core.text import plural, replace_surrogates, with_sign
from grpo.reports.arm_details import arm_details, job_links, write_job_pages
from grpo.reports.arms import COMPLETIONS_SAMPLED, PRIMARY_METRIC, Arm, parse_number
from grpo.reports.baseline import choose_baseline
from grpo.reports.control_section import control_section
from grpo.reports.figures import HUES, Chart, save_png
from grpo.reports.page import write_page
from grpo.reports.sweep_figures import MAX_COLOURED_ARMS, arms_figure, effect_figure, pareto_figure, training_curves
from grpo.reports.sweep_findings import findings, format_p
from grpo.reports.sweep_folders import natural_key
from grpo.reports.sweep_results import SweepResults, UnfinishedJob
from grpo.reports.sweep_statistics import (
    Contrast,
    Effect,
    Trial,
    compute_contrasts,
    detectable_range,
    factor_effects,
    search_trials,
)
from grpo.reports.sweep_tables import best_arms, best_trials
from grpo.reports.titles import sweep_title
from grpo.runs.run_dir import SweepDir

MAX_PAGE_ROWS = 60  # of a table
CSV_COLUMNS = ["seeds", "mean", "sd", "difference", "low", "high", "both_low", "both_high", "p", "p_holm"]


@dataclass(frozen=True)
class SweepCharts:
    arms: list[Chart]  # of a search its Pareto front
    effects: list[Chart | None]  # one for each effect, None if it is unknown
    curves: list[Chart]
    zero: list[str]  # the titles of curves that are left out

    @property
    def all_charts(self) -> list[Chart]:
        return [*self.arms, *(chart for chart in self.effects if chart), *self.curves]


def write_sweep_report(
    sweep: SweepResults, baseline: str | None = None, figures: Path | None = None, out: Path | None = None
) -> Path:
    """Write `report.html` and `sweep.csv` into the folder of the sweep, or into `out`.

    Args:
        baseline: the name, or a part of it, of the arm that the others are compared with; None: the first with runs.
        figures: a folder to write the figures to as PNG.

    Returns:
        The path of the page.

    Raises:
        UserError: no arm or several arms match `baseline`, or the sweep is a search.
    """
    folder = out or sweep.folder
    if baseline is not None and sweep.maximize:
        raise UserError(
            f"--baseline {baseline!r}: {sweep.folder} is a search, whose trials are compared with one another."
        )
    base = choose_baseline(sweep, baseline) if sweep.arms_with_runs or baseline is not None else None
    contrasts: dict[str, dict[str, Contrast]] = {}  # metric -> arm -> contrast
    if base is not None and not sweep.maximize:
        contrasts = {metric: compute_contrasts(sweep, base, metric) for metric in (PRIMARY_METRIC, *sweep.metrics)}
    hues = arm_colours(sweep, base, contrasts.get(PRIMARY_METRIC, {})) if base else {}
    effects = factor_effects(sweep, base) if base and contrasts else []
    if len(effects) == 1 and any(parse_number(level.name) is None for level in effects[0].levels):
        effects = []  # the chart of the arms already shows it
    shown_arms = best_arms(sweep, base, MAX_PAGE_ROWS) if base and contrasts else []
    arms_with_runs = [arm for arm in shown_arms if arm.runs]
    labels = {arm.name: arm.difference_from(base) for arm in sweep.arms} if base else {}
    drawn = draw_charts(sweep, base, hues, effects, arms_with_runs, labels)
    controls = control_section(sweep, base, hues, labels) if base and contrasts else None
    rewards, details = arm_details(arms_with_runs)
    if folder.resolve() == sweep.folder.resolve():
        runs = [run for arm in arms_with_runs for run in arm.runs.values()]
        write_job_pages(runs, SweepDir(folder).report_html)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "sweep.csv") as partial:
        results_table(sweep, base, contrasts).to_csv(partial, index=False)
    page = write_page(
        SweepDir(folder).report_html,
        "sweep.html",
        kind="report",
        title=sweep_title(sweep),
        sweep=sweep,
        labels=labels,
        max_rows=MAX_PAGE_ROWS,
        baseline=base,
        findings=findings(sweep, base if baseline else None),
        summary=summary_line(sweep),
        ended_by_alarm=ended_by_alarm(sweep),
        arms=arm_rows(shown_arms, base, contrasts[PRIMARY_METRIC]) if base and contrasts else [],
        left_out=len(sweep.arms_with_runs) - len(arms_with_runs) if shown_arms else 0,
        detectable=detectable_difference(base, contrasts[PRIMARY_METRIC]) if base and contrasts else "",
        other_metrics=other_metrics_table(sweep, arms_with_runs, contrasts) if base and contrasts else None,
        missing=[job for job in (sweep.missing if sweep.maximize else sweep.unfinished) if not job.without_steps],
        without_steps=[job for job in sweep.unfinished if job.without_steps],
        pruned=len(sweep.unfinished) > len(sweep.missing),
        trials=trial_rows(sweep) if sweep.maximize else [],
        objectives=[
            f"{label_and_formatter(name, sweep.labels)[0]}, {'highest' if maximize else 'lowest'} best"
            for name, maximize in sweep.maximize.items()
        ],
        effects=[
            (effect, chart, level_rows(effect)) for effect, chart in zip(effects, drawn.effects, strict=True) if chart
        ],
        several_factors=len(effects) > 1,
        unknown_effects=[effect.factor for effect in effects if not effect.levels],
        hues=hues,
        drawn=drawn,
        controls=controls,
        rewards=rewards,
        details=details,
        job_links=job_links(sweep, folder),
    )
    if figures is not None:
        save_png([*drawn.all_charts, *(controls.charts if controls else ())], figures)
    return page


def arm_colours(sweep: SweepResults, baseline: Arm, contrasts: Mapping[str, Contrast]) -> dict[str, str]:
    """arm -> the name of its colour; of many arms, the baseline and those furthest from it have one."""
    arms = sweep.arms_with_runs
    if len(arms) > MAX_COLOURED_ARMS:
        furthest = sorted(contrasts.values(), key=lambda contrast: -abs(contrast.difference))
        coloured = {baseline.name, *(contrast.arm.name for contrast in furthest[: MAX_COLOURED_ARMS - 1])}
        arms = [arm for arm in arms if arm.name in coloured]
    return {arm.name: hue for arm, hue in zip(arms, HUES, strict=False)}


def draw_charts(
    sweep: SweepResults,
    baseline: Arm | None,
    hues: Mapping[str, str],
    effects: list[Effect],
    arms: list[Arm],
    labels: Mapping[str, str],
) -> SweepCharts:
    if baseline is None:
        return SweepCharts([], [], [], [])
    if sweep.maximize:
        trials = search_trials(sweep)
        has_front = len(sweep.maximize) == 2 and any(trial.best for trial in trials)
        return SweepCharts([pareto_figure(trials, [*sweep.maximize], sweep.labels)] if has_front else [], [], [], [])
    return SweepCharts(
        [arms_figure(arms, baseline, hues, labels, sweep.labels[PRIMARY_METRIC])],
        [effect_figure(effect, i, len(effects) > 1) if effect.levels else None for i, effect in enumerate(effects)],
        *training_curves(sweep.arms_with_runs, hues, baseline),
    )


def summary_line(sweep: SweepResults) -> str:
    """The size of the sweep: jobs, arms, seeds and problems."""
    runs = [run for arm in sweep.arms_with_runs for run in arm.runs.values()]
    seeds = sorted({seed for arm in sweep.arms_with_runs for seed in arm.runs})
    counts = sorted({int(run.results["after"]["n"]) for run in runs})
    parts = [
        f"{sweep.job_count:,} {plural(sweep.job_count, 'job')}, {len(sweep.finished_runs):,} done",
        "" if sweep.maximize else f"{len(sweep.arms):,} {plural(len(sweep.arms), 'arm')}",
        f"{plural(len(seeds), 'seed')} {', '.join(map(str, seeds))}" if seeds else "",
        f"{' or '.join(f'{n:,}' for n in counts)} held-out {plural(counts[-1], 'problem')}" if counts else "",
    ]
    return " · ".join(part for part in parts if part)


def trial_rows(sweep: SweepResults) -> list[tuple[Trial | UnfinishedJob, list[str]]]:
    """The trials of a search with the values of the objectives, none for unfinished ones; of many trials the best."""
    complete = [
        (trial, [format_cell(metric, value) for metric, value in zip(sweep.maximize, trial.values, strict=True)])
        for trial in best_trials(sweep, MAX_PAGE_ROWS)
    ]
    unfinished = [job for job in sweep.unfinished if not job.without_steps][:MAX_PAGE_ROWS]
    return sorted([*complete, *((job, []) for job in unfinished)], key=lambda row: natural_key(row[0].folder))


def ended_by_alarm(sweep: SweepResults) -> list[tuple[str, str, str]]:
    """(folder, job, which alarm) of the runs that an alarm ended; they count like the others."""
    return [
        (
            sweep.relative_name(run.folder),
            name,
            f"the alarm {run.results['stopped_by']} at step {run.results['steps']:,}",
        )
        for name, run in sweep.finished_runs
        if run.results.get("stopped_by")
    ]


def format_cell(metric: str, value: float | None) -> str:
    return "–" if value is None else format_metric(metric, value)


def comparison_cells(metric: str, paired: PairedTTest, p_holm: float) -> dict[str, str]:
    """The cells of a comparison over seeds: difference, interval, p and Holm's p."""
    is_tested = not isnan(paired.p)
    return {
        "difference": with_sign(label_and_formatter(metric)[1](paired.difference)),
        "interval": interval_cell(metric, paired),
        "p": format_p(paired.p) if is_tested else "–",
        "p_holm": format_p(p_holm) if is_tested else "–",
    }


def interval_cell(metric: str, paired: PairedTTest) -> str:
    return "unknown" if isnan(paired.low) else format_interval(metric, paired.low, paired.high)


def arm_rows(arms: list[Arm], baseline: Arm, contrasts: Mapping[str, Contrast]) -> list[dict[str, Any]]:
    """The rows of the main table."""
    rows = []
    for arm in arms:
        values = [*arm.values(PRIMARY_METRIC).values()]
        row: dict[str, Any] = {"name": arm.name, "runs": arm.runs, "baseline": arm is baseline}
        if values:
            row["completions"] = completions_cell(arm)
            row["mean"] = format_metric(PRIMARY_METRIC, fmean(values))
            row["sd"] = label_and_formatter(PRIMARY_METRIC)[1](stdev(values)) if len(values) > 1 else None
        if contrast := contrasts.get(arm.name):
            test, over_seeds = contrast.test, contrast.paired
            row |= comparison_cells(PRIMARY_METRIC, test, contrast.p_holm)
            row["interval"] = interval_cell(PRIMARY_METRIC, over_seeds)
            row["both"] = interval_cell(PRIMARY_METRIC, contrast.crossed) if contrast.crossed else "–"
            row["significant"] = contrast.is_significant
            row["common_seeds"] = contrast.seeds if contrast.seeds < max(len(values), len(baseline.runs)) else None
        rows.append(row)
    return rows


def completions_cell(arm: Arm) -> str:
    """The completions that a run of the arm has sampled for training, a mean over seeds."""
    sampled = arm.values(COMPLETIONS_SAMPLED).values()
    return f"{fmean(sampled):,.0f}" if sampled else "–"


def detectable_difference(baseline: Arm, contrasts: Mapping[str, Contrast]) -> str:
    """The smallest difference that these seeds could have shown, as a sentence; empty if it is unknown."""
    constant = sum(contrast.is_constant for contrast in contrasts.values())
    caveat = ""
    if constant:
        caveat = (
            f"{constant} of the differences {'is' if constant == 1 else 'are'} the same in every seed: without spread "
            "over seeds there is no test."
        )
    if (half_widths := detectable_range(contrasts.values())) is None:
        return caveat
    pairs = sorted({contrast.seeds for contrast in contrasts.values() if contrast.seeds > 1})
    seeds = f"{pairs[0]} to {pairs[-1]}" if len(pairs) > 1 else str(pairs[0])
    low, high = (
        f"below about {half_width * 100:.1f} points" if half_width < 1 else "of any size" for half_width in half_widths
    )
    which = low if low == high else f"{low} (the arm with the smallest spread) or {high} (the largest spread)"
    return (
        f"With this spread and {seeds} seeds, differences from {baseline.short_name(baseline)} {which} are not "
        f"significant. {caveat}"
    )


def other_metrics_table(
    sweep: SweepResults, arms: list[Arm], contrasts: Mapping[str, Mapping[str, Contrast]]
) -> dict[str, Any]:
    """The table of the other metrics: their means over seeds, and whether they differ from the baseline."""
    rows = []
    for arm in arms:
        cells = []
        for metric in sweep.metrics:
            values = [*arm.values(metric).values()]
            contrast = contrasts[metric].get(arm.name)
            cells.append(
                (format_cell(metric, fmean(values) if values else None), bool(contrast and contrast.is_significant))
            )
        rows.append((arm, cells))
    return {"titles": [label_and_formatter(metric, sweep.labels)[0] for metric in sweep.metrics], "rows": rows}


def level_rows(effect: Effect) -> list[dict[str, str]]:
    """The rows of the table of a factor's levels."""
    rows = []
    for level in effect.levels:
        row = {"name": level.name, "mean": format_metric(PRIMARY_METRIC, level.mean)}
        rows.append(row | (comparison_cells(PRIMARY_METRIC, level.paired, level.p_holm) if level.paired else {}))
    return rows


def results_table(
    sweep: SweepResults,
    baseline: Arm | None,
    contrasts: Mapping[str, Mapping[str, Contrast]],
) -> pd.DataFrame:
    """The content of sweep.csv: a row for each arm and metric, with the mean over seeds and the comparison."""
    rows = []
    for arm in sweep.arms_with_runs:
        for metric in (PRIMARY_METRIC, *sweep.metrics, COMPLETIONS_SAMPLED):
            if not (values := [*arm.values(metric).values()]):
                continue
            row: dict[str, Any] = {factor: replace_surrogates(level) for factor, level in arm.levels.items()}
            row |= {"setting": replace_surrogates(arm.name), "figure": metric, **dict.fromkeys(CSV_COLUMNS, nan)}
            row |= {"seeds": len(values), "mean": fmean(values), "sd": stdev(values) if len(values) > 1 else nan}
            if contrast := contrasts.get(metric, {}).get(arm.name):
                over_seeds, both = contrast.paired, contrast.crossed
                row |= {"difference": over_seeds.difference, "low": over_seeds.low, "high": over_seeds.high}
                row |= {"both_low": both.low, "both_high": both.high} if both else {}
                row |= {"p": contrast.test.p, "p_holm": contrast.p_holm}
            rows.append(row | {"baseline": bool(contrasts) and arm is baseline})
    return pd.DataFrame(rows, columns=[*sweep.factors, "setting", "figure", *CSV_COLUMNS, "baseline"])
