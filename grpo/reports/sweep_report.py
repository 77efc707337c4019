"""A page about a sweep, and its figures as a table for other programs: which settings differ, and how sure that is."""

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
from grpo.core.statistics import Interval, PairedTTest
from grpo.core.text import plural, replace_surrogates, with_sign
from grpo.reports.arms import PRIMARY_METRIC, Arm, parse_number
from grpo.reports.figures import HUES, Chart, save_png
from grpo.reports.page import write_page
from grpo.reports.sweep_figures import MOST, arms_figure, effect_figure, pareto_figure, training_curves
from grpo.reports.sweep_findings import findings, format_p
from grpo.reports.sweep_folders import natural_key
from grpo.reports.sweep_results import Sweep, UnfinishedJob, choose_baseline
from grpo.reports.sweep_statistics import (
    Contrast,
    Effect,
    Trial,
    compute_contrasts,
    detectable_range,
    factor_effects,
    intervals_over_problems,
    search_trials,
)
from grpo.reports.sweep_tables import best_arms, best_trials
from grpo.runs.run_dir import SweepDir

Problems = Mapping[str, Mapping[str, Interval]]  # setting -> figure -> interval
MOST_ON_PAGE = 60  # rows of a table
COLUMNS = ["seeds", "mean", "sd", "difference", "low", "high", "p", "p_holm", "problems_low", "problems_high"]


@dataclass(frozen=True)
class Drawn:
    settings: list[Chart]
    effects: list[Chart | None]
    curves: list[Chart]

    @property
    def all(self) -> list[Chart]:
        return [*self.settings, *(chart for chart in self.effects if chart), *self.curves]


def write_sweep_report(
    sweep: Sweep, baseline: str | None = None, figures: Path | None = None, out: Path | None = None
) -> Path:
    """Write `report.html` and `sweep.csv` into the folder of a sweep or of runs, or into `out`; gives the page.

    Args:
        baseline: the setting that the others are compared with, by its name or a part of it; else the first.
        figures: where to write the figures as PNG, too.

    Raises:
        UserError: there is no such baseline.
    """
    folder = out or sweep.folder
    if baseline is not None and sweep.maximize:
        raise UserError(
            f"--baseline {baseline!r}: {sweep.folder} is a search, whose trials are compared with one another."
        )
    base = choose_baseline(sweep, baseline) if sweep.compared or baseline is not None else None
    found = (
        {}
        if base is None or sweep.maximize
        else {figure: compute_contrasts(sweep, base, figure) for figure in (PRIMARY_METRIC, *sweep.figures)}
    )
    problems: Problems = intervals_over_problems(sweep, base) if base and found else {}
    hues = arm_colours(sweep, base, found.get(PRIMARY_METRIC, {})) if base else {}
    measured = factor_effects(sweep, base) if base and found else []
    if len(measured) == 1 and any(parse_number(level.name) is None for level in measured[0].levels):
        measured = []  # the figure of the settings says as much
    listed = best_arms(sweep, base, MOST_ON_PAGE) if base and found else []
    labels = {setting.name: setting.beside(base) for setting in sweep.settings} if base else {}
    drawn = draw_charts(sweep, base, hues, measured, listed, labels)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "sweep.csv") as partial:
        results_table(sweep, base, found, problems).to_csv(partial, index=False)
    page = write_page(
        SweepDir(folder).report_html,
        "sweep.html",
        name=sweep.folder.resolve().name,
        sweep=sweep,
        labels=labels,
        most=MOST_ON_PAGE,
        baseline=base,
        findings=findings(sweep, base if baseline else None),
        facts=summary_line(sweep),
        early=ended_by_alarm(sweep),
        settings=arm_rows(listed, base, found[PRIMARY_METRIC], problems) if base and found else [],
        left_out=len(sweep.compared) - len([setting for setting in listed if setting.runs]) if listed else 0,
        told=detectable_difference(base, found[PRIMARY_METRIC]) if base and found else "",
        others=other_metrics_table(sweep, [setting for setting in listed if setting.runs], found)
        if base and found
        else None,
        missing=[job for job in (sweep.missing if sweep.maximize else sweep.undone) if not job.without_steps],
        without_steps=[job for job in sweep.undone if job.without_steps],
        pruned=len(sweep.undone) > len(sweep.missing),
        trials=trial_rows(sweep) if sweep.maximize else [],
        objectives=[
            f"{label_and_formatter(name)[0]}, {'highest' if most else 'lowest'} best"
            for name, most in sweep.maximize.items()
        ],
        effects=[
            (effect, chart, level_rows(effect)) for effect, chart in zip(measured, drawn.effects, strict=True) if chart
        ],
        several=len(measured) > 1,
        unknown=[effect.factor for effect in measured if not effect.levels],
        hues=hues,
        drawn=drawn,
    )
    if figures is not None:
        save_png(drawn.all, figures)
    return page


