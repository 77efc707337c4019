"""The one place that knows W&B, trackio and TensorBoard.

Training does not hang on them: one that fails while a run trains is said once, and then left alone.
"""

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from grpo.config import TrackingConfig
from grpo.console import say, shortest
from grpo.errors import UserError, first_line

# What an unreachable service may cost a run at its start and at its end, starting W&B's own process apart.
INIT_SECONDS = 6
FINISH_SECONDS = 10
OWN_FINISH_SECONDS = 8  # what W&B gives itself of that
TAG = 64  # the most characters of a tag
# So many failures in a row, and a tracker is left alone.
FAILURES = 3


@dataclass(frozen=True)
class Label:
    """What a run is called in a tracker."""

    name: str
    group: str | None = None  # its sweep
    tags: tuple[str, ...] = ()  # its experiments


class Tracker(Protocol):
    """Where curves and tables go besides the run's folder."""

    @property
    def id(self) -> str | None:
        """By which a run that goes on finds its curves again."""

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        """What is on record of a run that goes on, (metrics, step); log what is missing there."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None: ...

    def alert(self, title: str, message: str, step: int) -> None: ...

    def summarize(self, figures: dict[str, float]) -> None: ...

    def finish(self, exit_code: int) -> None: ...


class Service(Tracker, Protocol):
    """A tracker that can fail."""

    def abandon(self) -> None:
        """Let go of it once it has failed."""


class NoTracker:
    id: str | None = None

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None: ...

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None: ...

    def alert(self, title: str, message: str, step: int) -> None: ...

    def summarize(self, figures: dict[str, float]) -> None: ...

    def finish(self, exit_code: int) -> None: ...


class WandbTracker:
    """A W&B run of its own, online when logged in, else offline. Training steps are its steps."""

    def __init__(
        self, config: TrackingConfig, settings: dict[str, Any], out: Path, label: Label, id: str | None
    ) -> None:
        import wandb

        def init(mode: Any) -> Any:
            return wandb.init(
                id=id,
                resume="allow" if id and mode == "online" else None,
                project=config.project,
                name=config.run_name or label.name,
                group=config.group or label.group,
                tags=[tag[:TAG] for tag in label.tags],
                dir=out,
                config=settings,
                mode=mode,
                reinit="finish_previous",
                settings=wandb.Settings(
                    init_timeout=INIT_SECONDS, finish_timeout=OWN_FINISH_SECONDS, silent=True, console="off"
                ),
            )

        self.table = wandb.Table
        # Tables are staged here before they are copied; the default is a folder of the user's.
        os.environ["WANDB_DATA_DIR"] = str(out / "wandb")
        why = ""
        if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
            self.run, why = init(mode), f"WANDB_MODE={mode}"
        else:
            try:
                if logged_in():
                    self.run = init("online")
                else:
                    self.run, why = init("offline"), "not logged in"
            except (wandb.Error, ValueError) as error:
                self.run, why = init("offline"), f"could not be used online ({first_line(error)})"
        if self.run.offline:
            say(f"W&B: {why}, so tracked offline. To upload: wandb sync {shortest(Path(self.run.dir).parent)}")
        elif self.run.url:
            say(f"W&B: {self.run.url}")

    @property
    def id(self) -> str:
        return str(self.run.id)

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        # An offline run is a folder of its own each time, which must hold the whole: nothing tells what reached others.
        first = self.run.starting_step if self.run.resumed else 0
        for metrics, step in rows:
            if step >= first:
                self.log(metrics, step)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.run.log(metrics, step=step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self.run.log({name: self.table(columns=list(columns), data=[list(row) for row in rows])}, step=step)

    def alert(self, title: str, message: str, step: int) -> None:
        self.run.alert(title=title, text=message, level="WARN", wait_duration=0)

    def summarize(self, figures: dict[str, float]) -> None:
        self.run.summary.update(figures)

    def finish(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)

    def abandon(self) -> None:
        import wandb

        # Else the next job would speak to the same service, and the interpreter would wait for it at its exit.
        wandb.teardown()


class TrackioTracker:
    def __init__(
        self, config: TrackingConfig, settings: dict[str, Any], out: Path, label: Label, id: str | None
    ) -> None:
        self.trackio = _needs("trackio")
        vars(self.trackio.run)["print"] = lambda *_: None  # it would print every alarm a second time
        self.id: str | None = id or config.run_name or label.name
        self.run = self.trackio.init(
            project=config.project,
            name=self.id,
            group=config.group or label.group,
            config=settings,
            resume="allow" if id else "never",
        )

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        pass  # it writes every row to the disk as it comes

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.trackio.log(metrics, step=step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        import pandas as pd

        self.trackio.log(
            {name: self.trackio.Table(dataframe=pd.DataFrame(list(rows), columns=list(columns)))}, step=step
        )

    def alert(self, title: str, message: str, step: int) -> None:
        self.trackio.alert(title, message)

    def summarize(self, figures: dict[str, float]) -> None:
        self.trackio.log(figures)

    def finish(self, exit_code: int) -> None:
        self.trackio.finish()

    def abandon(self) -> None: ...


class TensorBoardTracker:
    id: str | None = None

    def __init__(
        self, config: TrackingConfig, settings: dict[str, Any], out: Path, label: Label, id: str | None
    ) -> None:
        _needs("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.new_writer = functools.partial(SummaryWriter, str(out / "tensorboard"))
        self.writer = self.new_writer()
        self.writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        self.writer.close()
        self.writer = self.new_writer(purge_step=0)  # what was shown before is shown anew
        for metrics, step in rows:
            self.log(metrics, step)

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self.writer.add_text(
            name, "\n\n".join("    " + repr(dict(zip(columns, row, strict=True))) for row in rows), step
        )

    def alert(self, title: str, message: str, step: int) -> None:
        self.writer.add_text(f"alarm/{title}", message, step)

    def summarize(self, figures: dict[str, float]) -> None:
        self.writer.add_text("summary", "\n".join(f"    {name}: {value}" for name, value in figures.items()))

    def finish(self, exit_code: int) -> None:
        self.writer.close()

    def abandon(self) -> None: ...


def _needs(package: str) -> Any:
    try:
        return __import__(package)
    except ImportError as error:
        raise UserError(
            f"tracking={package}: the package is not installed: pip install {package} (or tracking=none)."
        ) from error


TRACKERS: dict[str, Callable[..., Service]] = {
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
    "tensorboard": TensorBoardTracker,
}


class Unfailing:
    """A tracker that training neither waits for nor hangs on.

    Its calls are made in order by a thread of their own: a service that cannot be reached is waited for at length. The
    first failure is said, and after several in a row it is left alone.
    """

    def __init__(self, name: str, tracker: Service) -> None:
        self.name, self.tracker = name, tracker
        self.said, self.failures = False, 0
        self.calls: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        # In this context, because trackio keeps its run there.
        self.thread = Thread(target=copy_context().run, args=(self._work,), daemon=True)
        self.thread.start()

    @property
    def id(self) -> str | None:
        return self.tracker.id

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        self.calls.put((self.tracker.catch_up, (rows,)))

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.calls.put((self.tracker.log, (metrics, step)))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self.calls.put((self.tracker.log_table, (name, columns, rows, step)))

    def alert(self, title: str, message: str, step: int) -> None:
        self.calls.put((self.tracker.alert, (title, message, step)))

    def summarize(self, figures: dict[str, float]) -> None:
        self.calls.put((self.tracker.summarize, (figures,)))

    def finish(self, exit_code: int) -> None:
        self.calls.put((self.tracker.finish, (exit_code,)))
        self.calls.put(None)
        self.thread.join(FINISH_SECONDS)
        if self.thread.is_alive():
            self._failed(f"it did not close within {FINISH_SECONDS} s")
        if self.failures:
            letting_go = Thread(target=self._abandon, daemon=True)
            letting_go.start()
            letting_go.join(1)

    def _work(self) -> None:
        while (item := self.calls.get()) is not None:
            call, arguments = item
            if self.failures >= FAILURES:
                continue
            try:
                call(*arguments)
                self.failures = 0
            except Exception as error:  # whatever it is, it is not the run's
                self._failed(f"{type(error).__name__}: {first_line(error)}")

    def _failed(self, why: str) -> None:
        self.failures += 1
        if not self.said:
            say(f"Tracking with {self.name} has failed ({why}). Training goes on; metrics.jsonl holds everything.")
        self.said = True

    def _abandon(self) -> None:
        with suppress(Exception):  # it has failed already, which is said
            self.tracker.abandon()


def build_tracker(
    config: TrackingConfig, settings: dict[str, Any], out: Path, label: Label | None = None, id: str | None = None
) -> Tracker:
    """The tracker of a run; `settings` is its resolved config, `id` what the tracker of the same run had before it was
    interrupted.

    Raises:
        UserError: its package is not installed.
    """
    if config.name == "none":
        return NoTracker()
    return Unfailing(config.name, TRACKERS[config.name](config, settings, out, label or Label(run_name(out)), id))


def logged_in() -> bool:
    """Whether W&B has a key, of which the service is not asked.

    Raises:
        wandb.Error: it has one that cannot be a key.
    """
    import wandb

    return wandb.login(prompt=False, verify=False)


def run_name(folder: Path) -> str:
    """A run or a sweep is called by its folder: its date and time."""
    return "-".join(folder.absolute().parts[-2:])
