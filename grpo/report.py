"""A page about a run: what changed, what moved it, what the policy said. Of a sweep: grpo/reports/sweep_report.py.

python -m grpo.report outputs/DATE/TIME
python -m grpo.report outputs/DATE/TIME --figures
python -m grpo.report outputs/sweeps/DATE/TIME --baseline num_generations=4
"""

import argparse
import sys
from pathlib import Path

from grpo.core.console import error_message, say
from grpo.core.errors import UserError
from grpo.core.paths import display_path, path_argument, run_argument
from grpo.core.process import check_process, guard_streams
from grpo.core.progress import spinner
from grpo.reports.run_report import write_run_report
from grpo.reports.sweep_findings import verdict
from grpo.reports.sweep_folders import first_foreign_folder, holds_runs
from grpo.reports.sweep_report import write_sweep_report
from grpo.reports.sweep_results import choose_baseline, read_sweep
from grpo.reports.sweep_tables import sweep_table
from grpo.runs.run_dir import RunDir, refuse_used, resolve_link
from grpo.runs.saved_run import read_run


def main() -> None:
    guard_streams()
    parser = argparse.ArgumentParser(
        prog="python -m grpo.report",
        description="Write report.html into the folder of a run or of a sweep: one page that needs no network and no "
        "JavaScript; of a sweep sweep.csv, too.",
        epilog="A run that is still training is reported up to its latest step. A folder of runs (outputs, "
        "outputs/DATE) is reported as a sweep; one that also holds other things needs --out.",
    )
    parser.add_argument(
        "folder", type=run_argument, help="outputs/DATE/TIME of a run, outputs/sweeps/DATE/TIME of a sweep"
    )
    parser.add_argument("--baseline", help="of a sweep: the setting that the others are compared with, else the first")
    parser.add_argument("--out", type=path_argument, help="the folder to write to; default: FOLDER")
    parser.add_argument("--figures", action="store_true", help="also write its figures as PNG, into figures/ there")
    arguments = parser.parse_args()
    folder: Path = resolve_link(arguments.folder)
    out: Path = arguments.out or folder
    pictures = out / "figures" if arguments.figures else None
    try:
        check_process()
        if out.resolve() != folder.resolve():
            refuse_used(out, "--out FOLDER")
        if not RunDir(folder).is_run() and holds_runs(folder):
            if arguments.out is None and (other := first_foreign_folder(folder)):
                raise UserError(
                    f"{folder} holds other things than runs, such as {other.name}, so nothing is written there. "
                    "Name a folder for report.html and sweep.csv: --out FOLDER"
                )
            with spinner("reading the runs"):
                sweep = read_sweep(folder)
            with spinner("drawing the report"):
                page = write_sweep_report(sweep, arguments.baseline, pictures, out)
            baseline = choose_baseline(sweep, arguments.baseline) if arguments.baseline is not None else None
            say(sweep_table(sweep, baseline))
            say(verdict(sweep, baseline))
        elif not RunDir(folder).is_run():
            raise UserError(
                f"{folder} is not the folder of a run or a sweep, and holds none; give outputs/DATE/TIME of a run, "
                "outputs/sweeps/DATE/TIME of a sweep."
            )
        elif arguments.baseline is not None:
            read_run(folder)
            raise UserError(f"--baseline {arguments.baseline!r}: {folder} is a run; it is a sweep that has a baseline.")
        else:
            with spinner("drawing the report"):
                page = write_run_report(folder, pictures, out)
        say(f"Report: {display_path(page)}")
        if pictures:
            say(f"{len([*pictures.glob('*.png')])} figures: {display_path(pictures)}")
    except UserError as error:
        sys.exit(error_message(f"error: {error}"))
    except OSError as error:
        sys.exit(error_message(f"error: {error.filename} cannot be written: {error.strerror}."))


if __name__ == "__main__":
    main()
