"""A page about a run: what changed, what moved it, what the policy said.

python -m grpo.report outputs/DATE/TIME
python -m grpo.report outputs/DATE/TIME --figures
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from grpo.batching import Batch
from grpo.config import compose, flat
from grpo.console import TAG, interval, listed, printable, say, shortest, shown, take_any_text, with_unit
from grpo.errors import UserError, first_line
from grpo.figures import COLOURS, Chart, charts, colours, window
from grpo.files import written_aside

PHASES = {
    "start": "start: libraries, policy, data",
    "evaluate_before": "evaluation before",
    "train": "training",
    "ask_meanwhile": "questions and evaluations meanwhile",
    "evaluate_after": "evaluation after",
}
# What `results.json` must hold to be reported.
RESULTS = {
    "before",
    "after",
    "difference",
    "steps",
    "examples",
    "problems",
    "batch",
    "device",
    "threads",
    "seed",
    "versions",
    "seconds",
}


@dataclass(frozen=True)
class Record:
    """What a run has written down; `results` is empty where it did not end."""

    folder: Path
    settings: dict[str, Any]
    overrides: list[str]
    results: dict[str, Any]
    history: pd.DataFrame  # the logged steps with a rollout, by step
    evaluations: pd.DataFrame  # those made while training, by step
    alarms: list[dict[str, Any]]
    transcripts: list[dict[str, Any]]  # step, question, gold, completion

    @property
    def weights(self) -> dict[str, float]:
        return self.settings["rewards"]


def read(folder: Path) -> Record:
    """The record of a run, finished or not.

    Raises:
        UserError: the folder is not that of a run, or a file in it is damaged.
    """
    if (folder / "multirun.yaml").is_file():
        jobs = sorted(path.parent.parent for path in folder.glob("*/.hydra/config.yaml"))
        example = f" Name one of its {len(jobs)} runs, {shortest(jobs[0])}." if jobs else ""
        raise UserError(f"{folder} is the folder of a sweep, and a report is about a run.{example}")
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise UserError(
            f"{folder} is not the folder of a run; give the one that a run named at its end, outputs/DATE/TIME."
        )
    settings = _parsed(folder / ".hydra" / "config.yaml", yaml.safe_load)
    if not isinstance(settings, dict) or not isinstance(settings.get("rewards"), dict):
        raise UserError(f"{folder} is not the folder of a training run: its settings name no rewards.")
    if not settings.keys() >= {"prompts_per_step", "max_completion_length", "model", "data"}:
        raise UserError(f"{folder} is not the folder of a training run, which is all that a report is about.")
    results = _parsed(folder / "results.json", json.loads)
    if results is not None and not (isinstance(results, dict) and results.keys() >= RESULTS):
        raise UserError(f"{folder / 'results.json'} is damaged, or was written by another version of this project.")
    lines = _lines(folder / "metrics.jsonl", {"step"})
    metrics = pd.DataFrame([line for line in lines if "alarm" not in line], columns=None if lines else ["step"])
    try:
        metrics = metrics.set_index("step").astype(float)
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / 'metrics.jsonl'} is damaged: {first_line(error)}.") from error
    return Record(
        folder,
        settings,
        _parsed(folder / ".hydra" / "overrides.yaml", yaml.safe_load) or [],
        results or {},
        metrics[metrics["reward"].notna()] if "reward" in metrics else metrics[:0],
        metrics[metrics["eval/accuracy_strict"].notna()] if "eval/accuracy_strict" in metrics else metrics[:0],
        [line for line in lines if "alarm" in line],
        _lines(folder / "transcripts.jsonl", {"step", "question", "gold", "completion"}),
    )


def _parsed(path: Path, parse: Any) -> Any:
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged: {first_line(error)}.") from error


def _lines(path: Path, needed: set[str]) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file, each with the `needed` keys; the last one may still be being written."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            found.append(json.loads(line))
            if not isinstance(found[-1], dict) or not found[-1].keys() >= needed:
                raise ValueError(f"it does not hold {', '.join(sorted(needed))}")
        except ValueError as error:
            raise UserError(f"{path} is damaged in line {number}: {first_line(error)}.") from error
    return found


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a run.

    Raises:
        UserError: as `read` does.
    """
    record = read(folder)
    return _write(record, _charts(record))


