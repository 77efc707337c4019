"""Run experiment=gsm8k on real weights within a time limit, and write the figures and tables for a report.

`python scripts/reference_run.py --model FOLDER --data FOLDER`

Needs `pip install -e .` and no hub. The folder of --model holds a model, or with --gguf FILE a GGUF file; that of
--data holds GSM8K's train.jsonl and test.jsonl. Settings of grpo.train may follow, such as bf16=false.

The stages are runs of grpo.train, with their directories in --out:

  timing            five steps, from which the number of steps that fit is computed
  reference         the recipe, with an evaluation on held-out problems before and after
  correctness_only  as many steps with one reward, if the time that is left is enough

After each run it writes reference_run.json (all figures, curves, three transcripts) and reference_run.md (as tables). A
run that takes longer than expected is stopped by a signal, and resumed for its evaluation.

Rehearsal on a CPU: --device cpu --layers 2 --problems 4 bf16=false num_generations=4 max_completion_length=32
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pandas as pd

from grpo.config.overrides import quote_value
from grpo.core.console import error_message
from grpo.core.files import write_json
from grpo.core.metric_format import format_interval, format_metric, label_and_formatter, ordered_metrics
from grpo.core.metric_names import ACCURACY_STRICT, CLIPPED_RATIO, CORRECT, MEAN_LENGTH, REWARD, STEP_TIME
from grpo.core.process import guard_streams
from grpo.core.text import format_bytes, format_p_value, printable, with_sign
from grpo.runs.checkpoints import newest_complete_checkpoint, step_of
from grpo.runs.run_dir import RunDir, quoted_path
from grpo.runs.saved_run import SavedRun, read_run

TRAIN = [sys.executable, "-m", "grpo.train"]
TIMED_STEPS = 5
MARGIN = 0.9  # the share of the time left that the number of steps is computed for
STOPPED = 128 + signal.SIGTERM  # the exit code of a run that the signal stopped after a step
LIMITS = (200, 256, 320, 512)  # tokens, for the share of completions that are longer
CURVES = (REWARD, CORRECT, MEAN_LENGTH, CLIPPED_RATIO, STEP_TIME)


class Failed(Exception):
    """There are no results; the text says why."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the weights")
    parser.add_argument("--gguf", help="a GGUF file in that folder, or its path")
    parser.add_argument("--data", type=Path, required=True, help="folder with GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--minutes", type=float, default=10, help="for everything; default: 10")
    parser.add_argument("--steps", type=int, default=300, help="the most steps of a run; default: 300")
    parser.add_argument("--problems", type=int, default=256, help="held-out problems; default: 256")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--layers", type=int, help="for a rehearsal: number of layers, with random weights")
    parser.add_argument("--out", type=Path, default=Path("outputs/reference"), help="default: outputs/reference")
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="settings of grpo.train, such as bf16=false")
    return parser.parse_intermixed_args()


def check_options(arguments: argparse.Namespace) -> None:
    """
    Raises:
        Failed: no run is possible with these options.
    """
    for option in ("steps", "problems"):
        if (value := getattr(arguments, option)) < 1:
            raise Failed(f"--{option} {value}: must be at least 1.")
    if not 0 < arguments.minutes < float("inf"):
        raise Failed(f"--minutes {arguments.minutes:g}: must be a number above 0.")
    if not arguments.data.expanduser().is_dir():
        raise Failed(f"--data {arguments.data}: there is no such folder.")
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise Failed(
                "--device cuda: no CUDA device is found; a rehearsal on the CPU takes --device cpu bf16=false."
            )


def settings_of(arguments: argparse.Namespace) -> list[str]:
    """The settings of grpo.train that all runs share."""
    model = [f"model.path={quote_value(arguments.model)}"]
    if arguments.gguf:
        model.append(f"model.gguf={quote_value(arguments.gguf)}")
    if arguments.layers:
        model += ["model.init=random", f"model.num_layers={arguments.layers}"]
    data = [f"data.path={quoted_path(arguments.data)}", f"data.eval_problems={arguments.problems}"]
    run = ["save_steps=null", "tracking=none", f"device={arguments.device}"]
    return ["experiment=gsm8k", *model, *data, *run, *arguments.settings]


def train(folder: Path, settings: list[str], seconds: float | None = None) -> SavedRun:
    """Run grpo.train in `folder`; after `seconds` it is stopped and resumed for its evaluation.

    Raises:
        Failed: there are no results.
    """
    code = call([*settings, f"hydra.run.dir={quoted_path(folder)}"], seconds)
    checkpoint, _ = newest_complete_checkpoint(RunDir(folder).checkpoints)
    if code == STOPPED and checkpoint:
        code = call([f"resume={quoted_path(folder)}", f"max_steps={step_of(checkpoint)}"])
    if code:
        log = RunDir(folder).train_log
        hint = f"; {log} may say why" if log.is_file() else ""
        raise Failed(f"the run in {folder} ended with exit code {code}{hint}.")
    return read_run(folder)


