"""The label of each metric of an evaluation, and the format of its values.

Tables, reports and progress lines call it. It does not know how a metric is computed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from grpo.core.metric_names import (
    ABSTAINED_PREFIX,
    ACCURACY_FLEXIBLE,
    ACCURACY_STRICT,
    MEAN_COMPLETION_TOKENS,
    PHANTOM,
    REWARD,
    SCORE_PREFIX,
    SOFT_FORMAT,
    STRICT_FORMAT,
    TRAIN_SECONDS,
    TRUNCATED,
)

# metric -> label; tables list the metrics in this order. The labels of accuracies are those of numbers as answers;
# `accuracy_labels` of grpo/tasks/answer_types.py has those of other answers.
METRIC_LABELS = {
    STRICT_FORMAT: "exact format",
    SOFT_FORMAT: "reasoning, then answer",
    ACCURACY_STRICT: "right inside <answer>",
    ACCURACY_FLEXIBLE: "right as last number",
    MEAN_COMPLETION_TOKENS: "mean completion tokens",
    TRUNCATED: "truncated at the limit",
    REWARD: "mean total reward",
    TRAIN_SECONDS: "seconds of training",
}
# The formats of metrics that are not a fraction; fractions are written in percent.
NON_PERCENT_FORMATS = {REWARD: "{:z.2f}", MEAN_COMPLETION_TOKENS: "{:z.1f}", TRAIN_SECONDS: "{:z.1f}"}


def label_and_formatter(metric: str, labels: Mapping[str, str] | None = None) -> tuple[str, Callable[[float], str]]:
    """The label of a metric, from `labels` if it is there, and the formatter of its values, without a percent sign."""
    if labels and metric in labels:
        return labels[metric], label_and_formatter(metric)[1]
    if "@" in metric:  # pass@8 is of strict answers, pass@8/flexible of flexible ones
        name, _, flexible = metric.partition("/")
        accuracy = ACCURACY_FLEXIBLE if flexible else ACCURACY_STRICT
        return f"{name}, {(labels or METRIC_LABELS)[accuracy]}", label_and_formatter(accuracy)[1]
    if metric.startswith(SCORE_PREFIX):
        return f"reward {metric.removeprefix(SCORE_PREFIX)}", "{:z.3f}".format
    if metric.startswith(ABSTAINED_PREFIX):
        return f"{metric.removeprefix(ABSTAINED_PREFIX)} abstained", lambda value: f"{value * 100:z.1f}"
    if metric == PHANTOM:
        return "phantom share", lambda value: f"{value * 100:z.1f}"
    if metric in NON_PERCENT_FORMATS:
        return METRIC_LABELS[metric], NON_PERCENT_FORMATS[metric].format
    return METRIC_LABELS.get(metric, metric), lambda value: f"{value * 100:z.1f}"


def format_metric(metric: str, value: float) -> str:
    """A value of a metric; fractions with a percent sign."""
    is_fraction = (
        "@" in metric
        or metric == PHANTOM
        or metric.startswith(ABSTAINED_PREFIX)
        or metric in METRIC_LABELS.keys() - NON_PERCENT_FORMATS.keys()
    )
    return label_and_formatter(metric)[1](value) + "%" * is_fraction


def format_interval(metric: str, low: float, high: float) -> str:
    """An interval of a metric: `60.1 to 64.2`."""
    formatted = label_and_formatter(metric)[1]
    return f"{formatted(low)} to {formatted(high)}"


def format_accuracies(
    figures: Mapping[str, float],
    labels: Mapping[str, str],
    intervals: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """Both accuracies in a few words, `right 0.0% inside <answer>, 25.0% as last number`, with their `intervals`."""
    parts = []
    for name in (ACCURACY_STRICT, ACCURACY_FLEXIBLE):
        within = f" ({format_interval(name, *intervals[name])})" if intervals else ""
        parts.append(f"{figures[name]:.1%}{within} {labels[name].removeprefix('right ')}")
    return f"right {', '.join(parts)}"


def ordered_metrics(metrics: Iterable[str], rewards: bool = True) -> list[str]:
    """The metrics that a table shows, in its order; `rewards=False` leaves out those of single rewards."""
    metrics = list(metrics)
    return [name for name in METRIC_LABELS if name in metrics] + [
        name for name in metrics if rewards and name.startswith((SCORE_PREFIX, ABSTAINED_PREFIX))
    ]


def is_at_k(name: str, prefix: str, suffix: str) -> bool:
    """Whether a metric is `<prefix><k><suffix>`; pass@8 and pass@8/flexible differ in the suffix."""
    return name.startswith(prefix) and name.endswith(suffix) and ("/" in name) == bool(suffix)
