"""The two sentences about a finished run: how both accuracies have changed on the held-out problems.

The page of a run opens with them, and trackers store them. It imports nothing heavy and reads no files.
"""

from collections.abc import Mapping
from typing import Any

from grpo.core.metric_format import format_metric
from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.core.text import plural

ACCURACIES = (ACCURACY_STRICT, ACCURACY_FLEXIBLE)


def changes_sentences(results: dict[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Two sentences: both accuracies on the held-out problems before and after training; then their changes in points.

    Args:
        labels: the labels of the two accuracies.
    """
    count, steps = results["after"]["n"], f"{results['steps']:,} {plural(results['steps'], 'step')}"
    strict, flexible = (f"answers {labels[name]} {_change(results, name)}" for name in ACCURACIES)
    points = " and ".join(_points(results["difference"][name]) for name in ACCURACIES)
    return [
        f"On {count:,} held-out {plural(count, 'problem')}, {strict}, and {flexible}.",
        f"In {steps} these are changes of {points}.",
    ]


def _change(results: dict[str, Any], metric: str) -> str:
    """How a figure has changed: `rose from 25.0% to 94.5%`."""
    before, after, difference = results["before"], results["after"], results["difference"][metric]
    first, last = (format_metric(metric, metrics[metric]) for metrics in (before, after))
    if not difference["value"]:
        return f"stayed at {last}"
    if is_significant_change(difference):
        return f"{'rose' if difference['value'] > 0 else 'fell'} from {first} to {last}"
    return f"went from {first} to {last}, which is not significant"


def _points(difference: dict[str, Any]) -> str:
    """A change with its interval: `+69.5 points (95% interval +63.3 to +75.4)`."""
    value, low, high = (f"{difference[name] * 100:+z.1f}" for name in ("value", "low", "high"))
    return f"{value} points (95% interval {low} to {high})"


def is_significant_change(difference: dict[str, Any]) -> bool:
    """Whether a change is significant, by the exact test if there is one, else by the interval."""
    if difference["p"] is not None:
        return bool(difference["p"] < 0.05)
    return not difference["low"] <= 0 <= difference["high"]