def call(settings: list[str], seconds: float | None = None) -> int:
    """The exit code of grpo.train, which gets a signal after `seconds`."""
    process = subprocess.Popen([*TRAIN, *settings])
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # it finishes its step, saves a checkpoint and ends
        return process.wait()


def summarize(run: SavedRun) -> dict[str, Any]:
    """The figures, curves and transcripts of a finished run."""
    results, folder = run.results, RunDir(run.folder)
    tables = {when: pd.read_parquet(folder.evaluation_table(when)) for when in ("before", "after")}
    step_times = run.history[STEP_TIME].tolist()
    return {
        "overrides": run.overrides,
        "steps": results["steps"],
        "problems": results["problems"],
        "completions_per_step": results["batch"],
        "seconds": results["seconds"],
        "step_seconds": {"median": median(step_times), "quartiles": quartiles(step_times)},
        "peak_memory_bytes": results["peak_memory_bytes"],
        "before": results["before"],
        "after": results["after"],
        "difference": results["difference"],
        "labels": run.accuracy_labels,
        "tokens": {when: describe_lengths(table) for when, table in tables.items()},
        "transcripts": choose_transcripts(tables["before"], tables["after"]),
        "curves": {name: run.history[name].tolist() for name in CURVES},
        "provenance": results["provenance"],
    }


def quartiles(values: list[float]) -> list[float]:
    first, _, third = quantiles(values, n=4) if len(values) > 1 else values * 3
    return [first, third]


def describe_lengths(table: pd.DataFrame) -> dict[str, Any]:
    """The median number of tokens, and the share of completions that each limit up to that of the run truncates."""
    tokens, truncated = table["tokens"], table["truncated"].astype(bool)
    longest = tokens[truncated].max() if truncated.any() else max(LIMITS)
    shares = {limit: float(((tokens > limit) | truncated & (tokens == limit)).mean()) for limit in LIMITS}
    return {
        "median": float(tokens.median()),
        "truncated": {limit: share for limit, share in shares.items() if limit <= longest},
    }


def choose_transcripts(before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, Any]]:
    """The first problem that training made right, the first other right one, and the first wrong one, up to three."""
    pairs = before.merge(after, on="problem", suffixes=("_before", "_after"))
    was_right, is_right = (pairs[f"{ACCURACY_STRICT}_{when}"] > 0 for when in ("before", "after"))
    chosen: list[int] = []
    for kind in (~was_right & is_right, is_right, ~is_right, ~is_right, ~is_right):
        first = [index for index in pairs.index[kind] if index not in chosen][:1]
        chosen = [*chosen, *first][:3]
    return [
        {"question": row["question_before"], "gold": row["gold_before"]}
        | {
            when: {"right": bool(row[f"{ACCURACY_STRICT}_{when}"]), "completion": row[f"completion_{when}"]}
            for when in ("before", "after")
        }
        for _, row in pairs.loc[chosen].iterrows()
    ]


def write(out: Path, report: dict[str, Any]) -> None:
    """Write both files; called after every run, so that an interruption loses only the run in progress."""
    write_json(out / "reference_run.json", report)
    text = f"Time limit: {report['minutes']:g} minutes. {report['timing']} {report.get('not_run', '')}".rstrip()
    for name, run in report["runs"].items():
        text += f"\n\n## {name}\n\n" + "\n\n".join(markdown_parts(run))
    (out / "reference_run.md").write_text(text + "\n", encoding="utf-8")


