"""Tables for the terminal and train.log: names with values, metrics, comparisons, answers side by side.

Commands call it and print the result with `grpo.core.console.say`. It does not know where the values come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from grpo.core.console import wrap_lines
from grpo.core.metric_format import format_interval, format_metric, is_at_k, label_and_formatter, ordered_metrics
from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.core.text import format_p_value, printable, with_sign


def key_value_table(lines: dict[str, str]) -> RenderableType:
    """Names with their values; the values are wrapped in their own column."""
    return _KeyValues(lines)


def run_header(lines: dict[str, str]) -> RenderableType:
    """The header of a run or a sweep: a `key_value_table` whose values are not wrapped outside a terminal."""
    return _KeyValues(lines, column=8, wrapped_in_terminal_only=True)


@dataclass(frozen=True)
class _KeyValues:
    lines: dict[str, str]
    column: int | None = None  # the column of the values; None: two cells after the longest name
    wrapped_in_terminal_only: bool = False

    def __rich_console__(self, to: Console, options: ConsoleOptions) -> RenderResult:
        lines = {printable(name): printable(value) for name, value in self.lines.items()}
        column = self.column or max(map(cell_len, lines), default=0) + 2
        for name, value in lines.items():
            label = name + " " * (column - cell_len(name))
            text = Text(value)
            unwrapped = self.wrapped_in_terminal_only and not to.is_terminal
            for line in [text] if unwrapped else wrap_lines(text, max(20, options.max_width - column)):
                line.no_wrap, line.overflow = True, "ignore"
                yield Text(label, no_wrap=True, overflow="ignore") + line
                label = " " * column


def empty_table(*columns: str) -> Table:
    """A table without rows: a first column without a title, which wraps, then right-aligned columns."""
    table = Table("", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].overflow = "fold"
    for column in columns:
        table.add_column(column, justify="right")
    return table


def metrics_table(
    metrics: dict[str, float], intervals: dict[str, tuple[float, float]], labels: Mapping[str, str]
) -> Table:
    """Every metric with its 95% interval, except pass@k and maj@k (see `at_k_table`); `labels`: those of accuracies."""
    table = empty_table("", "95% interval")
    for name in ordered_metrics(metrics):
        table.add_row(
            Text(label_and_formatter(name, labels)[0]),
            format_metric(name, metrics[name]),
            format_interval(name, *intervals[name]),
        )
    return table


def at_k_table(
    metrics: dict[str, float], intervals: dict[str, tuple[float, float]], labels: Mapping[str, str]
) -> Table:
    """pass@k and maj@k with their 95% intervals, one row for each k, first strict, then flexible extraction."""
    table = empty_table("pass@k", "95% interval", "maj@k", "95% interval")
    table.columns[0].header = Text("k: samples of a problem")
    for suffix, title in (("", labels[ACCURACY_STRICT]), ("/flexible", labels[ACCURACY_FLEXIBLE])):
        ks = [name.removeprefix("pass@").removesuffix(suffix) for name in metrics if is_at_k(name, "pass@", suffix)]
        table.add_row(Text(title, style="bold"))
        for k in ks:
            names = [f"{kind}@{k}{suffix}" for kind in ("pass", "maj")]
            cells = [
                cell
                for name in names
                for cell in (format_metric(name, metrics[name]), format_interval(name, *intervals[name]))
            ]
            table.add_row(k, *cells)
    return table


def comparison_table(
    names: tuple[str, str],
    first: dict[str, float],
    second: dict[str, float],
    differences: dict[str, Any],
    labels: Mapping[str, str],
) -> Table:
    """Two evaluations of the same problems, and their differences (second minus first) as `compare` returns them.

    Args:
        labels: the labels of the accuracies.
    """
    tested = any(difference.p is not None for difference in differences.values())
    table = empty_table(*names, "difference", "95% interval", *(["p"] if tested else []))
    table.columns[2].style = "bold"
    if tested:
        table.caption, table.caption_justify = "p: exact two-sided McNemar test", "left"
    for name, difference in differences.items():
        cells = [
            format_metric(name, first[name]),
            format_metric(name, second[name]),
            with_sign(label_and_formatter(name)[1](difference.value)),
            format_interval(name, difference.low, difference.high),
        ]
        if difference.p is not None:
            cells.append(format_p_value(difference.p))
        table.add_row(Text(label_and_formatter(name, labels)[0]), *cells)
    return table


def answers_table(question: str, columns: dict[str, str], tags: Sequence[str]) -> Table:
    """A question and the answers to it, one column for each policy, with the `tags` of the format in colour."""
    title = Text(printable(question), style="bold")
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", expand=True)
    for name in columns:
        table.add_column(Text(name), ratio=1, overflow="fold")
    table.add_row(*(colour_tags(text, tags) for text in columns.values()))
    return table


def colour_tags(completion: str, tags: Sequence[str]) -> Text:
    """A completion with the `tags` of its format in colour."""
    text = Text(printable(completion).strip("\n"))
    text.highlight_words(tags, style="cyan")
    return text
