"""The terminal output of a sweep while it runs: a bar, the jobs that run, and a line for each job that ends.

Used by `runner`. It knows a job only by the files in the job's folder.
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
from grpo.sweeps.job_state import POLL_SECONDS, describe_outcome, describe_state, last_step, log_modified_at
from grpo.sweeps.jobs import Job
from grpo.tasks.answer_types import accuracy_labels_of

MIN_MEASURED_SECONDS = 2  # of training, before the remaining time is estimated
MAX_SHOWN_JOBS = 4  # running jobs below the bar


class SweepProgress:
    """The progress of a sweep, read from its jobs' files.

    Args:
        jobs: the list of the sweep's jobs, which a search appends to.
        total: the number of jobs of the complete sweep.
    """

    def __init__(self, jobs: Sequence[Job], total: int) -> None:
        self.jobs, self.total = jobs, total
        self.terminal = Console(highlight=False)
        self.estimate_pending = False  # print the remaining time after the first steps
        self.launcher_error = ""  # why the launcher stopped
        self._ended: set[Path] = set()
        self._last_line_at = time.monotonic()
        self._initial_share: float | None = None  # of the work, done before this process started
        self._first_progress: tuple[float, float] | None = None  # the time of the first progress, and the share then

    def print_line(self, text: str) -> None:
        print_message(text, self.terminal)
        self._last_line_at = time.monotonic()

    @contextmanager
    def watch(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Show these jobs while the context lasts; at its end, print a line for each that ended without a result."""
        self.launcher_error = ""
        self._ended |= {job.folder for job in self.jobs if has_all_steps(job.folder, job.config)}
        for job in jobs:
            if job.folder not in self._ended:
                clear_job_error(job.folder)
        if self._initial_share is None:
            self._initial_share = self._share_done()
        stop = threading.Event()
        thread = threading.Thread(target=self._poll, args=(jobs, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        for job in jobs:
            if job.folder not in self._ended:
                result = f"no result: its process was ended from outside. {self.launcher_error}"
                self._print_result(job, result.rstrip())

    def _poll(self, jobs: Sequence[Job], stop: threading.Event) -> None:
        """Update the bar and print the results until `stop` is set, and once after that."""
        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TimeRemainingColumn(compact=True)
        bar = Progress(*columns, SpinnerColumn("line"), console=self.terminal, expand=True)
        task = bar.add_task(self._count_done(), total=1)
        before = {job.folder: log_modified_at(job.folder) for job in jobs}
        running = self._running_jobs(jobs, before)

        def render() -> Group:
            more = [f"and {len(running) - MAX_SHOWN_JOBS} more"] if len(running) > MAX_SHOWN_JOBS else []
            lines = [printable(line) for line in (*running[:MAX_SHOWN_JOBS], *more)]
            return Group(bar, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

        live = Live(get_renderable=render, console=self.terminal, transient=True)
        with live if self.terminal.is_terminal else nullcontext():
            stopped, silence = False, FIRST_LINE_SECONDS
            while not stopped:
                stopped = stop.wait(POLL_SECONDS)
                self._print_ended(jobs)
                share, running = self._share_done(), self._running_jobs(jobs, before)
                if not stopped:
                    self._print_estimate(share)
                bar.update(task, completed=share, description=self._count_done())
                silent = time.monotonic() - self._last_line_at
                if running and not stopped and not self.terminal.is_terminal and silent >= silence:
                    silence = LINE_INTERVAL_SECONDS
                    more = f"; and {len(running) - 1} more" if len(running) > 1 else ""
                    self.print_line(f"{self._count_done()}; {running[0]}{more}")

    def _count_done(self) -> str:
        return f"{len(self._ended)} of {self.total} jobs done"

    def _print_ended(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.folder not in self._ended and (result := read_job_outcome(job.folder)) is not None:
                self._ended.add(job.folder)
                self._print_result(job, describe_outcome(result, accuracy_labels_of(job.config)))

    def _print_estimate(self, share: float) -> None:
        seconds = self._seconds_left(share)
        if self.estimate_pending and seconds:
            self.estimate_pending = False
            self.print_line(f"time    about {format_duration(seconds)}, by the first steps")

    def _running_jobs(self, jobs: Sequence[Job], before: Mapping[Path, float | None]) -> list[str]:
        """A line for each job whose log changed since `before`; if there is none, one for the first job."""
        remaining = [job for job in jobs if job.folder not in self._ended]
        started = [job for job in remaining if log_modified_at(job.folder) != before[job.folder]]
        states = {job.folder: describe_state(job) for job in started}
        states = states or {job.folder: "starting" for job in remaining[:1]}
        return [
            f"job {self.jobs.index(job) + 1}, {states[job.folder]}: {job.name}"
            for job in remaining
            if job.folder in states
        ]

    def _print_result(self, job: Job, result: str) -> None:
        seconds = self._seconds_left(self._share_done())
        remaining = f"; about {format_duration(seconds)} left" if seconds else ""
        self.print_line(f"[{self.jobs.index(job) + 1}/{self.total}] {job.name}: {result}{remaining}")

    def _seconds_left(self, share: float) -> float | None:
        """The remaining seconds by the pace since the first step; None before it can be measured, and if below 1."""
        now = time.monotonic()
        if self._first_progress is None and share > (self._initial_share or 0):
            self._first_progress = now, share
        if self._first_progress is None:
            return None
        start, start_share = self._first_progress
        if now - start < MIN_MEASURED_SECONDS or share == start_share:
            return None
        seconds = (now - start) * (1 - share) / (share - start_share)
        return seconds if seconds >= 1 else None

    def _share_done(self) -> float:
        """The share of the completions that are done; jobs not composed yet count as the mean of the others."""
        if not self.jobs:
            return 0.0
        steps = [job.steps() for job in self.jobs]
        sizes = [
            1 if count is None else count * job.completions_per_step
            for count, job in zip(steps, self.jobs, strict=True)
        ]
        finished = [
            size * (1.0 if job.folder in self._ended else min(1.0, last_step(job.folder) / count) if count else 0.0)
            for size, count, job in zip(sizes, steps, self.jobs, strict=True)
        ]
        return sum(finished) / (sum(sizes) * self.total / len(self.jobs))
