"""Write the page of a run or of a sweep; say how many seeds a difference needs.

python -m grpo.report outputs/DATE/TIME
python -m grpo.report outputs/DATE/TIME --figures
python -m grpo.report outputs/sweeps/DATE/TIME --baseline num_generations=4
python -m grpo.report --power

grpo/reports/run_report.py writes the page of a run, sweep_report.py that of a sweep; power.py counts seeds.
"""

import argparse
import sys
from pathlib import Path

from grpo.core.console import error_message, say
from grpo.core.errors import UserError
from grpo.core.paths import display_path, path_argument, run_argument
from grpo.core.process import guard_streams, prepare_process
from grpo.core.progress import spinner
from grpo.reports.baseline import choose_baseline
from grpo.reports.power import power_table
from grpo.reports.run_report import write_run_report
from grpo.reports.sweep_findings import verdict
from grpo.reports.sweep_folders import holds_runs, refuse_foreign
from grpo.reports.sweep_report import write_sweep_report
from grpo.reports.sweep_results import read_sweep
from grpo.reports.sweep_tables import sweep_table
from grpo.runs.run_dir import RunDir, refuse_used, resolve_link
from grpo.runs.saved_run import read_run


def main() -> None:
    guard_streams()
    arguments = parse_arguments()
    try:
        prepare_process()
        if arguments.power:
            say(power_table(arguments.folder, arguments.baseline))
            return
        folder: Path = resolve_link(arguments.folder)
        out: Path = arguments.out or folder
        figures = out / "figures" if arguments.figures else None
        if out.resolve() != folder.resolve():
            refuse_used(out, "--out FOLDER")
        if RunDir(folder).has_settings():
            page = report_run(folder, arguments.baseline, figures, out)
        elif holds_runs(folder):
            if arguments.out is None:
                refuse_foreign(folder)
            page = report_sweep(folder, arguments.baseline, figures, out)
        else:
            raise UserError(
                f"{folder} is not the folder of a run or a sweep, and contains none; give outputs/DATE/TIME of a run, "
                "outputs/sweeps/DATE/TIME of a sweep."
            )
        say(f"Report: {display_path(page)}")
        if figures:
            say(f"{len([*figures.glob('*.png')])} figures: {display_path(figures)}")
    except UserError as error:
        sys.exit(error_message(f"error: {error}"))
    except OSError as error:
        sys.exit(error_message(f"error: {error.filename} cannot be written: {error.strerror}."))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m grpo.report",
        description="Write report.html into the folder of a run or of a sweep: one page that needs no network and no "
        "JavaScript. For a sweep, also write sweep.csv.",
        epilog="A run that is still training is reported up to its latest step. A folder of runs (outputs, "
        "outputs/DATE) is reported as a sweep; one that also contains other files needs --out.",
    )
    parser.add_argument(
        "folder", nargs="?", type=run_argument, help="outputs/DATE/TIME of a run, outputs/sweeps/DATE/TIME of a sweep"
    )
    parser.add_argument("--baseline", help="for a sweep: the arm that the others are compared with; default: the first")
    parser.add_argument("--out", type=path_argument, help="the folder to write to; default: FOLDER")
    parser.add_argument("--figures", action="store_true", help="also write the figures as PNG, into figures/ there")
    parser.add_argument(
        "--power",
        action="store_true",
        help="print how many seeds a difference needs, with the spreads of a sweep or without FOLDER measured ones",
    )
    arguments = parser.parse_args()
    if not (arguments.folder or arguments.power):
        parser.error("the following arguments are required: folder")
    if arguments.power and (arguments.out or arguments.figures or (arguments.baseline and not arguments.folder)):
        parser.error("--power writes no files, and without FOLDER it has no arms; give at most FOLDER and --baseline")
    return arguments


def report_run(folder: Path, baseline: str | None, figures: Path | None, out: Path) -> Path:
    """Write the page of a run; returns its path.

    Raises:
        UserError: a file of the run is damaged, or there is a baseline, which only sweeps have.
    """
    if baseline is not None:
        read_run(folder)
        raise UserError(f"--baseline {baseline!r}: {folder} is a run; only a sweep has a baseline.")
    with spinner("drawing the report"):
        return write_run_report(folder, figures, out)


def report_sweep(folder: Path, baseline: str | None, figures: Path | None, out: Path) -> Path:
    """Write the page and the table of a sweep, and print its arms and the verdict; returns the path of the page."""
    with spinner("reading the runs"):
        sweep = read_sweep(folder)
    with spinner("drawing the report"):
        page = write_sweep_report(sweep, baseline, figures, out)
    arm = choose_baseline(sweep, baseline) if baseline is not None else None
    say(sweep_table(sweep, arm))
    say(verdict(sweep, arm))
    return page


if __name__ == "__main__":
    main()
