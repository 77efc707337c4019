"""Run a finished run again from its record, and say whether the numbers are the same.

python -m grpo.reproduce outputs/DATE/TIME
"""

import argparse
import logging
import shlex
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from grpo.core import distributed
from grpo.core.console import error_message, say
from grpo.core.errors import UserError, first_line
from grpo.core.files import file_sha256, parse_file, parse_json_object, read_json_lines
from grpo.core.paths import display_path, path_argument, run_argument
from grpo.core.process import check_process, guard_streams
from grpo.core.run_log import RunLog, open_run_log
from grpo.core.signals import StoppedBySignal
from grpo.runs.labels import command_to_resume
from grpo.runs.results import results_of
from grpo.runs.run_dir import RunDir, link_latest, refuse_used, removed_if_unused, resolve_link
from grpo.runs.settings import overrides_of, save_settings, saved_settings, settings_of
from grpo.runs.trust import refuse_links, require_trust

# Of a line of metrics.jsonl, what is a time.
TIMINGS = {"step_time"}


def differences(first: Path, second: Path) -> list[str]:
    """Where the numbers of two finished runs differ, each in a line; none where every one is the same to the last bit.

    Compared are the logged metrics but for times, the held-out figures before and after, and the final weights.

    Raises:
        UserError: one of them is not finished.
    """
    results = [_results(folder) for folder in (first, second)]
    found = _of_metrics(*(_metrics(folder) for folder in (first, second)))
    for when in ("before", "after"):
        left, right = (each[when] for each in results)
        for name in left.keys() | right.keys():
            if left.get(name) != right.get(name) and name != "intervals":
                found.append(f"{when} training, {name}: {left.get(name)} and {right.get(name)}")
    weights = [
        {path.name: file_sha256(path) for path in (folder / "policy").glob("*.safetensors")}
        for folder in (first, second)
    ]
    for folder, of in zip((first, second), weights, strict=True):
        if not of:
            raise UserError(f"{folder}/policy holds no weights; {command_to_resume(folder)} writes them again.")
    return found + ["the final weights"] * (weights[0] != weights[1])


def _metrics(folder: Path) -> list[dict[str, Any]]:
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder}/metrics.jsonl is missing.")
    return read_json_lines(folder / "metrics.jsonl", {"step"})


def _results(folder: Path) -> dict[str, Any]:
    if (results := results_of(folder)) is None:
        raise UserError(f"{folder} holds a run that was not finished; {command_to_resume(folder)} resumes it.")
    _metrics(folder)
    return results


def _of_metrics(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[str]:
    for left, right in zip(first, second, strict=False):
        if left.get("step") != right.get("step"):
            return [f"metrics.jsonl: a line of step {left.get('step')} stands against one of step {right.get('step')}"]
        names = [name for name in left | right if name not in TIMINGS and left.get(name, "") != right.get(name, "")]
        if names:
            name, more = names[0], f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            return [
                f"step {left['step']}, {name}: {left.get(name)} and {right.get(name)}{more}; the first that differs"
            ]
    if len(first) != len(second):
        return [f"metrics.jsonl: {len(first)} lines and {len(second)}"]
    return []


def reproduce(folder: Path, out: Path) -> list[str]:
    """Run what `folder` records again, in `out`; gives the `differences`.

    Raises:
        UserError: there is nothing to run again, or something that it was made from is missing.
    """
    overrides = overrides_of(folder)
    config = settings_of(folder)
    found = _results(folder)
    origin = found.get("provenance") or {}
    if "resumed" not in origin:
        raise UserError(f"{folder}/results.json was written by another version of this project.")
    processes = found["batch"].get("world_size")
    if not isinstance(processes, int):
        raise UserError(f"{folder}/results.json is damaged: batch.world_size is {str(processes)[:50]!r}.")
    if processes > 1:
        # Not the command on record: whoever made the folder could have put any program there.
        again = f"{distributed.launch_command(processes)} {shlex.join([*overrides, 'hydra.run.dir=FOLDER'])}"
        raise UserError(
            f"{folder} was trained by {processes} processes, and this command is one. Run it again with {again}"
        )
    extended = any(not key.startswith("tracking.") for each in origin["resumed"] for key in each["settings"])
    if extended and config.optimizer.schedule != "constant":
        raise UserError(f"{folder} was given more steps on its way: no single run has its learning rates.")
    config = replace(config, tracking=replace(config.tracking, name="none"))

    def begin() -> None:
        save_settings(out, config, [*overrides, "tracking=none"])
        open_run_log()
        link_latest(out)

    from grpo.runs.provenance import NAME, changes  # it needs torch
    from grpo.training.session import train_run

    train_run(config, out, command=shlex.join(["python", "-m", "grpo.reproduce", str(folder)]), begin=begin)
    now = parse_file(out / NAME, parse_json_object)
    for change in changes(origin, now):
        say(f"Not as it was then: {change}")
    return differences(folder, out)


def main() -> None:
    guard_streams()
    parser = argparse.ArgumentParser(
        prog="python -m grpo.reproduce",
        description="Run a finished run again from its record, and say whether the numbers are the same.",
        epilog="Exit code 0: the same to the last bit. 1: not the same. 2: it could not be run again.",
    )
    parser.add_argument("run", type=run_argument, help="the folder of a finished run, outputs/DATE/TIME")
    parser.add_argument("--trust-run", action="store_true", help="run the code of a folder that somebody else made")
    parser.add_argument("--out", type=path_argument, help="where to run it again; else outputs/DATE/TIME of now")
    arguments = parser.parse_args()
    arguments.run = resolve_link(arguments.run)
    out = arguments.out or Path(datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S"))
    try:
        check_process()
        distributed.init_process()
        again = "If you trust whoever made it, add --trust-run."
        require_trust(arguments.run, saved_settings(arguments.run), again=again, trusted=arguments.trust_run)
        refuse_used(out, "--out FOLDER")
        refuse_links(out)
        line = "[%(asctime)s][%(levelname)s] %(message)s"
        logging.basicConfig(handlers=[RunLog(str(out / "train.log"))], level=logging.INFO, format=line)
        with removed_if_unused(out):
            out.mkdir(parents=True, exist_ok=True)
            with RunDir(out).locked():
                found = reproduce(arguments.run, out)
    except UserError as error:
        print(error_message(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(error_message(f"error: {error.filename}: {first_line(error)}"), file=sys.stderr)
        sys.exit(2)
    except StoppedBySignal as stopped:
        again = f"Stopped by {stopped.name}; nothing was compared. To start again, give another --out."
        print(error_message(again), file=sys.stderr)
        sys.exit(stopped.exit_code)
    if found:
        say(f"NOT the same numbers as {display_path(arguments.run)}:")
        for each in found:
            say(f"  {each}")
        sys.exit(1)
    say(f"The same numbers as {display_path(arguments.run)}, to the last bit: metrics, evaluations, weights.")


if __name__ == "__main__":
    main()
