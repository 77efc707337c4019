"""The sentences about a finished run: how both accuracies have changed on the held-out problems.

The page of a run opens with them, and trackers store them. It imports nothing heavy and reads no files.
"""

from collections.abc import Mapping
from typing import Any

from grpo.core.metric_format import format_interval, format_metric
from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.core.text import plural


def changes_sentences(results: dict[str, Any], labels: Mapping[str, str]) -> list[str]:
    """The changes of both accuracies on the held-out problems, with intervals and significance, a sentence each.

    Args:
        labels: the labels of the two accuracies.
    """
    count, steps = results["after"]["n"], f"{results['steps']:,} {plural(results['steps'], 'step')}"
    strict, flexible = (f"{labels[name]} {_change(results, name)}" for name in (ACCURACY_STRICT, ACCURACY_FLEXIBLE))
    return [f"In {steps}, on {count:,} held-out {plural(count, 'problem')}, answers {strict}.", f"Answers {flexible}."]


def _change(results: dict[str, Any], metric: str) -> str:
    """How a figure has changed: `rose from 25.0% to 94.5% (+69.5 points, 95% interval +63.3 to +75.4)`."""
    before, after, difference = results["before"], results["after"], results["difference"][metric]
    first, last = (format_metric(metric, metrics[metric]) for metrics in (before, after))
    if not difference["value"]:
        return f"stayed at {last} (95% interval {format_interval(metric, *after['intervals'][metric])})"
    value, low, high = (f"{difference[name] * 100:+z.1f}" for name in ("value", "low", "high"))
    points = f"{value} points, 95% interval {low} to {high}"
    if is_significant_change(difference):
        return f"{'rose' if difference['value'] > 0 else 'fell'} from {first} to {last} ({points})"
    return f"went from {first} to {last}, which is not significant ({points})"


def is_significant_change(difference: dict[str, Any]) -> bool:
    """Whether a change is significant, by the exact test if there is one, else by the interval."""
    if difference["p"] is not None:
        return bool(difference["p"] < 0.05)
    return not difference["low"] <= 0 <= difference["high"]
