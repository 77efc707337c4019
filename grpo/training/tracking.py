"""The tracker of a run: checks that it can take our settings, and builds it.

Training does not depend on a tracker: `check_tracking` refuses settings that a tracker cannot take before a run starts;
a tracker that fails after that costs one warning, and the run continues without it. `grpo.training.session` calls both
functions, sweeps the first. Each service has a file of its own in `grpo/training/trackers/`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo.config.schema import TrackingConfig
from grpo.core.console import say
from grpo.core.errors import UserError, first_line
from grpo.runs.labels import RunLabel, run_name
from grpo.training.trackers.background import BackgroundTracker
from grpo.training.trackers.interface import NoTracker, Service, Tracker, import_package
from grpo.training.trackers.tensorboard_tracker import TensorBoardTracker
from grpo.training.trackers.trackio_tracker import TrackioTracker, check_trackio
from grpo.training.trackers.wandb_tracker import WandbTracker, check_wandb, normalize_environment

TRACKERS: dict[str, Callable[..., Service]] = {
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
    "tensorboard": TensorBoardTracker,
}


def check_tracking(config: TrackingConfig) -> None:
    """Refuse settings that the tracker cannot take, before anything is written. Contacts no service.

    Raises:
        UserError: its package is not installed, or it refuses a setting or a variable of the environment.
    """
    if config.name == "none":
        return
    import_package(config.name)
    if config.name == "wandb":
        normalize_environment()
        check_wandb(config)
    if config.name == "trackio":
        check_trackio(config)


def build_tracker(
    config: TrackingConfig, settings: dict[str, Any], out: Path, label: RunLabel | None = None, id: str | None = None
) -> Tracker:
    """The tracker of a run in the directory `out`; `NoTracker`, with a warning, if the service cannot be started.

    Args:
        settings: the resolved config of the run, which the tracker shows.
        label: names the run; by default the name of its directory.
        id: of a resumed run, the id that its tracker had before.

    Raises:
        UserError: its package is not installed.
    """
    if config.name == "none":
        return NoTracker()
    try:
        tracker = TRACKERS[config.name](config, settings, out, label or RunLabel(run_name(out)), id)
    except UserError:
        raise
    except Exception as error:  # a tracker can raise anything
        why = f"{type(error).__name__}: {first_line(error)}"
        say(f"Tracking with {config.name} could not start ({why}). Training continues; metrics.jsonl holds everything.")
        return NoTracker()
    return BackgroundTracker(config.name, tracker)
