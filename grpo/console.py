"""What a person sees: plain lines, progress bars, and the tables at the end. Everything but bars goes to train.log too.

Text of questions and completions is shown as it is, never as console markup.
"""

import io
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

log = logging.getLogger("grpo")
console = Console(highlight=False)

TAG = re.compile(r"</?(?:reasoning|answer)>")
# What a terminal would obey rather than show.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def say(message: RenderableType) -> None:
    """Print to the terminal, and without colours to the log."""
    if isinstance(message, str):
        message = Text(message)
    if isinstance(message, Text):
        message.plain = printable(message.plain)
    # A line of text is left whole, so that paths in it can be copied.
    whole = isinstance(message, Text)
    console.print(message, soft_wrap=whole)
    plain = io.StringIO()
    Console(file=plain, width=100, highlight=False).print(message, soft_wrap=whole)
    log.info(plain.getvalue().rstrip("\n"))


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is said on the terminal meanwhile; train.log has it."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def shortest(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} {plural(round(seconds), 'second')}"


def quiet_libraries() -> None:
    """Send what libraries warn of to train.log, and keep their own progress bars off the terminal."""
    import transformers.utils.logging as transformers_logging
    from transformers.generation.continuous_batching.utils import logger as batching

    logging.captureWarnings(True)
    # On some CPUs it warns of a kernel that it does without; where there is no log, that would go to the terminal.
    logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())
    # TRL 1.16 asks for it by its old name, at every step.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    batching.handlers.clear()  # its own, which tells the terminal a dozen things a rollout
    batching.propagate = True
    batching.setLevel(logging.WARNING)


@contextmanager
def progress(title: str, total: int, lasting: bool = True) -> Iterator[Callable[[int, str], None]]:
    """A bar over `total`, advanced by calling it with (how many, what stands beside).

    One that is not `lasting` leaves nothing behind. Without a terminal: ten lines, or none.
    """
    if console.is_terminal and not console.quiet:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[beside]}"),
            console=console,
            expand=True,
            transient=not lasting,
        ) as bars:
            task = bars.add_task(title, total=total, beside="")
            yield lambda count, beside: bars.update(task, advance=count, beside=beside)
    else:
        began, done, tenth = time.monotonic(), 0, 0

        def advance(count: int, beside: str) -> None:
            nonlocal done, tenth
            done += count
            if lasting and done * 10 // total > tenth:
                tenth = done * 10 // total
                console.print(Text(f"{title} {done}/{total}  {time.monotonic() - began:.0f} s  {beside}".rstrip()))

        yield advance


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
    if figure.startswith("rewards/"):
        return f"reward {figure.removeprefix('rewards/')}", "{:z.3f}".format
    if figure in NUMBERS:
        return FIGURES[figure], NUMBERS[figure].format
    return FIGURES.get(figure, figure), lambda value: f"{value * 100:z.1f}"


def with_unit(figure: str, value: float) -> str:
    share = "@" in figure or figure in FIGURES.keys() - NUMBERS.keys()
    return shown(figure)[1](value) + "%" * share


def interval(figure: str, low: float, high: float) -> str:
    number = shown(figure)[1]
    return f"{number(low)} to {number(high)}"


def signed(number: str) -> str:
    return number if number.startswith("-") else f"+{number}"


def plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def written(value: Any) -> str:
    """The value of a setting, as a person reads it."""
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<.001"


def facts(lines: dict[str, str]) -> Table:
    """Names and what is to be said of each, the latter wrapped in a column of its own."""
    table = Table.grid(padding=(0, 2))
    for name, value in lines.items():
        table.add_row(Text(name), Text(value))
    return table


def table_of(*columns: str) -> Table:
    """An empty table: a first column without a title, that is folded where it is too wide, then these."""
    table = Table("", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].overflow = "fold"
    for column in columns:
        table.add_column(column, justify="right")
    return table


def listed(figures: Iterable[str], rewards: bool = True) -> list[str]:
    """The figures that make a table, in its order."""
    figures = list(figures)
    return [name for name in FIGURES if name in figures] + [
        name for name in figures if rewards and name.startswith("rewards/")
    ]


def figures_table(figures: dict[str, float], intervals: dict[str, tuple[float, float]]) -> Table:
    """Every figure with its interval; pass@k and maj@k stand apart, see `at_k_table`."""
    table = table_of("", "95% interval")
    for name in listed(figures):
        table.add_row(Text(shown(name)[0]), with_unit(name, figures[name]), interval(name, *intervals[name]))
    return table


def at_k_table(figures: dict[str, float], intervals: dict[str, tuple[float, float]]) -> Table:
    """pass@k and maj@k, a row for each k."""
    table = table_of("pass@k", "95% interval", "maj@k", "95% interval")
    table.columns[0].header = Text("k: samples of a problem")
    for suffix, title in (("", "correct inside <answer>"), ("/flexible", "correct as last number")):
        ks = [name.removeprefix("pass@").removesuffix(suffix) for name in figures if is_at(name, "pass@", suffix)]
        table.add_row(Text(title, style="bold"))
        for k in ks:
            names = [f"{kind}@{k}{suffix}" for kind in ("pass", "maj")]
            cells = [
                cell for name in names for cell in (with_unit(name, figures[name]), interval(name, *intervals[name]))
            ]
            table.add_row(k, *cells)
    return table


def is_at(name: str, prefix: str, suffix: str) -> bool:
    return name.startswith(prefix) and name.endswith(suffix) and ("/" in name) == bool(suffix)


def comparison_table(
    names: tuple[str, str], first: dict[str, float], second: dict[str, float], differences: dict[str, Any]
) -> Table:
    """Two evaluations of the same problems, and what the second has over the first, as grpo.evaluation.compare says."""
    tested = any(difference.p is not None for difference in differences.values())
    table = table_of(*names, "difference", "95% interval", *(["p"] if tested else []))
    table.columns[2].style = "bold"
    if tested:
        table.caption, table.caption_justify = "p: exact two-sided McNemar test", "left"
    for name, difference in differences.items():
        cells = [
            with_unit(name, first[name]),
            with_unit(name, second[name]),
            signed(shown(name)[1](difference.value)),
            interval(name, difference.low, difference.high),
        ]
        if difference.p is not None:
            cells.append(p_value(difference.p))
        table.add_row(Text(shown(name)[0]), *cells)
    return table


def answers(question: str, columns: dict[str, str]) -> Table:
    """One question with the answers of two policies side by side, or of one."""
    title = Text(printable(question), style="bold")
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", expand=True)
    for name in columns:
        table.add_column(Text(name), ratio=1, overflow="fold")
    table.add_row(*map(tinted, columns.values()))
    return table


def printable(text: str) -> str:
    return valid(CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def valid(text: str) -> str:
    """`text` as UTF-8 can carry it: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def tinted(completion: str) -> Text:
    """A completion with its tags in colour."""
    text = Text(printable(completion).strip("\n"))
    text.highlight_regex(TAG, style="cyan")
    return text
