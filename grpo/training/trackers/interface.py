"""What a run asks of a tracker (W&B, trackio, TensorBoard), and the tracker that does nothing.

The recorder and the session call it; they know no service. Each service has a file of its own beside this one.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from grpo.core.errors import UserError

DEFAULT_PROJECT = "grpo"  # if neither tracking.project nor WANDB_PROJECT is set


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


def import_package(package: str) -> Any:
    """
    Raises:
        UserError: the tracker's package is not installed.
    """
    try:
        return __import__(package)
    except ImportError as error:
        raise UserError(
            f"tracking={package}: the package is not installed: pip install {package} (or tracking=none)."
        ) from error
