"""The one place that knows W&B, trackio and TensorBoard.

Training does not depend on them: `check_tracking` refuses settings that a tracker cannot take before a run starts; a
tracker that fails after that costs one warning, and the run continues without it.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from queue import SimpleQueue
from secrets import token_hex
from threading import Thread
from typing import Any, Protocol

from grpo.config.schema import TrackingConfig
from grpo.core.console import say, shortest
from grpo.core.errors import UserError, first_line
from grpo.core.redact import masked_overrides
from grpo.runs.labels import Label, run_name

# What an unreachable service may cost a run at its start and at its end, starting W&B's own process apart.
INIT_SECONDS = 6
FINISH_SECONDS = 10
OWN_FINISH_SECONDS = 8  # what W&B gives itself of that
TAG = 64  # the most characters of a tag
PROJECT = "grpo"  # if neither tracking.project nor WANDB_PROJECT is set
# Synonyms of W&B's modes. A shared run ignores the step of each metric, and a run here has only one writer.
MODES = {"run": "online", "shared": "online", "dryrun": "offline"}
# So many failures in a row, and a tracker is left alone.
FAILURES = 3


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

        use_environment()
        given = os.environ.get
        name, own_id = config.run_name or given("WANDB_NAME"), given("WANDB_RUN_ID")
        if label.group:  # the jobs of a sweep share the environment, and each is a run of its own
            name, own_id = f"{name or ''} {label.name}".strip(), token_hex(4)
        tags = (*label.tags, *given("WANDB_TAGS", "").split(","))

        def init(mode: Any) -> Any:
            return wandb.init(
                id=id or own_id,
                resume="allow" if id and mode == "online" else None,
                entity=config.entity or given("WANDB_ENTITY"),
                project=wandb_project(config),
                name=name or label.name,
                group=config.group or given("WANDB_RUN_GROUP") or label.group,
                tags=[tag[:TAG] for tag in dict.fromkeys(tags) if tag],
                notes=given("WANDB_NOTES"),
                dir=out,
                config=settings,
                mode=mode,
                reinit="finish_previous",
                settings=wandb.Settings(
                    init_timeout=INIT_SECONDS, finish_timeout=OWN_FINISH_SECONDS, silent=True, console="off"
                ),
            )

        # W&B sends the command line.
        sys.argv[1:] = masked_overrides(sys.argv[1:])
        self.table = wandb.Table
        # Tables are staged here before they are copied; the default is a folder of the user's.
        os.environ["WANDB_DATA_DIR"] = str(out / "wandb")
        if not _has_cache():
            os.environ["WANDB_CACHE_DIR"] = str(out / "wandb")
        why = ""
        if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
            self.run, why = init(mode), f"WANDB_MODE={mode}"
        else:
            try:
                if logged_in():
                    self.run = init("online")
                else:
                    self.run, why = init("offline"), "not logged in"
            except Exception as error:  # the service can raise anything
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
        # The jobs of a sweep share a run_name, and each is a run of its own.
        own_name = f"{config.run_name or ''} {label.name}".strip() if label.group else config.run_name or label.name
        self.id: str | None = id or own_name
        self.run = self.trackio.init(
            project=config.project or PROJECT,
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


def check_tracking(config: TrackingConfig) -> None:
    """Refuse what the tracker cannot take, before anything is written. Contacts no service.

    Raises:
        UserError: its package is not installed, or it refuses a setting or a variable of the environment.
    """
    if config.name == "none":
        return
    _needs(config.name)
    if config.name == "wandb":
        use_environment()
        _check_wandb(config)
    if config.name == "trackio":
        from trackio.sqlite_storage import SQLiteStorage

        try:
            SQLiteStorage.validate_project_name(config.project or PROJECT)
        except ValueError as error:
            raise UserError(f"tracking.project={config.project}: {first_line(error)}.") from error


def use_environment() -> None:
    """Normalize W&B's environment variables; one that it cannot read makes it refuse all of them.

    A blank variable counts as not set, except the key: there it means that nobody is logged in.
    """
    for name, value in os.environ.items():
        if name.startswith("WANDB_") and name != "WANDB_API_KEY" and not value.strip():
            del os.environ[name]
    if mode := os.environ.get("WANDB_MODE", "").strip().lower():
        os.environ["WANDB_MODE"] = MODES.get(mode, mode)
    if tags := os.environ.get("WANDB_TAGS"):
        os.environ["WANDB_TAGS"] = ",".join(tag.strip()[:TAG] for tag in tags.split(",") if tag.strip())
    if key := os.environ.get("WANDB_API_KEY"):
        os.environ["WANDB_API_KEY"] = key.strip()  # one that comes from a file may end in a newline


def _has_cache() -> bool:
    """Whether W&B's own process can write its log into the user's cache; it would log to the terminal instead."""
    home = os.environ.get("HOME")
    cache = os.environ.get("WANDB_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    if not cache:
        return False
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(cache, os.W_OK)


def _check_wandb(config: TrackingConfig) -> None:
    """Let W&B check its environment variables and our settings of it.

    Raises:
        UserError: it refuses one of them.
    """
    import wandb

    variables = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    for name, value in sorted(variables.items()):
        try:
            wandb.Settings().update_from_env_vars({name: value})
        except (wandb.Error, ValueError) as error:
            shown = name if "KEY" in name else f"{name}={value}"
            raise UserError(f"{shown}: {_refusal(error)}. Set another value, or unset {name}.") from error
    try:
        wandb.Settings(project=config.project)
    except (wandb.Error, ValueError) as error:
        team, _, project = (config.project or "").partition("/")
        is_team = team and re.fullmatch(r"[\w.-]+", project)
        advice = f" A team has a setting of its own: tracking.entity={team} tracking.project={project}."
        raise UserError(f"tracking.project={config.project}: {_refusal(error)}.{advice if is_team else ''}") from error


def _refusal(error: Exception) -> str:
    """Why W&B refuses a value, in one line."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    return first_line(error)


def wandb_project(config: TrackingConfig) -> str:
    """The project that W&B files a run under."""
    return config.project or os.environ.get("WANDB_PROJECT") or PROJECT


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
            except Exception as error:  # a tracker can raise anything
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
    interrupted. One that cannot start costs a warning.

    Raises:
        UserError: its package is not installed.
    """
    if config.name == "none":
        return NoTracker()
    try:
        tracker = TRACKERS[config.name](config, settings, out, label or Label(run_name(out)), id)
    except UserError:
        raise
    except Exception as error:  # a tracker can raise anything
        why = f"{type(error).__name__}: {first_line(error)}"
        say(f"Tracking with {config.name} could not start ({why}). Training continues; metrics.jsonl holds everything.")
        return NoTracker()
    return Unfailing(config.name, tracker)


def logged_in() -> bool:
    """Whether W&B has a key, of which the service is not asked.

    Raises:
        wandb.Error: it has one that cannot be a key.
    """
    import wandb

    return wandb.login(prompt=False, verify=False)
