"""Progress of work: a bar for steps that can be counted, a spinner for other work; plain lines without a terminal.
`importing` is the spinner for imports, without garbage collection.

Commands, training and evaluation call it around work that takes longer than a second or two. It does not know what the
work is.
"""

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from grpo.core.console import console

FIRST_LINE_SECONDS = 2.0  # without a terminal, `spinner` prints its first line after this time
LINE_INTERVAL_SECONDS = 10.0  # without a terminal, the longest time between two lines


class Bar:
    """A progress bar; this one shows nothing."""

    def __call__(self, count: int, text: str, phase: str = "") -> None:
        """Advance by `count`, and show `text` below the bar and the `phase` of the current step beside it."""

    def show_above(self, block: RenderableType) -> None:
        """Show a block above the bar, in place of the last one; without a terminal it is printed."""


@contextmanager
def progress(title: str, total: int, lasting: bool = True, unit: str = "") -> Iterator[Bar]:
    """A progress bar with `total` steps, which are counted in `unit`, a word in the plural.

    With `lasting=False` the bar is removed at the end. Without a terminal, a line is printed every ten seconds, and
    with `lasting` also after each tenth of the steps.
    """
    if console.quiet:
        yield Bar()
    elif console.is_interactive:
        with _DrawnBars(title, total, unit, transient=not lasting) as bars:
            yield _DrawnBar(bars)
    else:
        printed = _PrintedBar(title, total, lasting)
        with print_repeatedly(printed.line, LINE_INTERVAL_SECONDS) as printed.print_now:
            yield printed


class _DrawnBars(Progress):
    """A bar in a terminal between two blocks that are redrawn in place: one above it, and the text below it."""

    def __init__(self, title: str, total: int, unit: str, transient: bool) -> None:
        self.above: RenderableType | None = None
        super().__init__(
            TextColumn("{task.description}", markup=False),
            # Colours that differ on a terminal of 16 colours, too.
            BarColumn(bar_width=None, style="bright_black", complete_style="cyan", finished_style="green"),
            _Count(unit, table_column=Column(no_wrap=True)),
            _Time(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[phase]}", markup=False, table_column=Column(no_wrap=True)),
            SpinnerColumn("line"),
            console=console,
            expand=True,
            transient=transient,
        )
        self.task_id = self.add_task(title, total=total, text="", phase="")

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.above is not None:
            yield self.above
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if text := task.fields["text"]:
                yield Text(text)


class _DrawnBar(Bar):
    def __init__(self, bars: _DrawnBars) -> None:
        self.bars = bars

    def __call__(self, count: int, text: str, phase: str = "") -> None:
        self.bars.update(self.bars.task_id, advance=count, text=text, phase=phase)

    def show_above(self, block: RenderableType) -> None:
        self.bars.above = block
        self.bars.refresh()


class _PrintedBar(Bar):
    """A bar without a terminal: lines. `print_now` prints one immediately."""

    print_now: Callable[[], None]

    def __init__(self, title: str, total: int, lasting: bool) -> None:
        self.title, self.total, self.lasting = title, total, lasting
        self.started, self.finished, self.tenths, self.text = time.monotonic(), 0, 0, ""

    def line(self) -> str:
        return (
            f"{self.title} {self.finished}/{self.total}  {time.monotonic() - self.started:.0f} s  {self.text}".rstrip()
        )

    def __call__(self, count: int, text: str, phase: str = "") -> None:
        self.finished, self.text = self.finished + count, ", ".join(filter(None, (phase.strip(), text)))
        if self.lasting and self.finished * 10 // self.total > self.tenths:
            self.tenths = self.finished * 10 // self.total
            self.print_now()

    def show_above(self, block: RenderableType) -> None:
        console.print(block)


class _Count(ProgressColumn):
    """The steps that are finished, of all steps, with their unit."""

    def __init__(self, unit: str, table_column: Column) -> None:
        super().__init__(table_column)
        self.unit = unit

    def render(self, task: Task) -> Text:
        total = f"{task.total:.0f}"
        return Text(f"{task.completed:{len(total)}.0f}/{total} {self.unit}".rstrip(), style="progress.download")


class _Time(ProgressColumn):
    """The time that is left, in words; after the last step, the time that all steps took."""

    max_refresh = 0.5  # seconds, as rich's own column: the estimate does not jump

    def render(self, task: Task) -> Text:
        if task.finished and task.finished_time is not None:
            return Text(f"in {_minutes(task.finished_time)}", style="progress.elapsed")
        left = task.time_remaining
        return Text("" if left is None else f"{_minutes(left)} left", style="progress.remaining")


def _minutes(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any: `0:09`, `1:02:03`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def spinner(work: str) -> Iterator[None]:
    """A spinner with the name of the work and its seconds, removed at the end.

    Without a terminal, a line is printed after two seconds, then every ten seconds.
    """
    if console.quiet:
        yield
    elif console.is_interactive:
        columns = SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as bars:
            bars.add_task(work, total=None)
            yield
    else:
        started = time.monotonic()
        with print_repeatedly(lambda: f"{work}: {time.monotonic() - started:.0f} s", FIRST_LINE_SECONDS):
            yield


@contextmanager
def importing(libraries: str) -> Iterator[None]:
    """`spinner` while libraries are imported, without garbage collection, which takes a quarter of that time.

    PyTorch, Transformers and TRL create a million objects at import and no garbage. Later collections leave out all
    objects that exist then, until `free_memory` at the end of a job.
    """
    modules, collects = len(sys.modules), gc.isenabled()
    if gc.get_freeze_count():  # the libraries are left out already, so this is quick, and garbage is not frozen
        gc.collect()
    with spinner(f"importing {libraries}"):
        gc.disable()
        try:
            yield
        finally:
            if len(sys.modules) > modules:
                gc.freeze()
            if collects:
                gc.enable()


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
