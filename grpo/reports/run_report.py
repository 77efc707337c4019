"""The page of a run: metrics before and after training, the attribution of the advantages, example answers.

Called by `grpo.report` and at the end of a run. It formats the saved results of a run and computes no metric.
"""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo.config.batch import BatchSplit
from grpo.config.composition import compose
from grpo.config.keys import flatten
from grpo.config.weights import format_weight, format_weights
from grpo.core.metric_format import format_interval, format_metric, label_and_formatter, ordered_metrics
from grpo.core.metric_names import (
    CORRECT,
    GROUPS_DISCARDED,
    GROUPS_DRAWN,
    PHANTOM,
    PHANTOM_ALL_CORRECT,
    PHANTOM_NONE_CORRECT,
    PROMPTS_CONSUMED,
    abstained,
    advantage_flips,
    advantage_share,
    reward_mean,
    reward_zero_std,
)
from grpo.core.paths import display_path
from grpo.core.text import format_bytes, format_setting, plural, with_sign
from grpo.reports.example_answers import example_questions
from grpo.reports.figures import save_png, smoothing_window
from grpo.reports.headline import changes_sentences, is_significant_change
from grpo.reports.page import relative_link, write_page
from grpo.reports.run_figures import RunCharts, reward_colours, run_charts
from grpo.reports.titles import run_title
from grpo.runs.run_dir import RunDir, SweepDir
from grpo.runs.saved_run import SavedRun, read_run

PHASE_TITLES = {
    "start": "start: libraries, policy, data",
    "evaluate_before": "evaluation before",
    "train": "training",
    "ask_meanwhile": "answers and evaluations between steps",
    "evaluate_after": "evaluation after",
}


def write_run_report(folder: Path, figures: Path | None = None, out: Path | None = None) -> Path:
    """Write `report.html` into the folder of a run, or into `out`.

    Args:
        figures: a folder to write the figures to as PNG.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder is not a run, or a file in it is damaged.
    """
    run, drawn = read_run(folder), RunCharts([], [])
    if not run.history.empty:
        drawn = run_charts(run.history, run.validations, run.weights, run.settings["max_completion_length"])
    if figures is not None:
        save_png(drawn.charts, figures)
    (out or folder).mkdir(parents=True, exist_ok=True)
    sweep_page = next(filter(Path.is_file, map(_sweep_page, folder.resolve().parents[:2])), None)
    return _write_page(run, RunDir(out or folder).report_html, drawn, flatten(asdict(compose())), sweep_page)


def _sweep_page(folder: Path) -> Path:
    """The page of the sweep in a folder; a file that does not exist if there is none."""
    sweep = SweepDir(folder)
    return sweep.report_html if sweep.sweep_json.is_file() else sweep.sweep_json


def write_job_page(run: SavedRun, defaults: dict[str, Any], sweep_page: Path) -> Path:
    """Write `report.html` of a sweep's job into its folder, without charts, which take most of the time and space.

    Args:
        defaults: the settings of `python -m grpo.train` by their full keys.
        sweep_page: the page of the sweep, to which this one has a link.
    """
    return _write_page(run, RunDir(run.folder).report_html, RunCharts([], []), defaults, sweep_page.resolve())


def _write_page(run: SavedRun, path: Path, drawn: RunCharts, defaults: dict[str, Any], sweep_page: Path | None) -> Path:
    return write_page(
        path,
        "report.html",
        kind="report",
        title=run_title(run),
        job=run.folder.resolve().relative_to(sweep_page.parent).as_posix() if sweep_page else "",
        sweep_link=relative_link(sweep_page, path.resolve().parent) if sweep_page else "",
        run=run,
        headline=headline(run),
        attribution=attribution_rows(run),
        phantom=phantom_sentence(run),
        resampling=resampling_sentence(run),
        abstentions=abstentions(run),
        changes=change_rows(run),
        questions=example_questions(run),
        tags=run.answer_format.tags,
        charts=drawn.charts,
        zero=drawn.zero,
        window=smoothing_window(len(run.history)),
        logged_steps=f"{len(run.history):,} logged {plural(len(run.history), 'step')}",
        settings=changed_settings(run.settings, defaults),
        facts=run_facts(run),
        phases=phase_rows(run.results.get("seconds", {})),
        command=shlex.join(["python", "-m", "grpo.train", *run.overrides]),
    )


def headline(run: SavedRun) -> list[str]:
    """Both accuracies before and after training, and their changes; of an unfinished run how far it is."""
    if not run.results:
        last_step = int(run.history.index[-1]) if len(run.history) else 0
        steps = f"{last_step:,} {plural(last_step, 'step')}"
        return [f"Not finished: {steps} logged, and no evaluation after training yet."]
    return changes_sentences(run.results, run.accuracy_labels)


