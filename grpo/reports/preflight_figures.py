"""The figures of a preflight: solve rates of the problems, and what groups of each size would have.

Used by `preflight_report`. It computes no figure.
"""

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from grpo.forecast.forecast import Forecast
from grpo.reports.figures import STYLE, Chart, finish_chart, light_colour, new_axes


def preflight_charts(forecast: Forecast) -> list[Chart]:
    with mpl.rc_context(STYLE):
        return [_solve_rates(forecast), _groups(forecast), _lengths(forecast)]


def _solve_rates(forecast: Forecast) -> Chart:
    figure, axes = new_axes()
    names, counts = list(forecast.histogram), list(forecast.histogram.values())
    colours = [light_colour(hue) for hue in ("c4", "c5", "c5", "c5", "c5", "c2")]
    axes.bar(range(len(names)), counts, color=colours, width=0.75)
    axes.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    note = f"problems by the share of right completions, of {forecast.samples} each"
    return Chart("solve_rates", "How often the problems are solved", note, figure)


def _groups(forecast: Forecast) -> Chart:
    figure, axes = new_axes(lines=3)
    sizes, labels = list(forecast.groups), []
    for name, title, hue in (
        ("mixed", "right and wrong", "c5"),
        ("differing", "totals differ", "c0"),
        ("silent", "no advantage", "c4"),
    ):
        estimates = np.array([getattr(group, name) for group in forecast.groups.values()])
        axes.fill_between(sizes, estimates[:, 1], estimates[:, 2], color=light_colour(hue), alpha=0.15, linewidth=0)
        axes.plot(sizes, estimates[:, 0], color=light_colour(hue), linewidth=2, marker="o", markersize=4)
        labels.append((float(estimates[-1, 0]), title, hue))
    axes.axvline(forecast.config.num_generations, color=light_colour("soft"), linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0], sizes[-1])
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    note = "band: 95% interval over problems; dotted: num_generations"
    chart = finish_chart("groups", "Groups of K completions", note, figure, axes, labels, along="K")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(k) for k in sizes])
    return chart


def _lengths(forecast: Forecast) -> Chart:
    figure, axes = new_axes()
    limit = forecast.config.max_completion_length
    edges = np.linspace(0, limit, min(limit, 32) + 1)
    axes.hist(forecast.tokens, bins=edges.tolist(), color=light_colour("c3"))
    axes.axvline(limit, color=light_colour("soft"), linewidth=1, linestyle=":")
    axes.set_xlim(0, limit * 1.03)
    note = "completions by their number of tokens; dotted: the limit"
    return finish_chart("length", "Length of completions", note, figure, axes, along="tokens")
