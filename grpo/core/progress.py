"""Progress of work: a bar where steps can be counted, a spinner where they cannot; without a terminal, plain lines.

Everything that takes longer than a second or two calls it. It does not know what the work is.
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
from rich.text import Text

from grpo.core.console import console

FIRST_LINE_SECONDS = 2.0  # without a terminal, work without steps is reported after this time
LINE_INTERVAL_SECONDS = 10.0  # without a terminal, a line is printed after this much silence


@contextmanager
def progress(title: str, total: int, lasting: bool = True) -> Iterator[Callable[[int, str], None]]:
    """A bar over `total`, advanced by calling it with (how many, what stands beside).

    A bar that is not `lasting` is removed at the end. Without a terminal: a line at each tenth if it is `lasting`, and
    one every ten seconds.
    """
    if console.quiet:
        yield lambda count, beside: None
    elif console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[beside]}"),
            SpinnerColumn("line"),
            console=console,
            expand=True,
            transient=not lasting,
        ) as bars:
            task = bars.add_task(title, total=total, beside="")
            yield lambda count, beside: bars.update(task, advance=count, beside=beside)
    else:
        began, done, tenth, latest = time.monotonic(), 0, 0, ""

        def line() -> str:
            return f"{title} {done}/{total}  {time.monotonic() - began:.0f} s  {latest}".rstrip()

        with print_repeatedly(line, LINE_INTERVAL_SECONDS) as now:

            def advance(count: int, beside: str) -> None:
                nonlocal done, tenth, latest
                done, latest = done + count, beside
                if lasting and done * 10 // total > tenth:
                    tenth = done * 10 // total
                    now()

            yield advance


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Show that work without countable steps is under way: a spinner with the seconds, removed at the end.

    Without a terminal: a line after two seconds, then every ten.
    """
    if console.quiet:
        yield
    elif console.is_terminal:
        columns = SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as bars:
            bars.add_task(what, total=None)
            yield
    else:
        began = time.monotonic()
        with print_repeatedly(lambda: f"{what}: {time.monotonic() - began:.0f} s", FIRST_LINE_SECONDS):
            yield


@contextmanager
def print_repeatedly(line: Callable[[], str], first: float) -> Iterator[Callable[[], None]]:
    """Print `line()` when called, after `first` seconds of silence, and after every ten more."""
    called, over = threading.Event(), threading.Event()
    printing = threading.Lock()

    def now() -> None:
        with printing:
            console.print(Text(line()), soft_wrap=True)

    def watch() -> None:
        wait = first
        while not over.is_set():
            if called.wait(wait):
                called.clear()
            else:
                now()
            wait = LINE_INTERVAL_SECONDS

    def call() -> None:
        now()
        called.set()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield call
    finally:
        over.set()
        called.set()
        watching.join()