def markdown_parts(run: dict[str, Any]) -> list[str]:
    """A finished run as paragraphs of Markdown."""
    provenance, low_high = run["provenance"], "{:.2f} to {:.2f} s".format
    hardware = provenance["hardware"]
    machine = ", ".join([*hardware["gpus"], f"{hardware['cpu']}, {hardware['cores']} cores"])
    versions = ", ".join(f"{package} {number}" for package, number in provenance["versions"].items())
    memory = ", ".join(f"{format_bytes(size)} {where}" for where, size in run["peak_memory_bytes"].items())
    steps = run["step_seconds"]
    facts = [
        f"- command: `{provenance['command']}`",
        f"- machine: {machine}; {versions}",
        f"- {run['steps']} steps, {run['problems']['train']:,} training problems, {run['before']['n']} held-out ones",
        f"- seconds per step: median {steps['median']:.2f}, quartiles {low_high(*steps['quartiles'])}",
        f"- seconds: {', '.join(f'{name} {seconds:.1f}' for name, seconds in run['seconds'].items())}",
        f"- peak memory: {memory}",
    ]
    return ["\n".join(facts), figures_table(run), lengths_table(run), curves_table(run), *transcripts(run)]


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def figures_table(run: dict[str, Any]) -> str:
    """The held-out figures before and after, with 95% intervals, and their paired difference."""
    rows = []
    for name in ordered_metrics(run["difference"]):
        label, formatted = label_and_formatter(name, run["labels"])
        change = run["difference"][name]
        cells = [
            f"{format_metric(name, run[when][name])} ({format_interval(name, *run[when]['intervals'][name])})"
            for when in ("before", "after")
        ]
        value, low, high = (with_sign(formatted(change[key])) for key in ("value", "low", "high"))
        rows.append(
            [label, *cells, f"{value} ({low} to {high})", "" if change["p"] is None else format_p_value(change["p"])]
        )
    return table(["greedy, held out", "before", "after", "paired difference", "p (McNemar)"], rows)


def lengths_table(run: dict[str, Any]) -> str:
    """The share of the greedy completions that are longer than each limit."""
    limits = list(run["tokens"]["before"]["truncated"].keys() | run["tokens"]["after"]["truncated"].keys())
    rows = [
        [
            when,
            f"{lengths['median']:.0f}",
            *(
                f"{lengths['truncated'][limit]:.1%}" if limit in lengths["truncated"] else ""
                for limit in sorted(limits)
            ),
        ]
        for when, lengths in run["tokens"].items()
    ]
    return table(["tokens", "median", *(f"truncated at {limit}" for limit in sorted(limits))], rows)


def curves_table(run: dict[str, Any]) -> str:
    """The mean of each curve over the first and the last tenth of the steps."""
    rows = []
    for name, values in run["curves"].items():
        tenth = max(1, len(values) // 10)
        first, last = (sum(part) / tenth for part in (values[:tenth], values[-tenth:]))
        rows.append([f"`{name}`", f"{first:.3f}", f"{last:.3f}"])
    return table(["training", "first tenth", "last tenth"], rows)


def transcripts(run: dict[str, Any]) -> list[str]:
    """Each question with the policy's answers, as code, because they may contain any text."""
    parts = []
    for each in run["transcripts"]:
        parts.append(f"**{printable(each['question'])}** Gold: {printable(each['gold'])}")
        for when in ("before", "after"):
            answer = each[when]
            verdict = "right" if answer["right"] else "wrong"
            lines = printable(answer["completion"]).splitlines()
            parts.append(f"{when}, {verdict}:\n\n" + "\n".join(f"    {line}" for line in lines))
    return parts


def run_all(out: Path, settings: list[str], minutes: float, most_steps: int) -> None:
    """The three runs in `out`, within `minutes`.

    Raises:
        Failed: a run has no results, or no step fits into the time.
    """
    began = time.monotonic()

    def seconds_left() -> float:
        return began + minutes * 60 - time.monotonic()

    timing = train(out / "timing", [*settings, f"max_steps={TIMED_STEPS}"])
    wall = time.monotonic() - began
    step_times = timing.history[STEP_TIME]
    step, fixed = median(step_times[1:]), wall - step_times.sum()  # fixed: the start of a run, its evaluations, its end
    fitting = int((MARGIN * seconds_left() - fixed) / step)
    summary = f"The timing run took {wall:.0f} s, {fixed:.0f} s without its steps, {step:.2f} s per step"
    if fitting < 1:
        raise Failed(f"--minutes {minutes:g}: no step fits. {summary}.")
    steps = min(fitting, most_steps)
    summary += f": {steps} steps per run; {fitting} would fit."
    print(summary, flush=True)
    report: dict[str, Any] = {"minutes": minutes, "timing": summary, "runs": {}}
    for name, rewards in (("reference", []), ("correctness_only", ["rewards=correctness_only"])):
        left, started = seconds_left(), time.monotonic()
        if report["runs"] and wall > left:
            report["not_run"] = f"{name} was not run: it takes about {wall:.0f} s, and {max(left, 0):.0f} s were left."
            break
        run = train(out / name, [*settings, *rewards, f"max_steps={steps}"], left - fixed)
        wall = time.monotonic() - started
        report["runs"][name] = summarize(run)
        write(out, report)
    write(out, report)


def main() -> None:
    guard_streams()
    arguments = parse_arguments()
    try:
        check_options(arguments)
        run_all(arguments.out, settings_of(arguments), arguments.minutes, arguments.steps)
    except Failed as error:
        sys.exit(error_message(f"error: {error}"))
    print(f"All results are in {arguments.out}; reference_run.md there has the tables.")


if __name__ == "__main__":
    main()
