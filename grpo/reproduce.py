"""Run a finished run again with its saved settings, and compare the numbers to the last bit.

python -m grpo.reproduce outputs/DATE/TIME
"""

import argparse
import logging
import shlex
import sys
from pathlib import Path

from grpo.core import distributed
from grpo.core.console import error_message, say
from grpo.core.errors import UserError, first_line
from grpo.core.files import parse_file, parse_json_object
from grpo.core.paths import display_path, path_argument, run_argument
from grpo.core.process import guard_streams, prepare_process
from grpo.core.run_log import LOG_FORMAT, RunLog, open_run_log
from grpo.core.signals import StoppedBySignal
from grpo.runs.reproduction import numeric_differences, reproducible_settings
from grpo.runs.run_dir import RunDir, link_latest, new_run_folder, refuse_used, removed_if_unused, resolve_link
from grpo.runs.settings import read_settings, save_settings
from grpo.runs.trust import refuse_links, require_trust


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m grpo.reproduce",
        description="Run a finished run again with its saved settings, and compare the numbers to the last bit.",
        epilog="Exit code 0: the same to the last bit. 1: not the same. 2: it could not be run again.",
    )
    parser.add_argument("run", type=run_argument, help="the folder of a finished run, outputs/DATE/TIME")
    parser.add_argument("--trust-run", action="store_true", help="run the code of a folder that somebody else made")
    parser.add_argument("--out", type=path_argument, help="the folder of the new run; default: outputs/DATE/TIME")
    return parser.parse_args()


def reproduce(folder: Path, out: Path) -> list[str]:
    """Train the run in `folder` again, in `out`; returns `numeric_differences`.

    Raises:
        UserError: the run cannot be run again, or a file that it needs is missing.
    """
    config, overrides, provenance = reproducible_settings(folder)

    def prepare_directory() -> None:
        save_settings(out, config, overrides)
        open_run_log()
        link_latest(out)

    from grpo.runs.provenance import provenance_changes
    from grpo.training.session import train_run

    train_run(
        config,
        out,
        command=shlex.join(["python", "-m", "grpo.reproduce", str(folder)]),
        prepare_directory=prepare_directory,
    )
    for change in provenance_changes(provenance, parse_file(RunDir(out).provenance_json, parse_json_object)):
        say(f"Changed since that run: {change}")
    return numeric_differences(folder, out)


def run(folder: Path, out: Path, trusted: bool) -> list[str]:
    """Check the folders, then `reproduce` while this process holds the lock of `out`."""
    prepare_process()
    distributed.init_process()
    advice = "If you trust whoever made it, add --trust-run."
    require_trust(folder, read_settings(folder), advice=advice, trusted=trusted)
    refuse_used(out, "--out FOLDER")
    refuse_links(out)
    logging.basicConfig(handlers=[RunLog(str(RunDir(out).train_log))], level=logging.INFO, format=LOG_FORMAT)
    with removed_if_unused(out):
        out.mkdir(parents=True, exist_ok=True)
        with RunDir(out).locked():
            return reproduce(folder, out)


def main() -> None:
    guard_streams()
    options = arguments()
    folder = resolve_link(options.run)
    out = options.out or new_run_folder()
    try:
        differences = run(folder, out, options.trust_run)
    except UserError as error:
        print(error_message(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(error_message(f"error: {error.filename}: {first_line(error)}"), file=sys.stderr)
        sys.exit(2)
    except StoppedBySignal as stopped:
        message = f"Stopped by {stopped.name}; nothing was compared. To start again, give another --out."
        print(error_message(message), file=sys.stderr)
        sys.exit(stopped.exit_code)
    if differences:
        say(f"NOT the same numbers as {display_path(folder)}:")
        for difference in differences:
            say(f"  {difference}")
        sys.exit(1)
    say(f"The same numbers as {display_path(folder)}, to the last bit: metrics, evaluations, weights.")


if __name__ == "__main__":
    main()
