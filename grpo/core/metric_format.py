"""The label of each metric of an evaluation, and how its values are written.

Tables, reports and progress lines call it. It does not know how a metric is computed.
"""

from collections.abc import Callable, Iterable

from grpo.core.metric_names import SCORE_PREFIX

# figure -> what a person reads
METRIC_LABELS = {
    "strict_format": "exact format",
    "soft_format": "reasoning, then answer",
    "accuracy_strict": "correct inside <answer>",
    "accuracy_flexible": "correct as last number",
    "mean_completion_tokens": "mean completion tokens",
    "truncated": "cut at the limit",
    "reward": "mean total reward",
    "train_seconds": "seconds of training",
}
# How those are written that are no share.
NON_PERCENT_FORMATS = {"reward": "{:z.2f}", "mean_completion_tokens": "{:z.1f}", "train_seconds": "{:z.1f}"}


def label_and_formatter(figure: str) -> tuple[str, Callable[[float], str]]:
    """What a person reads for `figure`, and how its value is written."""
    if figure.startswith(SCORE_PREFIX):
        return f"reward {figure.removeprefix(SCORE_PREFIX)}", "{:z.3f}".format
    if figure in NON_PERCENT_FORMATS:
        return METRIC_LABELS[figure], NON_PERCENT_FORMATS[figure].format
    return METRIC_LABELS.get(figure, figure), lambda value: f"{value * 100:z.1f}"


def format_metric(figure: str, value: float) -> str:
    share = "@" in figure or figure in METRIC_LABELS.keys() - NON_PERCENT_FORMATS.keys()
    return label_and_formatter(figure)[1](value) + "%" * share


def format_interval(figure: str, low: float, high: float) -> str:
    number = label_and_formatter(figure)[1]
    return f"{number(low)} to {number(high)}"


def ordered_metrics(figures: Iterable[str], rewards: bool = True) -> list[str]:
    """The figures that make a table, in its order."""
    figures = list(figures)
    return [name for name in METRIC_LABELS if name in figures] + [
        name for name in figures if rewards and name.startswith(SCORE_PREFIX)
    ]


def is_at_k(name: str, prefix: str, suffix: str) -> bool:
    return name.startswith(prefix) and name.endswith(suffix) and ("/" in name) == bool(suffix)
