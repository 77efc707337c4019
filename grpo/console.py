"""What a person sees: plain lines, progress bars, and the tables at the end. Everything but bars goes to train.log too.

Text of questions and completions is shown as it is, never as console markup.
"""

import io
import logging
import re
import time
from collections.abc import Callable, Iterator
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
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def say(message: RenderableType) -> None:
    """Print to the terminal, and without colours to the log."""
    if isinstance(message, str):
        message = Text(message)
    # A line of text is left whole, so that paths in it can be copied.
    whole = isinstance(message, Text)
    console.print(message, soft_wrap=whole)
    plain = io.StringIO()
    Console(file=plain, width=100, highlight=False).print(message, soft_wrap=whole)
    log.info(plain.getvalue().rstrip("\n"))


def shortest(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def quiet_libraries() -> None:
    """Send what libraries warn of to train.log, and keep their own progress bars off the terminal."""
    import transformers.utils.logging as transformers_logging

    logging.captureWarnings(True)
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar over `total`, advanced by calling it with (how many, what stands beside); no terminal, then ten lines."""
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[beside]}"),
            console=console,
            expand=True,
        ) as bars:
            task = bars.add_task(title, total=total, beside="")
            yield lambda count, beside: bars.update(task, advance=count, beside=beside)
    else:
        began, done, tenth = time.monotonic(), 0, 0

        def advance(count: int, beside: str) -> None:
            nonlocal done, tenth
            done += count
            if done * 10 // total > tenth:
                tenth = done * 10 // total
                console.print(Text(f"{title} {done}/{total}  {time.monotonic() - began:.0f} s  {beside}".rstrip()))

        yield advance


FIGURES: list[tuple[str, str, Callable[[Any], str]]] = [
    ("strict_format", "exact format", "{:.1%}".format),
    ("soft_format", "reasoning, then answer", "{:.1%}".format),
    ("accuracy_strict", "correct inside <answer>", "{:.1%}".format),
    ("accuracy_flexible", "correct as last number", "{:.1%}".format),
    ("mean_completion_tokens", "mean completion tokens", "{:.1f}".format),
    ("truncated", "cut at the limit", "{:.1%}".format),
    ("reward", "mean total reward", "{:.2f}".format),
]


def before_after(before: dict[str, Any], after: dict[str, Any]) -> Table:
    """The figures of both evaluations, side by side."""
    table = Table(
        "", box=SIMPLE_HEAD, title=f"{before['n']:,} held-out problems, answered greedily", title_justify="left"
    )
    table.add_column("before", justify="right")
    table.add_column("after", justify="right", style="bold")
    for key, label, shown in FIGURES:
        table.add_row(Text(label), shown(before[key]), shown(after[key]))
    return table


def answers(question: str, before: str, after: str) -> Table:
    """One question answered before and after, in two columns."""
    title = Text(printable(question), style="bold")
    table = Table("before", "after", box=SIMPLE_HEAD, title=title, title_justify="left", expand=True)
    table.columns[0].ratio = table.columns[1].ratio = 1
    table.add_row(tinted(before), tinted(after))
    return table


def printable(text: str) -> str:
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "replace").decode("utf-8")


def tinted(completion: str) -> Text:
    """A completion with its tags in colour."""
    text = Text(printable(completion).strip("\n"))
    text.highlight_regex(TAG, style="cyan")
    return text
