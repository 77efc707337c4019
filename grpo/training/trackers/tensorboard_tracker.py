"""Tracking with TensorBoard: event files in the run directory.

`grpo.training.tracking` builds it.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.config.schema import TrackingConfig
from grpo.runs.labels import RunLabel
from grpo.training.trackers.interface import import_package


class TensorBoardTracker:
    """Event files in the folder `tensorboard` of the run directory."""

    id: str | None = None

    def __init__(
        self, config: TrackingConfig, settings: dict[str, Any], out: Path, label: RunLabel, id: str | None
    ) -> None:
        import_package("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.new_writer = functools.partial(SummaryWriter, str(out / "tensorboard"))
        self.writer = self.new_writer()
        self.writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        self.writer.close()
        self.writer = self.new_writer(purge_step=0)  # hide the points of before, which follow again
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

    def summarize(self, figures: dict[str, float], headline: str) -> None:
        self.writer.add_text("headline", headline)
        self.writer.add_text("summary", "\n".join(f"    {name}: {value}" for name, value in figures.items()))

    def finish(self, exit_code: int) -> None:
        self.writer.close()

    def abandon(self) -> None: ...
