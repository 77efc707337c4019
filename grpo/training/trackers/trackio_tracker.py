"""Tracking with trackio: a local database and its dashboard.

`grpo.training.tracking` builds it; only this file imports trackio.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.config.schema import TrackingConfig
from grpo.core.console import log
from grpo.core.errors import UserError, first_line
from grpo.core.text import printable
from grpo.runs.labels import RunLabel
from grpo.training.trackers.interface import DEFAULT_PROJECT, import_package


class TrackioTracker:
    """A run of its own in trackio's project, on this machine."""

    def __init__(
        self, config: TrackingConfig, settings: dict[str, Any], out: Path, label: RunLabel, id: str | None
    ) -> None:
        self.trackio = import_package("trackio")
        # It would print six lines about itself, and each alarm a second time.
        for module in (self.trackio, self.trackio.run, self.trackio.utils):
            vars(module)["print"] = print_to_log
        # The jobs of a sweep have one run_name, and each job is a run of its own.
        own_name = f"{config.run_name or ''} {label.name}".strip() if label.group else config.run_name or label.name
        self.id: str | None = id or own_name
        self.run = self.trackio.init(
            project=config.project or DEFAULT_PROJECT,
            name=self.id,
            group=config.group or label.group,
            config=settings,
            resume="allow" if id else "never",
        )

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        pass  # trackio writes every row to disk immediately

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.trackio.log(metrics, step=step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        import pandas as pd

        self.trackio.log(
            {name: self.trackio.Table(dataframe=pd.DataFrame(list(rows), columns=list(columns)))}, step=step
        )

    def alert(self, title: str, message: str, step: int) -> None:
        self.trackio.alert(title, message)

    def summarize(self, figures: dict[str, float], headline: str) -> None:
        self.trackio.log(figures)

    def finish(self, exit_code: int) -> None:
        self.trackio.finish()

    def abandon(self) -> None: ...


def print_to_log(*words: object, **settings: object) -> None:
    """Write to train.log what trackio prints."""
    if text := " ".join(map(str, words)).strip():
        log.info("trackio: %s", printable(text))


def check_trackio(config: TrackingConfig) -> None:
    """Let trackio check our settings.

    Raises:
        UserError: trackio refuses the project's name.
    """
    from trackio.sqlite_storage import SQLiteStorage

    try:
        SQLiteStorage.validate_project_name(config.project or DEFAULT_PROJECT)
    except ValueError as error:
        raise UserError(f"tracking.project={config.project}: {first_line(error)}.") from error