def arm_colours(sweep: Sweep, baseline: Arm, found: Mapping[str, Contrast]) -> dict[str, str]:
    """Setting -> the name of its colour; of many settings, those furthest from the baseline have one."""
    settings = sweep.compared
    if len(settings) > MOST:
        apart = sorted(found.values(), key=lambda contrast: -abs(contrast.paired.difference))
        kept = {baseline.name, *(contrast.setting.name for contrast in apart[: MOST - 1])}
        settings = [setting for setting in settings if setting.name in kept]
    return {setting.name: hue for setting, hue in zip(settings, HUES, strict=False)}


def draw_charts(
    sweep: Sweep,
    baseline: Arm | None,
    hues: Mapping[str, str],
    measured: list[Effect],
    listed: list[Arm],
    labels: Mapping[str, str],
) -> Drawn:
    if baseline is None:
        return Drawn([], [], [])
    if sweep.maximize:
        best = [trial for trial in search_trials(sweep) if trial.best]
        return Drawn(
            [pareto_figure(search_trials(sweep), [*sweep.maximize])] if best and len(sweep.maximize) == 2 else [],
            [],
            [],
        )
    return Drawn(
        [arms_figure([setting for setting in listed if setting.runs], baseline, hues, labels)],
        [effect_figure(effect, i, len(measured) > 1) if effect.levels else None for i, effect in enumerate(measured)],
        training_curves(sweep.compared, hues, baseline),
    )


def summary_line(sweep: Sweep) -> str:
    runs = [run for setting in sweep.compared for run in setting.runs.values()]
    seeds = sorted({seed for setting in sweep.compared for seed in setting.runs})
    asked = sorted({int(run.results["after"]["n"]) for run in runs})
    known = [
        f"{sweep.jobs:,} {plural(sweep.jobs, 'job')}, {len(sweep.trials):,} done",
        "" if sweep.maximize else f"{len(sweep.settings):,} {plural(len(sweep.settings), 'setting')}",
        f"{plural(len(seeds), 'seed')} {', '.join(map(str, seeds))}" if seeds else "",
        f"{' or '.join(f'{n:,}' for n in asked)} held-out {plural(asked[-1], 'problem')}" if asked else "",
    ]
    return " · ".join(part for part in known if part)


def trial_rows(sweep: Sweep) -> list[tuple[Trial | UnfinishedJob, list[str]]]:
    """The trials of a search, complete ones with their figures; of many trials the best."""
    complete = [
        (trial, [format_cell(figure, each) for figure, each in zip(sweep.maximize, trial.values, strict=True)])
        for trial in best_trials(sweep, MOST_ON_PAGE)
    ]
    undone = [job for job in sweep.undone if not job.without_steps][:MOST_ON_PAGE]
    return sorted([*complete, *((job, []) for job in undone)], key=lambda each: natural_key(each[0].folder))


def ended_by_alarm(sweep: Sweep) -> list[tuple[str, str, str]]:
    """(folder, job, what ended it) of the runs that an alarm ended; they count like the others."""
    return [
        (sweep.within(run.folder), name, f"the alarm {run.results['stopped_by']} at step {run.results['steps']:,}")
        for name, run in sweep.trials
        if run.results.get("stopped_by")
    ]


def format_cell(figure: str, of: float | None) -> str:
    return "–" if of is None else format_metric(figure, of)


def comparison_cells(figure: str, paired: PairedTTest, p_holm: float) -> dict[str, str]:
    """The cells of a comparison over seeds."""
    known = not isnan(paired.p)
    return {
        "difference": with_sign(label_and_formatter(figure)[1](paired.difference)),
        "interval": format_interval(figure, paired.low, paired.high) if known else "unknown",
        "p": format_p(paired.p) if known else "–",
        "p_holm": format_p(p_holm) if known else "–",
    }


