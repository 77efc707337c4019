"""The figures of a run, drawn once: as SVG for a page that is light or dark, and as PNG for paper.

Every colour on a figure is one of `COLOURS`. In the SVG it is a CSS variable of that name, which the page defines for
light and for dark; a PNG has the light ones.
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
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from grpo.core.metric_names import (
    ALL_CORRECT,
    CLIPPED_RATIO,
    ENTROPY,
    GRAD_NORM,
    KL,
    MAX_LENGTH,
    MEAN_LENGTH,
    MIN_LENGTH,
    MIXED,
    NONE_CORRECT,
    REWARD,
    REWARD_STD,
    VALIDATION_ACCURACY,
    VALIDATION_ACCURACY_HIGH,
    VALIDATION_ACCURACY_LOW,
    ZERO_STD,
    advantage_share,
    reward_mean,
)

# name -> light, dark. The hues (c0 to c7) stay apart for colour-blind readers, at a contrast of 3 to the page and more:
# tests/reports/test_report.py measures both.
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
# The rewards of the project keep these in every run; one of your own takes the next that is free in its stack.
OF_REWARD = dict(zip(("correctness", "int", "strict_format", "soft_format", "xmlcount"), HUES, strict=False))

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
    note: str  # what is drawn, where the title does not say it
    figure: Figure

    def svg(self) -> str:
        """An `<svg>` element to stand in a page."""
        text = io.StringIO()
        with _saving({"svg.hashsalt": self.name}):  # ids of their own among the figures of a page
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
        """Write it as PNG; there the title stands in the picture."""
        with _saving():
            title = self.figure.suptitle(self.title, x=0.02, ha="left", weight="bold", parse_math=False)
            self.figure.savefig(folder / f"{self.name}.png", dpi=200, facecolor=COLOURS["page"][0])
            title.remove()


@contextmanager
def _saving(more: dict[Any, Any] | None = None) -> Iterator[None]:
    with mpl.rc_context(STYLE | (more or {})), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a page has fonts of its own
        yield


def save(charts: Sequence[Chart], folder: Path) -> None:
    """Write them as PNG into a folder."""
    folder.mkdir(exist_ok=True)
    for chart in charts:
        chart.save(folder)


def colours(rewards: Sequence[str]) -> dict[str, str]:
    """reward -> the name of its colour. A `verbatim_` reward has that of the one it is the original of."""
    given = {name: OF_REWARD[plain] for name in rewards if (plain := name.removeprefix("verbatim_")) in OF_REWARD}
    free = [hue for hue in HUES if hue not in given.values()] or HUES
    others = [name for name in rewards if name not in given]
    return given | {name: free[i % len(free)] for i, name in enumerate(others)}


def window(steps: int) -> int:
    """Logged steps in the running mean that a thick line shows: a tenth of them, an odd number."""
    return max(1, steps // 10) | 1


def charts(history: pd.DataFrame, evaluations: pd.DataFrame, weights: dict[str, float], limit: int) -> list[Chart]:
    """The figures that the record of a run gives.

    Args:
        history: a row for each logged step with a rollout, by step; columns as in metrics.jsonl.
        evaluations: a row for each evaluation while training, by step.
        weights: the rewards of the stack.
        limit: the most tokens of a completion.
    """
    with mpl.rc_context(STYLE):
        drawn = Drawing(history, weights)
        found = [
            drawn.total(),
            drawn.rewards(),
            drawn.shares(),
            drawn.groups(),
            drawn.length(limit),
            drawn.single("truncated", "Cut at the limit", CLIPPED_RATIO, "c4", percent=True),
            drawn.single("entropy", "Entropy, nats a token", ENTROPY, "c5"),
            drawn.single("grad_norm", "Norm of the gradient", GRAD_NORM, "c6"),
            drawn.single("kl", "KL from the reference policy, nats a token", KL, "c7"),
            drawn.accuracy(evaluations),
        ]
    return [chart for chart in found if chart]


class Drawing:
    def __init__(self, history: pd.DataFrame, weights: dict[str, float]) -> None:
        if len(history) == 1:  # a point would not be seen
            history = pd.concat([history, history]).set_axis(history.index[0] + np.array([-0.5, 0.5]))
        self.history, self.weights, self.colours = history, weights, colours(list(weights))
        self.window = window(len(history))
        self.smooth = history.rolling(self.window, min_periods=1, center=True).mean()

    def total(self) -> Chart | None:
        figure, axes = panel()
        light = colour("c0")
        mean, spread = self.smooth[REWARD], self.smooth[REWARD_STD]
        axes.fill_between(mean.index, mean - spread, mean + spread, color=light, alpha=0.15, linewidth=0)
        self.line(axes, REWARD, "c0")
        return finished("reward", "Total reward", "band: ± its standard deviation, TRL's reward_std", figure, axes)

    def rewards(self) -> Chart | None:
        figure, axes = panel(lines=len(self.weights))
        labels = []
        for name, weight in self.weights.items():
            end = self.line(axes, reward_mean(name), self.colours[name], dashed=not weight)
            labels.append((end, name, self.colours[name]))
        note = "dashed: measured only, weight 0" if 0 in self.weights.values() else ""
        return finished("rewards", "Score of each reward", note, figure, axes, labels)

    def shares(self) -> Chart | None:
        paid = [name for name, weight in self.weights.items() if weight]
        columns = [advantage_share(name) for name in paid]
        if not set(columns) <= set(self.history) or self.history[columns].isna().all(axis=None):
            return None
        figure, axes = panel(lines=len(paid))
        shares = self.smooth[columns].interpolate(limit_direction="both")
        above, below = np.zeros(len(shares)), np.zeros(len(shares))
        labels = []
        for name, column in zip(paid, columns, strict=True):
            share = shares[column].to_numpy()
            for base, part in ((above, share.clip(min=0)), (below, share.clip(max=0))):
                hue = colour(self.colours[name])
                axes.fill_between(
                    shares.index, base, base + part, facecolor=hue, edgecolor=colour("page"), linewidth=0.6
                )
                if part[-1]:
                    labels.append((base[-1] + part[-1] / 2, name, self.colours[name]))
                base += part
        axes.axhline(0, color=colour("ink"), linewidth=0.8)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(False)
        note = "what each reward made of the advantages; below zero: pulled against the total"
        return finished("advantage_share", "Shares of the advantage", note, figure, axes, labels)

    def groups(self) -> Chart | None:
        figure, axes = panel()
        labels, base = [], np.zeros(len(self.smooth))
        for column, name, hue in (
            (ALL_CORRECT, "all right", "c2"),
            (MIXED, "mixed", "c5"),
            (NONE_CORRECT, "none right", "c4"),
        ):
            share = self.smooth[column].to_numpy()
            axes.fill_between(self.smooth.index, base, base + share, color=colour(hue), alpha=0.75, linewidth=0)
            labels.append((base[-1] + share[-1] / 2, name, hue))
            base = base + share
        self.line(axes, ZERO_STD, "ink", dashed=True)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(False)
        note = "dashed: groups without any difference in the total, which teach nothing"
        return finished("groups", "Groups by right answers", note, figure, axes, labels)

    def length(self, limit: int) -> Chart | None:
        figure, axes = panel()
        if {MIN_LENGTH, MAX_LENGTH} <= set(self.history):
            low, high = self.smooth[MIN_LENGTH], self.smooth[MAX_LENGTH]
            axes.fill_between(low.index, low, high, color=colour("c3"), alpha=0.12, linewidth=0)
        self.line(axes, MEAN_LENGTH, "c3")
        axes.axhline(limit, color=colour("soft"), linewidth=1, linestyle=":")
        axes.set_ylim(0, limit * 1.05)
        note = "band: shortest to longest of a step; dotted: the limit"
        return finished("length", "Length of completions, tokens", note, figure, axes)

    def single(self, name: str, title: str, column: str, hue: str, percent: bool = False) -> Chart | None:
        if column not in self.history or self.history[column].isna().all():
            return None
        figure, axes = panel()
        self.line(axes, column, hue)
        low, high = self.history[column].min(), self.history[column].max()
        axes.set_ylim(min(0, low * 1.05), (1 if percent and high > 0.2 else high * 1.05) or 1)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        return finished(name, title, "", figure, axes)

    def accuracy(self, evaluations: pd.DataFrame) -> Chart | None:
        if VALIDATION_ACCURACY not in evaluations:
            return None
        figure, axes = panel()
        low, high = evaluations[VALIDATION_ACCURACY_LOW], evaluations[VALIDATION_ACCURACY_HIGH]
        axes.fill_between(low.index, low, high, color=colour("c0"), alpha=0.15, linewidth=0)
        axes.plot(
            evaluations.index,
            evaluations[VALIDATION_ACCURACY],
            color=colour("c0"),
            linewidth=2,
            marker="o",
            markersize=4,
        )
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        return finished("accuracy", "Right on validation problems", "band: 95% interval", figure, axes)

    def line(self, axes: Axes, column: str, hue: str, dashed: bool = False) -> float:
        """Every logged value thin, their running mean thick; gives where it ends."""
        if self.window > 1 and not dashed:
            axes.plot(self.history.index, self.history[column], color=colour(hue), alpha=0.3, linewidth=0.8)
        style: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.4} if dashed else {"linewidth": 2.0}
        axes.plot(self.smooth.index, self.smooth[column], color=colour(hue), **style)
        return float(self.smooth[column].iloc[-1])


def colour(name: str) -> str:
    return COLOURS[name][0]


def panel(lines: int = 0) -> tuple[Figure, Axes]:
    """An empty figure, higher where that many labels do not fit beside it."""
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
    figure = Figure(figsize=(WIDTH, max(HEIGHT, 0.7 + 0.32 * lines)), layout=layout)
    return figure, figure.add_subplot()


def finished(
    name: str,
    title: str,
    note: str,
    figure: Figure,
    axes: Axes,
    labels: Sequence[tuple[float, str, str]] = (),
    along: str = "step",
) -> Chart:
    """The figure with what all have over steps; `labels` are (height, text, colour), at the right end."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(along)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    texts = [wrapped(text) for _, text, _ in labels]
    points = (figure.get_figheight() - 0.5) * 72
    sizes = [(high - low) * 12.5 * (text.count("\n") + 1) / points for text in texts]
    heights = spread([height for height, _, _ in labels], sizes, low, high)
    right = axes.get_xlim()[1]
    for text, height, (_, _, hue) in zip(texts, heights, labels, strict=True):
        place: dict[str, Any] = {
            "textcoords": "offset points",
            "va": "center",
            "annotation_clip": False,
            "parse_math": False,
        }
        axes.annotate("●", (right, height), (5, 0), color=colour(hue), fontsize=8, **place)
        axes.annotate(text, (right, height), (15, 0), linespacing=1.0, **place)
    return Chart(name, title, note, figure)


def wrapped(name: str, most: int = 13) -> str:
    """A name on lines that fit beside a figure, broken after underscores and spaces."""
    lines = [""]
    for part in re.findall(r"[^_ ]+[_ ]*|[_ ]+", name):
        if lines[-1] and len(lines[-1] + part) > most:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def spread(heights: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Where labels of these sizes stand, each as near to its height as the others let it, all of them in sight."""
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
