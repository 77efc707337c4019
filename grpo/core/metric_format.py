"""The label of each metric of an evaluation, and how its values are written.

Tables, reports and progress lines call it. It does not know how a metric is computed.
"""

from collections.abc import Callable, Iterable

from grpo.core.metric_names import SCORE_PREFIX

# figure -> what a person reads
FIGURES = {
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
NUMBERS = {"reward": "{:z.2f}", "mean_completion_tokens": "{:z.1f}", "train_seconds": "{:z.1f}"}


def shown(figure: str) -> tuple[str, Callable[[float], str]]:
    """What a person reads for `figure`, and how its value is written."""
    if figure.startswith(SCORE_PREFIX):
        return f"reward {figure.removeprefix(SCORE_PREFIX)}", "{:z.3f}".format
    if figure in NUMBERS:
        return FIGURES[figure], NUMBERS[figure].format
    return FIGURES.get(figure, figure), lambda value: f"{value * 100:z.1f}"


def with_unit(figure: str, value: float) -> str:
    share = "@" in figure or figure in FIGURES.keys() - NUMBERS.keys()
    return shown(figure)[1](value) + "%" * share


def interval(figure: str, low: float, high: float) -> str:
    number = shown(figure)[1]
    return f"{number(low)} to {number(high)}"


def listed(figures: Iterable[str], rewards: bool = True) -> list[str]:
    """The figures that make a table, in its order."""
    figures = list(figures)
    return [name for name in FIGURES if name in figures] + [
        name for name in figures if rewards and name.startswith(SCORE_PREFIX)
    ]


def is_at(name: str, prefix: str, suffix: str) -> bool:
    return name.startswith(prefix) and name.endswith(suffix) and ("/" in name) == bool(suffix)
