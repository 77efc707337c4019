"""Progress of work: a bar for steps that can be counted, a spinner for other work; plain lines without a terminal.

Commands, training and evaluation call it around work that takes longer than a second or two. It does not know what the
work is.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from grpo.core.console import console

FIRST_LINE_SECONDS = 2.0  # without a terminal, `spinner` prints its first line after this time
MIN_BAR = 4  # characters
LINE_INTERVAL_SECONDS = 10.0  # without a terminal, the longest time between two lines


@contextmanager
def progress(title: str, total: int, lasting: bool = True) -> Iterator[Callable[[int, str], None]]:
    """A progress bar with `total` steps.

    The context gives a function: (steps finished since the last call, text beside the bar).

    With `lasting=False` the bar is removed at the end. Without a terminal, a line is printed every ten seconds, and
    with `lasting` also after each tenth of the steps.
    """
    if console.quiet:
        yield lambda count, text: None
    elif console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            _TextBesideBar(len(f"{title} {total}/{total} 0:00:00 |") + MIN_BAR + len("  ")),
            SpinnerColumn("line"),
            console=console,
            expand=True,
            transient=not lasting,
        ) as bars:
            task = bars.add_task(title, total=total, text="")
            yield lambda count, text: bars.update(task, advance=count, text=text)
    else:
        started, finished, tenths, latest_text = time.monotonic(), 0, 0, ""

        def line() -> str:
            return f"{title} {finished}/{total}  {time.monotonic() - started:.0f} s  {latest_text}".rstrip()

        with print_repeatedly(line, LINE_INTERVAL_SECONDS) as print_now:

            def advance(count: int, text: str) -> None:
                nonlocal finished, tenths, latest_text
                finished, latest_text = finished + count, text
                if lasting and finished * 10 // total > tenths:
                    tenths = finished * 10 // total
                    print_now()

            yield advance


class _TextBesideBar(TextColumn):
    """The text of a step, shortened where the terminal has no space for it beside `others`, the other characters."""

    def __init__(self, others: int) -> None:
        super().__init__("{task.fields[text]}")
        self.others = others

    def get_table_column(self) -> Column:
        return Column(no_wrap=True, max_width=max(1, console.width - self.others))


@contextmanager
def spinner(work: str) -> Iterator[None]:
    """A spinner with the name of the work and its seconds, removed at the end.

    Without a terminal, a line is printed after two seconds, then every ten seconds.
    """
    if console.quiet:
        yield
    elif console.is_terminal:
        columns = SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as bars:
            bars.add_task(work, total=None)
            yield
    else:
        started = time.monotonic()
        with print_repeatedly(lambda: f"{work}: {time.monotonic() - started:.0f} s", FIRST_LINE_SECONDS):
            yield


@contextmanager
def print_repeatedly(line: Callable[[], str], first: float) -> Iterator[Callable[[], None]]:
    """Print `line()` from a thread after `first` seconds, then every ten seconds.

    The context gives a function that prints `line()` immediately and restarts the ten seconds.
    """
    called, ended = threading.Event(), threading.Event()
    printing = threading.Lock()

    def print_line() -> None:
        with printing:
            console.print(Text(line()), soft_wrap=True)

    def watch() -> None:
        wait = first
        while not ended.is_set():
            if called.wait(wait):
                called.clear()
            else:
                print_line()
            wait = LINE_INTERVAL_SECONDS

    def call() -> None:
        print_line()
        called.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield call
    finally:
        ended.set()
        called.set()
        watcher.join()