def _charts(record: Record) -> list[Chart]:
    if record.history.empty:
        return []
    return charts(record.history, record.evaluations, record.weights, record.settings["max_completion_length"])


def _write(record: Record, drawn: list[Chart]) -> Path:
    environment = Environment(
        loader=PackageLoader("grpo", "assets"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"tinted": tinted, "plain": printable}
    page = environment.get_template("report.html").render(
        name=record.folder.resolve().name,
        record=record,
        headline=headline(record),
        moved=moved(record),
        changes=changes(record),
        asked=asked(record),
        charts=[(chart, Markup(chart.svg())) for chart in drawn],  # made here: names in it are escaped by matplotlib
        colours=COLOURS,
        window=window(len(record.history)),
        logged=f"{len(record.history):,} logged {plural(len(record.history), 'step')}",
        settings=settings_that_differ(record.settings),
        facts=facts(record),
        phases=phases(record.results.get("seconds", {})),
        command=shlex.join(["python", "-m", "grpo.train", *record.overrides]),
    )
    path = record.folder / "report.html"
    with written_aside(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def headline(record: Record) -> str:
    """What changed, in a sentence: as sure as the figures are."""
    results = record.results
    if not results:
        done = int(record.history.index[-1]) if len(record.history) else 0
        return f"Not finished: {done:,} {plural(done, 'step')} on record, and no evaluation after training yet."
    before, after = results["before"], results["after"]
    difference = results["difference"]["accuracy_strict"]
    first, last = (with_unit("accuracy_strict", each["accuracy_strict"]) for each in (before, after))
    steps = f"{results['steps']:,} {plural(results['steps'], 'step')}"
    what = f"right answers on {after['n']:,} held-out {plural(after['n'], 'problem')}"
    if not difference["value"]:
        around = interval("accuracy_strict", *after["intervals"]["accuracy_strict"])
        return f"In {steps}, {what} stayed at {last} (95% interval {around})."
    points = f"{difference['value'] * 100:+z.1f} points, 95% interval {_points(difference)}"
    if beyond_chance(difference):
        verb = "rose" if difference["value"] > 0 else "fell"
        return f"In {steps}, {what} {verb} from {first} to {last} ({points})."
    return f"In {steps}, {what} went from {first} to {last}: no more than chance makes ({points})."


def beyond_chance(difference: dict[str, Any]) -> bool:
    """By the exact test where there is one, else by the interval."""
    if difference["p"] is not None:
        return bool(difference["p"] < 0.05)
    return not difference["low"] <= 0 <= difference["high"]


def _points(difference: dict[str, Any]) -> str:
    return f"{difference['low'] * 100:+z.1f} to {difference['high'] * 100:+z.1f}"


def plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def moved(record: Record) -> list[dict[str, Any]]:
    """For each reward what it made of the advantages, on average over the logged steps, the largest share first."""
    history, hues, rows = record.history, colours(list(record.weights)), []
    tenth = max(1, len(history) // 10)
    for name, weight in record.weights.items():
        score, share = history.get(f"rewards/{name}/mean"), history.get(f"advantage_share/{name}")
        if score is None:
            continue
        rows.append(
            {
                "name": name,
                "colour": hues[name],
                "weight": f"{weight:g}",
                "share": None if share is None or share.isna().all() else float(share.mean()),
                "flips": float(history[f"advantage_flips/{name}"].mean()),
                "told_apart": 1 - float(history[f"groups/zero_std/{name}"].mean()),
                "first": f"{score[:tenth].mean():z.2f}",
                "last": f"{score[-tenth:].mean():z.2f}",
            }
        )
    return sorted(rows, key=lambda row: -(row["share"] or 0))


def changes(record: Record) -> list[dict[str, Any]]:
    """The rows of the table before and after."""
    if not (results := record.results):
        return []
    rows = []
    for name in listed(results["difference"]):
        difference = results["difference"][name]
        number = shown(name)[1]
        cells = [
            (with_unit(name, results[when][name]), results[when]["intervals"][name]) for when in ("before", "after")
        ]
        rows.append(
            {
                "title": shown(name)[0],
                "first": cells[0][0],
                "first_interval": interval(name, *cells[0][1]),
                "last": cells[1][0],
                "last_interval": interval(name, *cells[1][1]),
                "change": signed(number(difference["value"])),
                "change_interval": interval(name, difference["low"], difference["high"]),
                "sure": beyond_chance(difference),
            }
        )
    return rows


def signed(number: str) -> str:
    return number if number.startswith("-") else f"+{number}"


def asked(record: Record) -> list[dict[str, Any]]:
    """Each question with what the policy said to it, by step."""
    questions: dict[str, dict[str, Any]] = {}
    for line in record.transcripts:
        each = questions.setdefault(line["question"], {"gold": line["gold"], "said": {}})
        each["said"][line["step"]] = line["completion"]
    return [{"question": question, **each} for question, each in questions.items()]


def settings_that_differ(settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(key, default, here) of every setting that `python -m grpo.train` alone would give another value."""
    defaults, here = flat(asdict(compose())), flat(settings)
    keys = [*here, *(key for key in defaults if key not in here)]
    return [
        (key, written(defaults.get(key)), written(here.get(key)))
        for key in keys
        if key != "experiment" and defaults.get(key) != here.get(key)
    ]


def written(value: Any) -> str:
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def facts(record: Record) -> dict[str, str]:
    settings, results = record.settings, record.results
    found = {
        "policy": settings["model"]["path"],
        "data": settings["data"]["name"],
        "rewards": ", ".join(f"{name} {weight:g}" for name, weight in record.weights.items()),
    }
    if not results:
        return found
    problems = results["problems"]
    return found | {
        "problems": f"{problems['train']:,} to train on, {problems['held_out']:,} held out",
        "batch": str(Batch(**results["batch"])),
        "machine": f"{results['device']}, {results['threads']} {plural(results['threads'], 'thread')}",
        "seed": str(results["seed"]),
        "code": code(results.get("provenance", {}).get("code")),
        "versions": ", ".join(f"{package} {number}" for package, number in results["versions"].items()),
    }


def code(revision: dict[str, Any] | None) -> str:
    if revision is None:
        return "not in a git checkout"
    return f"revision {revision['revision'][:10]}" + ("" if revision["clean"] else ", with the changes in git.diff")


def phases(seconds: dict[str, float]) -> list[tuple[str, float, float]]:
    """(phase, seconds, share of all)."""
    whole = sum(seconds.values()) or 1
    return [(PHASES.get(name, name), value, value / whole) for name, value in seconds.items() if value >= 0.005]


def tinted(completion: str) -> Markup:
    """A completion with its tags marked."""
    text = printable(completion).strip("\n")
    parts, end = [], 0
    for tag in TAG.finditer(text):
        parts += [escape(text[end : tag.start()]), Markup("<b>{}</b>").format(tag[0])]
        end = tag.end()
    return Markup("").join([*parts, escape(text[end:])])


def main() -> None:
    take_any_text()
    parser = argparse.ArgumentParser(
        prog="python -m grpo.report",
        description="Write report.html into the folder of a run: one page that needs no network and no JavaScript.",
        epilog="A run that is still training is reported as far as it has come.",
    )
    parser.add_argument("run", type=Path, help="the folder of a run, outputs/DATE/TIME")
    parser.add_argument("--figures", action="store_true", help="also write its figures as PNG, into RUN/figures/")
    arguments = parser.parse_args()
    try:
        record = read(arguments.run)
        drawn = _charts(record)
        say(f"Report: {shortest(_write(record, drawn))}")
        if arguments.figures:
            folder = arguments.run / "figures"
            folder.mkdir(exist_ok=True)
            for chart in drawn:
                chart.save(folder)
            say(f"{len(drawn)} figures: {shortest(folder)}")
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename} cannot be written: {error.strerror}.")


if __name__ == "__main__":
    main()
