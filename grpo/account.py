"""What is said of a sweep while it runs: how long it will take, and what becomes of its jobs."""

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from grpo.console import duration, printable, shortest, with_unit
from grpo.folder import forget, is_done, outcome
from grpo.jobs import Job
from grpo.launching import LOOK

FIRST = 2  # seconds of steps that tell how long the others take
EARLIER = 100  # runs that are looked through for how long a step takes


class Account:
    """What becomes of jobs, read from what they write: a line for each that ends, and a bar over the steps of all."""

    def __init__(self, jobs: Sequence[Job], total: int) -> None:
        self.jobs, self.total = jobs, total  # of a search they are fewer at first
        self.terminal = Console(highlight=False)
        self.untold = False  # whether it is still to be said how long it will take
        self.trouble = ""  # what the launcher said when it gave up
        self.ended: set[Path] = set()
        self.at_first: float | None = None  # the share of the work that was done before
        self.since: tuple[float, float] | None = None  # when the first step was seen, and the share then

    def say(self, text: str) -> None:
        self.terminal.print(Text(printable(text)), soft_wrap=True)

    @contextmanager
    def kept(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Of these, while they run."""
        self.trouble = ""
        self.ended |= {job.folder for job in self.jobs if is_done(job.folder, job.config)}
        for job in jobs:
            if job.folder not in self.ended:
                forget(job.folder)
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
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TimeRemainingColumn(compact=True))
        live = self.terminal.is_terminal
        with Progress(*columns, console=self.terminal, expand=True, transient=True, disable=not live) as bar:
            task = bar.add_task(f"{len(self.ended)} of {self.total} jobs", total=1)
            last = False
            while not last:
                last = over.wait(LOOK)  # what was written until then is looked at once more
                for job in jobs:
                    if job.folder not in self.ended and (end := outcome(job.folder)) is not None:
                        self.ended.add(job.folder)
                        self._line(job, in_words(end))
                share = self._share()
                seconds = self._left(share)
                if self.untold and seconds and not last:
                    self.untold = False
                    self.say(f"time    about {duration(seconds)}, by the first steps")
                if live:
                    bar.update(task, completed=share, description=f"{len(self.ended)} of {self.total} jobs")

    def _line(self, job: Job, result: str) -> None:
        seconds = self._left(self._share())
        left = f"; about {duration(seconds)} left" if seconds else ""
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


def in_words(end: dict[str, Any] | str) -> str:
    """How a job ended."""
    if isinstance(end, str):
        return f"failed: {shorten(end, 300, placeholder=' ...')}"
    after = end["after"]
    right, form = (with_unit(name, after[name]) for name in ("accuracy_strict", "strict_format"))
    seconds = sum(end["seconds"].values())
    early = f"; ended by {end['stopped_by']} after step {end['steps']}" if end["stopped_by"] else ""
    return f"{right} right, exact format {form}, {seconds:.0f} s{early}"


def last_step(folder: Path) -> int:
    """That a run has on record."""
    try:
        with (folder / "metrics.jsonl").open("rb") as lines:
            lines.seek(max(0, lines.seek(0, os.SEEK_END) - 10_000))
            return int(json.loads(lines.read().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError, KeyError):  # nothing yet, or a line that is being written
        return 0


def how_long(jobs: Sequence[Job], parallel: int, stated: float | None) -> str | None:
    """What all of `jobs` will take, by a `stated` time a step or by a run that has ended; None where neither tells."""
    seconds, source = [], ""
    if stated:
        start, seconds = 0.0, [stated * (job.steps() or 0) for job in jobs]
        source = f"{stated:g} s a step, as hydra.sweeper.step_seconds says"
    elif earlier := earlier_run(jobs[0]):
        folder, results = earlier
        phases, batch = results["seconds"], results["batch"]
        completions = batch["num_generations"] * batch["prompts_per_step"]
        step = results["train_seconds"] / max(1, results["steps"])
        apart = sum(phases.values()) - phases["train"] - phases["start"]
        start, problems = phases["start"], results["problems"]["train"]
        seconds = [apart + (job.steps(problems) or 0) * step * job.completions / completions for job in jobs]
        source = f"{step:.2g} s a step of {completions} completions, as in {shortest(folder)}"
    if not seconds or not all(seconds):
        return None
    whole = start + max(sum(seconds) / parallel, *seconds)
    return f"about {duration(whole)}, by {source}"


def earlier_run(job: Job) -> tuple[Path, dict[str, Any]] | None:
    """The newest finished run of the same policy on the same data, here or below outputs/."""
    places = [*job.folder.parent.glob("*/results.json"), *Path("outputs").glob("*/*/results.json")]
    places += Path("outputs").glob("sweeps/*/*/*/results.json")
    for path in sorted(places, key=lambda path: -path.stat().st_mtime)[:EARLIER]:
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            settings = results["provenance"]["settings"]
            same = all(settings[key] == getattr(job.config, key) for key in ("device", "max_completion_length", "bf16"))
            same = same and settings["model"]["path"] == job.config.model.path
            if same and settings["data"]["name"] == job.config.data.name and results["steps"]:
                return path.parent, results
        except (OSError, ValueError, KeyError, TypeError):  # of another version, or damaged: it tells nothing
            continue
    return None