def arm_rows(
    settings: list[Arm], baseline: Arm, found: Mapping[str, Contrast], problems: Problems
) -> list[dict[str, Any]]:
    """The rows of the main table."""
    shared = []
    for setting in settings:
        values = [*setting.values(PRIMARY_METRIC).values()]
        row: dict[str, Any] = {"name": setting.name, "seeds": len(values), "baseline": setting is baseline}
        if values:
            row["mean"] = format_metric(PRIMARY_METRIC, fmean(values))
            row["sd"] = label_and_formatter(PRIMARY_METRIC)[1](stdev(values)) if len(values) > 1 else None
        if contrast := found.get(setting.name):
            row |= comparison_cells(PRIMARY_METRIC, contrast.paired, contrast.p_holm)
            row["sure"], pairs = contrast.sure, contrast.paired.pairs
            row["pairs"] = pairs if pairs < max(len(values), len(baseline.runs)) else None
            over = problems.get(setting.name, {}).get(PRIMARY_METRIC)
            row["problems"] = format_interval(PRIMARY_METRIC, *over) if over else "–"
        shared.append(row)
    return shared


def detectable_difference(baseline: Arm, found: Mapping[str, Contrast]) -> str:
    """What difference these seeds could have told from none."""
    alike = sum(contrast.paired.pairs > 1 and contrast.reach == 0 for contrast in found.values())
    still = ""
    if alike:
        still = (
            f"{alike} of the differences {'is' if alike == 1 else 'are'} the same in every seed: without any spread "
            "an interval has no width, and its p value says little."
        )
    if (reach := detectable_range(found.values())) is None:
        return still
    pairs = sorted({contrast.paired.pairs for contrast in found.values() if contrast.paired.pairs > 1})
    seeds = f"{pairs[0]} to {pairs[-1]}" if len(pairs) > 1 else str(pairs[0])
    low, high = (f"below about {each * 100:.1f} points" if each < 1 else "of any size" for each in reach)
    which = low if low == high else f"{low} (the steadiest setting) or even {high} (the least steady)"
    return (
        f"With this spread and {seeds} seeds, differences from {baseline.brief(baseline)} {which} cannot be told "
        f"from chance. {still}"
    )


def other_metrics_table(
    sweep: Sweep, settings: list[Arm], found: Mapping[str, Mapping[str, Contrast]]
) -> dict[str, Any]:
    """The table of the other figures: their means over seeds."""
    rows = []
    for setting in settings:
        cells = []
        for figure in sweep.figures:
            values = [*setting.values(figure).values()]
            contrast = found[figure].get(setting.name)
            cells.append((format_cell(figure, fmean(values) if values else None), bool(contrast and contrast.sure)))
        rows.append((setting, cells))
    return {"titles": [label_and_formatter(figure)[0] for figure in sweep.figures], "rows": rows}


def level_rows(effect: Effect) -> list[dict[str, str]]:
    rows = []
    for level in effect.levels:
        row = {"name": level.name, "mean": format_metric(PRIMARY_METRIC, level.mean)}
        rows.append(row | (comparison_cells(PRIMARY_METRIC, level.paired, level.p_holm) if level.paired else {}))
    return rows


def results_table(
    sweep: Sweep, baseline: Arm | None, found: Mapping[str, Mapping[str, Contrast]], problems: Problems
) -> pd.DataFrame:
    """One row a setting and figure: the mean over seeds, and the difference from the baseline as the page has it."""
    rows = []
    for setting in sweep.compared:
        for figure in (PRIMARY_METRIC, *sweep.figures):
            if not (values := [*setting.values(figure).values()]):
                continue
            row: dict[str, Any] = {factor: replace_surrogates(level) for factor, level in setting.levels.items()}
            row |= {"setting": replace_surrogates(setting.name), "figure": figure, **dict.fromkeys(COLUMNS, nan)}
            row |= {"seeds": len(values), "mean": fmean(values), "sd": stdev(values) if len(values) > 1 else nan}
            if contrast := found.get(figure, {}).get(setting.name):
                paired = contrast.paired
                row |= {"difference": paired.difference, "low": paired.low, "high": paired.high, "p": paired.p}
                row["p_holm"] = contrast.p_holm
            if over := problems.get(setting.name, {}).get(figure):
                row["problems_low"], row["problems_high"] = over
            rows.append(row | {"baseline": bool(found) and setting is baseline})
    return pd.DataFrame(rows, columns=[*sweep.factors, "setting", "figure", *COLUMNS, "baseline"])
