"""What a run asks of a tracker (W&B, trackio, TensorBoard), and the tracker that does nothing.

The recorder and the session call it; they know no service. Each service has a file of its own beside this one.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from grpo.core.errors import UserError

DEFAULT_PROJECT = "grpo"  # if neither tracking.project nor WANDB_PROJECT is set


class Tracker(Protocol):
    """A destination of curves and tables in addition to the run directory."""

    @property
    def id(self) -> str | None:
        """The tracker's id of this run, with which a resumed run continues its curves."""

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        """Log those of `rows`, (metrics, step) of metrics.jsonl of a resumed run, that the tracker does not have."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add a point to each curve."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Show a table."""

    def alert(self, title: str, message: str, step: int) -> None:
        """Notify the user."""

    def summarize(self, figures: dict[str, float], headline: str) -> None:
        """Store the final figures of the run, and the sentence about them on its page."""

    def finish(self, exit_code: int) -> None:
        """Close the run."""


class Service(Tracker, Protocol):
    """A tracker that talks to a service and can fail."""

    def abandon(self) -> None:
        """Release the service after it has failed, without waiting for it."""


class NoTracker:
    """The tracker of `tracking=none`, and of every process but the main one."""

    id: str | None = None

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None: ...

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None: ...

    def alert(self, title: str, message: str, step: int) -> None: ...

    def summarize(self, figures: dict[str, float], headline: str) -> None: ...

    def finish(self, exit_code: int) -> None: ...


def import_package(package: str) -> Any:
    """The module of a tracker's package.

    Raises:
        UserError: the package is not installed.
    """
    try:
        return __import__(package)
    except ImportError as error:
        raise UserError(
            f"tracking={package}: the package is not installed: pip install {package} (or tracking=none)."
        ) from error
