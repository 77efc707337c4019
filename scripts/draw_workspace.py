"""Draw the panels of the W&B view from an offline run: `python scripts/draw_workspace.py outputs/latest --out FILE.png`

The panels are those that scripts/wandb_workspace.py lays out, with the data that W&B stored in the run's directory.
It needs no account and is no picture of W&B's page. Drawn are the sections above the table of completions, without the
panels that have no data in this run.
"""

import argparse
import json
import re
import subprocess
import sys
import textwrap
from itertools import takewhile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from grpo.core.errors import UserError
from grpo.reports.figures import COLOURS, HUES, STYLE
from scripts.wandb_workspace import sections

COLUMNS = 4
WIDTH = 12.0  # inches of the picture
HEIGHT, HEAD = 2.4, 0.4  # inches of a row of panels, and of the head of a section
History = list[dict[str, float]]


def read_offline_run(run: Path) -> tuple[History, dict[str, float]]:
    """The rows and the summary that W&B stored below a run directory.

    Raises:
        UserError: the run was not tracked offline by W&B.
    """
    folders = sorted((run / "wandb").glob("offline-run-*"))
    if not folders:
        raise UserError(f"{run} has no offline run of W&B; train with WANDB_MODE=offline tracking=wandb.")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folders[-1])]
    lines = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.splitlines()
    rows: History = []
    summary: dict[str, float] = {}
    for record in map(json.loads, lines):
        if record["type"] == "history":
            rows.append(numbers(record["history"]["item"]))
        elif record["type"] == "summary":
            summary |= numbers(record["summary"]["update"])
    return rows, summary


def numbers(items: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in items.items() if isinstance(value, int | float)}


def names_of(panel: Any, known: set[str]) -> list[str]:
    """The metrics of this run that a panel shows."""
    if regex := getattr(panel, "metric_regex", None):
        return sorted(name for name in known if re.fullmatch(regex.strip("^$"), name))
    listed = getattr(panel, "y", None) or getattr(panel, "metrics", None) or []
    return [str(name) for name in listed if str(name) in known]


def draw_panel(ax: Axes, panel: Any, names: list[str], rows: History, summary: dict[str, float]) -> None:
    ax.set_title("\n".join(textwrap.wrap(panel.title, 38)), fontsize=9, loc="left")
    if hasattr(panel, "metrics"):
        ax.barh(names[::-1], [summary[name] for name in names[::-1]], color=COLOURS["c0"][0], height=0.6)
        ax.set_xlim(0, 1)
        return
    for name, hue in zip(names, HUES * len(names), strict=False):
        points = [(row["_step"], row[name]) for row in rows if name in row]
        ax.plot(*zip(*points, strict=True), color=COLOURS[hue][0], linewidth=1.2, label=name)
    columns = 1 if max(map(len, names)) > 28 else 2
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=columns,
        fontsize=6.5,
        frameon=False,
        handlelength=1,
        columnspacing=1,
    )


def draw(run: Path, out: Path) -> None:
    """Write the PNG of the panels, section by section."""
    rows, summary = read_offline_run(run)
    known = {name for row in rows for name in row} | {
        name for name in summary if name.startswith(("before/", "after/"))
    }
    above_table = takewhile(lambda section: all(hasattr(panel, "title") for panel in section.panels), sections())
    shown = []
    for section in above_table:
        panels = [(panel, names_of(panel, known)) for panel in section.panels]
        shown.append((section.name, [(panel, names) for panel, names in panels if names]))
    heights = [HEAD + HEIGHT * rows_of(drawn) for _, drawn in shown]
    with mpl.rc_context(STYLE | {"font.size": 8}):
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (name, drawn) in zip(parts, shown, strict=True):
            draw_section(part, name, drawn, rows, summary)
        figure.savefig(out, dpi=90)
    Image.open(out).convert("RGB").quantize(64).save(out, optimize=True)  # a third of the size


def rows_of(drawn: list[Any]) -> int:
    return -(-len(drawn) // COLUMNS)


def draw_section(part: SubFigure, name: str, drawn: list[Any], rows: History, summary: dict[str, float]) -> None:
    part.suptitle(name, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = list(part.subplots(rows_of(drawn), min(COLUMNS, len(drawn)), squeeze=False).flat)
    for ax, (panel, names) in zip(axes, drawn, strict=False):
        draw_panel(ax, panel, names, rows, summary)
    for ax in axes[len(drawn) :]:
        ax.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    arguments = parser.parse_args()
    try:
        draw(arguments.run, arguments.out)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