def attribution_rows(run: SavedRun) -> list[dict[str, Any]]:
    """The share of each reward in the advantages, a mean over the logged steps; the largest share first."""
    history, hues, rows = run.history, reward_colours(list(run.weights)), []
    tenth = max(1, len(history) // 10)
    for name, weight in run.weights.items():
        score, share = history.get(reward_mean(name)), history.get(advantage_share(name))
        flips = history.get(advantage_flips(name))
        if score is None:
            continue
        rows.append(
            {
                "name": name,
                "colour": hues[name],
                "weight": format_weight(weight),
                "share": None if share is None or share.isna().all() else float(share.mean()),
                "flips": None if flips is None else float(flips.mean()),
                "groups_with_difference": 1 - float(history[reward_zero_std(name)].mean()),
                "first": f"{score[:tenth].mean():z.2f}",
                "last": f"{score[-tenth:].mean():z.2f}",
            }
        )
    return sorted(rows, key=lambda row: -(row["share"] or 0))


def phantom_sentence(run: SavedRun) -> str:
    """How much of the advantages lies in groups without a difference in right answers; empty if nothing was logged."""
    if PHANTOM not in run.history or run.history[PHANTOM].isna().all():
        return ""
    none_correct, all_correct = (run.history[key].mean() for key in (PHANTOM_NONE_CORRECT, PHANTOM_ALL_CORRECT))
    return (
        f"{none_correct:.1%} of the squared advantages are in groups whose answers are all wrong, {all_correct:.1%} in "
        "groups whose answers are all right: right answers make no difference there."
    )


def resampling_sentence(run: SavedRun) -> str:
    """How many groups were selected out of how many; empty without algorithm.resample."""
    if GROUPS_DRAWN not in run.history:
        return ""
    drawn, discarded, correct = (run.history[key] for key in (GROUPS_DRAWN, GROUPS_DISCARDED, CORRECT))
    return (
        f"Groups are selected (algorithm.resample): {run.history[PROMPTS_CONSUMED].max():,.0f} were sampled, and "
        f"{discarded.sum() / drawn.sum():.0%} of them replaced. Shares, scores and the figures describe the others. Of "
        f"all completions sampled, {(correct * drawn).sum() / drawn.sum():.1%} were right."
    )


def abstentions(run: SavedRun) -> str:
    """The share of the completions for which each reward abstained, `style 25.0%`; empty if none did."""
    shares = {name: run.history[key] for name in run.weights if (key := abstained(name)) in run.history}
    # The metric is absent until a reward abstains for the first time.
    return ", ".join(f"{name} {share.fillna(0).mean():.1%}" for name, share in shares.items())


def change_rows(run: SavedRun) -> list[dict[str, Any]]:
    """The rows of the table of metrics before and after training."""
    if not (results := run.results):
        return []
    rows = []
    at_k = [name for name in results["difference"] if name.startswith("pass@")]
    for name in (*ordered_metrics(results["difference"]), *at_k):
        difference = results["difference"][name]
        title, formatter = label_and_formatter(name, run.accuracy_labels)
        cells = [
            (format_metric(name, results[when][name]), results[when]["intervals"][name]) for when in ("before", "after")
        ]
        rows.append(
            {
                "title": title,
                "first": cells[0][0],
                "first_interval": format_interval(name, *cells[0][1]),
                "last": cells[1][0],
                "last_interval": format_interval(name, *cells[1][1]),
                "change": with_sign(formatter(difference["value"])),
                "change_interval": format_interval(name, difference["low"], difference["high"]),
                "significant": is_significant_change(difference),
            }
        )
    return rows


def changed_settings(settings: dict[str, Any], defaults: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(key, default, here) of every setting that differs from the defaults of `python -m grpo.train`."""
    here = flatten(settings)
    keys = [*here, *(key for key in defaults if key not in here)]
    return [
        (key, format_setting(defaults.get(key)), format_setting(here.get(key)))
        for key in keys
        if key != "experiment" and defaults.get(key) != here.get(key)
    ]


def run_facts(run: SavedRun) -> dict[str, str]:
    """The list of facts at the end of the page; shorter if the run has not finished."""
    settings, results = run.settings, run.results
    facts = {
        "folder": display_path(run.folder),
        "policy": settings["model"]["path"],
        "data": settings["data"]["name"],
        "rewards": format_weights(run.weights) + "; a placebo" * settings.get("placebo", False),
    }
    if not results:
        return facts
    problems, memory = results["problems"], results.get("peak_memory_bytes", {})
    return facts | {
        "problems": f"{problems['train']:,} to train on, {problems['held_out']:,} held out",
        "batch": str(BatchSplit(**results["batch"])),
        "machine": f"{results['device']}, {results['threads']} {plural(results['threads'], 'thread')}",
        "peak memory": ", ".join(f"{format_bytes(size)} {where}" for where, size in memory.items()) or "not recorded",
        "seed": str(results["seed"]),
        "code": code_revision(results.get("provenance", {}).get("code")),
        "versions": ", ".join(f"{package} {number}" for package, number in results["versions"].items()),
    }


def code_revision(revision: dict[str, Any] | None) -> str:
    if revision is None:
        return "not in a git checkout"
    return f"revision {revision['revision'][:10]}" + ("" if revision["clean"] else ", with the changes in git.diff")


def phase_rows(seconds: dict[str, float]) -> list[tuple[str, float, float]]:
    """(phase, seconds, share of the total) of each phase that took at least 5 ms."""
    total = sum(seconds.values()) or 1
    return [(PHASE_TITLES.get(name, name), value, value / total) for name, value in seconds.items() if value >= 0.005]
