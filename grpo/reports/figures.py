"""Colours, style and labels shared by the figures of runs and sweeps, and their export as SVG and PNG.

Every colour on a figure is one of `COLOURS`. In the SVG it is a CSS variable of that name, which the page defines for
light and for dark; a PNG has the light ones. Used by `run_figures` and `sweep_figures`; it knows no metric.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

# name -> light, dark. The hues (c0 to c7) stay apart for colour-blind readers, at a contrast of 3 to the page and more:
# tests/reports/test_figures.py measures both.
COLOURS = {
    "page": ("#ffffff", "#15181d"),
    "ink": ("#1c2026", "#e6e8eb"),
    "soft": ("#5b636e", "#a2a9b4"),
    "rule": ("#dde1e6", "#31363e"),
    "c0": ("#0b5bad", "#1198fb"),
    "c1": ("#cf8000", "#ffbd17"),
    "c2": ("#008c4b", "#318e5b"),
    "c3": ("#df3e91", "#db72b0"),
    "c4": ("#7f0800", "#f74c02"),
    "c5": ("#059cd7", "#a3cfff"),
    "c6": ("#495653", "#b1c8af"),
    "c7": ("#826600", "#ccc460"),
}
HUES = [name for name in COLOURS if re.fullmatch(r"c\d", name)]

WIDTH, HEIGHT = 4.5, 2.7  # inches; at the width of a phone a point is then about a pixel
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": COLOURS["rule"][0],
    "axes.labelcolor": COLOURS["soft"][0],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0,
    "grid.color": COLOURS["rule"][0],
    "grid.linewidth": 0.8,
    "text.color": COLOURS["ink"][0],
    "xtick.color": COLOURS["soft"][0],
    "ytick.color": COLOURS["soft"][0],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Chart:
    name: str  # of its file
    title: str
    note: str  # explains what the title does not
    figure: Figure

    def svg(self) -> str:
        """An `<svg>` element for a page."""
        text = io.StringIO()
        with _save_settings({"svg.hashsalt": self.name}):  # unique ids on the page
            self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        drawn = text.getvalue()
        drawn = drawn[drawn.index("<svg") :]
        drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawn, flags=re.DOTALL)
        drawn = re.sub(r' (?:width|height)="[\d.]+pt"', "", drawn, count=2)
        drawn = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", drawn)
        for name, (light, _) in COLOURS.items():
            drawn = drawn.replace(light, f"var(--{name})")
        return drawn.replace("<svg", f'<svg role="img" aria-label="{escape(self.title)}"', 1)

    def save(self, folder: Path) -> None:
        """Write it as PNG, with the title in the picture."""
        with _save_settings():
            title = self.figure.suptitle(self.title, x=0.02, ha="left", weight="bold", parse_math=False)
            self.figure.savefig(folder / f"{self.name}.png", dpi=200, facecolor=COLOURS["page"][0])
            title.remove()


@contextmanager
def _save_settings(settings: dict[Any, Any] | None = None) -> Iterator[None]:
    with mpl.rc_context(STYLE | (settings or {})), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser's fonts have it
        yield


def save_png(charts: Sequence[Chart], folder: Path) -> None:
    """Write charts as PNG into a folder, which is made if it is missing."""
    folder.mkdir(exist_ok=True)
    for chart in charts:
        chart.save(folder)


def smoothing_window(steps: int) -> int:
    """The length of the running mean in logged steps: a tenth of `steps`, and odd."""
    return max(1, steps // 10) | 1


def light_colour(name: str) -> str:
    """The light value of a colour, which an SVG replaces with a CSS variable."""
    return COLOURS[name][0]


def new_axes(lines: int = 0) -> tuple[Figure, Axes]:
    """An empty figure, tall enough for `lines` labels beside it."""
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
    figure = Figure(figsize=(WIDTH, max(HEIGHT, 0.7 + 0.32 * lines)), layout=layout)
    return figure, figure.add_subplot()


def percent_axis(axis: Axis) -> None:
    """Show shares as percents, at ticks that need no more digits than the labels have."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(PercentFormatter(1, decimals=0 if high - low > 0.04 else 1))


def finish_chart(
    name: str,
    title: str,
    note: str,
    figure: Figure,
    axes: Axes,
    labels: Sequence[tuple[float, str, str]] = (),
    along: str = "step",
) -> Chart:
    """Add the axis of steps, and the labels at the right end of the lines.

    Args:
        labels: (height, text, colour) of each line.
        along: the title of the x axis.
    """
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.set_xlabel(along)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    if isinstance(axes.yaxis.get_major_formatter(), PercentFormatter):
        percent_axis(axes.yaxis)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    texts = [wrap_label(text) for _, text, _ in labels]
    points = (figure.get_figheight() - 0.5) * 72
    sizes = [(high - low) * 12.5 * (text.count("\n") + 1) / points for text in texts]
    heights = spread_labels([height for height, _, _ in labels], sizes, low, high)
    right = axes.get_xlim()[1]
    for text, height, (_, _, hue) in zip(texts, heights, labels, strict=True):
        style: dict[str, Any] = {
            "textcoords": "offset points",
            "va": "center",
            "annotation_clip": False,
            "parse_math": False,
        }
        axes.annotate("●", (right, height), (5, 0), color=light_colour(hue), fontsize=8, **style)
        axes.annotate(text, (right, height), (15, 0), linespacing=1.0, **style)
    return Chart(name, title, note, figure)


def wrap_label(name: str, width: int = 13) -> str:
    """A name wrapped for the space beside a figure, broken after underscores and spaces."""
    lines = [""]
    for part in re.findall(r"[^_ ]+[_ ]*|[_ ]+", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def spread_labels(heights: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Positions of labels without overlap between `low` and `high`, each as near to its height as possible.

    Args:
        heights: the wanted positions.
        sizes: the sizes of the labels, in the same unit.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    floor = low
    for i in order:
        placed[i] = max(placed[i], floor + sizes[i] / 2)
        floor = placed[i] + sizes[i] / 2
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling - sizes[i] / 2)
        ceiling = placed[i] - sizes[i] / 2
    return placed
