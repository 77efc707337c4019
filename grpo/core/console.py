"""What a person sees: plain lines, progress bars, and the tables at the end. Everything but bars goes to train.log too.

Text of questions and completions is shown as it is, never as console markup. In a terminal, lines wrap at spaces; paths
and commands stay in one piece, so that they can be copied.
"""

import io
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any
from unicodedata import category

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

log = logging.getLogger("grpo")
console = Console(highlight=False)

TAG = re.compile(r"</?(?:reasoning|answer)>")
# A command to copy: a program and its arguments (flags, paths, key=value, quoted text).
QUOTED = r"""(?:'[^'\n]*'|"[^"\n]*")"""
ARGUMENT = rf"(?:-{{1,2}}\w[\w-]*(?: \d+)?|[^\s='\"]*=(?:{QUOTED}|\S*)|{QUOTED}|[^\s'\"]*/\S*)"
COMMAND = re.compile(
    rf"(?:(?:python|torchrun|accelerate launch)(?: {ARGUMENT})*? -m [\w.]+|wandb sync|pip install \S+|ssh)"
    rf"(?: {ARGUMENT})*"
)
GLUE = "\ue000"  # stands for a space at which no line may break; printed text never contains it
FIRST_SECONDS = 2.0  # without a terminal, work without steps is reported after this time
QUIET_SECONDS = 10.0  # without a terminal, a line is printed after this much silence
# Characters that may have to be escaped, and the Unicode categories that are.
NOT_PLAIN = re.compile(r"[^\n\t -~]+")
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


class RunLog(logging.FileHandler):
    """`train.log`: holds its records until the run directory belongs to the run, then writes them and what follows."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", delay=True)
        self.held: list[logging.LogRecord] | None = []

    def _open(self) -> TextIOWrapper:
        # A link in its place must not have another file written to.
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW, 0o666)

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)

    def emit(self, record: logging.LogRecord) -> None:
        if self.held is None:
            super().emit(record)
        else:
            self.held.append(record)

    def begin(self) -> None:
        """Open the file and write the records that were held.

        Raises:
            OSError: it cannot be opened.
        """
        if self.held is None:
            return
        self.stream = self._open()
        held, self.held = self.held, None
        for record in held:
            super().emit(record)


def begin_log() -> None:
    """Open `train.log`; later records are written to it at once."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog):
            handler.begin()


def say(message: RenderableType) -> None:
    """Print to the terminal, and without colours to the log."""
    show(message, console)
    plain = io.StringIO()
    show(message, Console(file=plain, width=100, highlight=False))
    log.info(plain.getvalue().rstrip("\n"))


def show(message: RenderableType, to: Console) -> None:
    """Print text, a table or facts; a path longer than a line is not cropped."""
    if isinstance(message, str | Text):
        style = message.style if isinstance(message, Text) else ""
        text = Text(printable(str(message)), style)
        text = Text("\n").join(wrapped(text, to.width)) if to.is_terminal else text
        to.print(text, soft_wrap=True)
    else:
        to.print(message, crop=False)


def wrapped(text: Text, width: int) -> list[Text]:
    """Lines of at most `width` cells, broken at spaces only; the rest of an indented line is indented as well."""
    found = []
    for line in text.split("\n", allow_blank=True):
        indent = len(line.plain) - len(line.plain.lstrip(" "))
        body = line[indent:]
        body.plain = COMMAND.sub(lambda command: command[0].replace(" ", GLUE), body.plain)
        body.overflow = "ignore"  # what is longer than a line stays in one piece
        for part in body.wrap(console, max(20, width - indent)):
            part.rstrip()
            part.plain = part.plain.replace(GLUE, " ")
            found.append(Text(" " * indent, text.style) + part)
    return found


def error_message(error: object) -> str:
    """A message for stderr: in a terminal it is wrapped as `say` wraps."""
    terminal, text = Console(stderr=True), printable(str(error))
    if not terminal.is_terminal:
        return text
    return "\n".join(line.plain for line in wrapped(Text(text), terminal.width))


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

        with repeated(line, QUIET_SECONDS) as now:

            def advance(count: int, beside: str) -> None:
                nonlocal done, tenth, latest
                done, latest = done + count, beside
                if lasting and done * 10 // total > tenth:
                    tenth = done * 10 // total
                    now()

            yield advance


@contextmanager
def doing(what: str) -> Iterator[None]:
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
        with repeated(lambda: f"{what}: {time.monotonic() - began:.0f} s", FIRST_SECONDS):
            yield


@contextmanager
def repeated(line: Callable[[], str], first: float) -> Iterator[Callable[[], None]]:
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
            wait = QUIET_SECONDS

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


def facts(lines: dict[str, str]) -> RenderableType:
    """Names and what is to be said of each, the latter wrapped in a column of its own."""
    return _Facts(lines)


def heading(lines: dict[str, str]) -> RenderableType:
    """The header of a run or a sweep: as `facts`, but without a terminal each fact is one line."""
    return _Facts(lines, column=8, wrapped_in_terminal_only=True)


@dataclass(frozen=True)
class _Facts:
    lines: dict[str, str]
    column: int | None = None  # where values begin; else two cells after the longest name
    wrapped_in_terminal_only: bool = False

    def __rich_console__(self, to: Console, options: ConsoleOptions) -> RenderResult:
        lines = {printable(name): printable(value) for name, value in self.lines.items()}
        column = self.column or max(map(cell_len, lines), default=0) + 2
        for name, value in lines.items():
            label = name + " " * (column - cell_len(name))
            text = Text(value)
            unwrapped = self.wrapped_in_terminal_only and not to.is_terminal
            for line in [text] if unwrapped else wrapped(text, max(20, options.max_width - column)):
                line.no_wrap, line.overflow = True, "ignore"
                yield Text(label, no_wrap=True, overflow="ignore") + line
                label = " " * column


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
    """Two evaluations of the same problems, and what the second has over the first, as returned by `compare`."""
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
    """`text` with invisible characters, which a terminal or a browser may obey, escaped as `\\x1b` or `\\u202e`.

    These are control characters except line break and tab, format characters (bidirectional or of zero width), line and
    paragraph separators, and lone surrogates.
    """
    return NOT_PLAIN.sub(lambda found: "".join(map(_escaped, found[0])), text)


def _escaped(character: str) -> str:
    if category(character) not in INVISIBLE:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def valid(text: str) -> str:
    """`text` as UTF-8 can carry it: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def tinted(completion: str) -> Text:
    """A completion with its tags in colour."""
    text = Text(printable(completion).strip("\n"))
    text.highlight_regex(TAG, style="cyan")
    return text
