"""The terminal output of a sweep while it runs: a bar, the jobs that run, and a line for each job that ends.

Used by `runner`. It knows of a job only what the files in the job's folder say.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from grpo.core.console import print_message
from grpo.core.progress import FIRST_LINE_SECONDS, LINE_INTERVAL_SECONDS
from grpo.core.text import format_duration, printable
from grpo.runs.results import clear_job_error, read_job_outcome
from grpo.runs.resume import has_all_steps
from grpo.sweeps.job_state import LOOK, in_words, last_step, last_written, state
from grpo.sweeps.jobs import Job

FIRST = 2  # seconds of steps that tell how long the others take
SHOWN = 4  # jobs that are shown while they run


class Account:
    """What becomes of jobs, read from what they write: a line for each that ends, and a bar over the steps of all."""

    def __init__(self, jobs: Sequence[Job], total: int) -> None:
        self.jobs, self.total = jobs, total  # of a search they are fewer at first
        self.terminal = Console(highlight=False)
        self.untold = False  # whether it is still to be said how long it will take
        self.trouble = ""  # what the launcher said when it gave up
        self.ended: set[Path] = set()
        self.latest = time.monotonic()  # when the latest line was printed
        self.at_first: float | None = None  # the share of the work that was done before
        self.since: tuple[float, float] | None = None  # when the first step was seen, and the share then

    def say(self, text: str) -> None:
        print_message(text, self.terminal)
        self.latest = time.monotonic()

    @contextmanager
    def kept(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Of these, while they run."""
        self.trouble = ""
        self.ended |= {job.folder for job in self.jobs if has_all_steps(job.folder, job.config)}
        for job in jobs:
            if job.folder not in self.ended:
                clear_job_error(job.folder)
        if self.at_first is None:
            self.at_first = self._share()
        over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(jobs, over), daemon=True)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()
        for job in jobs:
            if job.folder not in self.ended:
                self._line(job, f"no result: its process was ended from outside. {self.trouble}".rstrip())

    def _watch(self, jobs: Sequence[Job], over: threading.Event) -> None:
        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TimeRemainingColumn(compact=True)
        bar = Progress(*columns, SpinnerColumn("line"), console=self.terminal, expand=True)
        task = bar.add_task(f"{len(self.ended)} of {self.total} jobs done", total=1)
        before = {job.folder: last_written(job.folder) for job in jobs}
        running = self._running(jobs, before)

        def picture() -> Group:
            more = [f"and {len(running) - SHOWN} more"] if len(running) > SHOWN else []
            lines = [printable(each) for each in (*running[:SHOWN], *more)]
            return Group(bar, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

        live = Live(get_renderable=picture, console=self.terminal, transient=True)
        with live if self.terminal.is_terminal else nullcontext():
            last, pause = False, FIRST_LINE_SECONDS
            while not last:
                last = over.wait(LOOK)  # what was written until then is looked at once more
                for job in jobs:
                    if job.folder not in self.ended and (end := read_job_outcome(job.folder)) is not None:
                        self.ended.add(job.folder)
                        self._line(job, in_words(end))
                share, running = self._share(), self._running(jobs, before)
                seconds = self._left(share)
                if self.untold and seconds and not last:
                    self.untold = False
                    self.say(f"time    about {format_duration(seconds)}, by the first steps")
                done = f"{len(self.ended)} of {self.total} jobs done"
                bar.update(task, completed=share, description=done)
                silent = time.monotonic() - self.latest
                if running and not last and not self.terminal.is_terminal and silent >= pause:
                    pause, more = LINE_INTERVAL_SECONDS, f"; and {len(running) - 1} more" if len(running) > 1 else ""
                    self.say(f"{done}; {running[0]}{more}")

    def _running(self, jobs: Sequence[Job], before: Mapping[Path, float | None]) -> list[str]:
        """A line for each job that has written to its log since `before`; if none has, one for the first."""
        left = [job for job in jobs if job.folder not in self.ended]
        started = [job for job in left if last_written(job.folder) != before[job.folder]]
        doing = {job.folder: state(job) for job in started} or {job.folder: "starting" for job in left[:1]}
        return [
            f"job {self.jobs.index(job) + 1}, {doing[job.folder]}: {job.name}" for job in left if job.folder in doing
        ]

    def _line(self, job: Job, result: str) -> None:
        seconds = self._left(self._share())
        left = f"; about {format_duration(seconds)} left" if seconds else ""
        self.say(f"[{self.jobs.index(job) + 1}/{self.total}] {job.name}: {result}{left}")

    def _left(self, share: float) -> float | None:
        """Seconds, by the pace since the first step; None before there is one, and in the last second."""
        now = time.monotonic()
        if self.since is None and share > (self.at_first or 0):
            self.since = now, share
        if self.since is None or now - self.since[0] < FIRST or share == self.since[1]:
            return None
        seconds = (now - self.since[0]) * (1 - share) / (share - self.since[1])
        return seconds if seconds >= 1 else None

    def _share(self) -> float:
        """How much of the work is done, by completions trained on; jobs not known yet count as those that are."""
        if not self.jobs:
            return 0.0
        steps = [job.steps() for job in self.jobs]
        sizes = [1 if each is None else each * job.completions for each, job in zip(steps, self.jobs, strict=True)]
        done = [
            size * (1.0 if job.folder in self.ended else min(1.0, last_step(job.folder) / each) if each else 0.0)
            for size, each, job in zip(sizes, steps, self.jobs, strict=True)
        ]
        return sum(done) / (sum(sizes) * self.total / len(self.jobs))
