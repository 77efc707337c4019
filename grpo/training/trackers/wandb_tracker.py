"""Tracking with Weights & Biases: a run of its own, its environment variables, and the check of its settings.

`grpo.training.tracking` builds it; only this file imports wandb. It runs in the thread of
`grpo.training.trackers.background`.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from grpo.config.schema import TrackingConfig
from grpo.core.console import say
from grpo.core.errors import UserError, first_line
from grpo.core.paths import display_path
from grpo.core.redact import mask_overrides
from grpo.runs.labels import RunLabel
from grpo.training.trackers.interface import DEFAULT_PROJECT

# What an unreachable service may cost a run at its start, without the start of W&B's own process.
INIT_SECONDS = 6
OWN_FINISH_SECONDS = 8  # of grpo.training.trackers.background.FINISH_SECONDS, for W&B itself
MAX_TAG_LENGTH = 64  # characters
# Synonyms of W&B's modes. A shared run ignores the step of each metric, and a run here has only one writer.
MODES = {"run": "online", "shared": "online", "dryrun": "offline"}


class WandbTracker:
    """A W&B run: online if logged in, else offline. Its step is the training step."""

    def __init__(
        self, config: TrackingConfig, settings: dict[str, Any], out: Path, label: RunLabel, id: str | None
    ) -> None:
        import wandb

        normalize_environment()
        sys.argv[1:] = mask_overrides(sys.argv[1:])  # W&B uploads the command line
        # W&B prepares tables in a folder of the user's, unless told otherwise.
        os.environ["WANDB_DATA_DIR"] = str(out / "wandb")
        if not _cache_is_writable():
            os.environ["WANDB_CACHE_DIR"] = str(out / "wandb")
        self.table_class = wandb.Table

        variable = os.environ.get
        name, own_id = config.run_name or variable("WANDB_NAME"), variable("WANDB_RUN_ID")
        if label.group:  # the jobs of a sweep have one environment, and each job is a run of its own
            name, own_id = f"{name or ''} {label.name}".strip(), token_hex(4)
        tags = (*label.tags, *variable("WANDB_TAGS", "").split(","))
        arguments = {
            "id": id or own_id,
            "entity": config.entity or variable("WANDB_ENTITY"),
            "project": wandb_project(config),
            "name": name or label.name,
            "group": config.group or variable("WANDB_RUN_GROUP") or label.group,
            "tags": [tag[:MAX_TAG_LENGTH] for tag in dict.fromkeys(tags) if tag],
            "notes": variable("WANDB_NOTES"),
            "dir": out,
            "config": settings,
        }
        self.run, reason = init_run(arguments, resumes=bool(id))
        if self.run.offline:
            runs = display_path(Path(self.run.dir).parents[1])  # a run that is resumed offline has several
            say(f"W&B: {reason}, so tracked offline. To upload: wandb sync {runs}/offline-run-*")
        elif self.run.url:
            say(f"W&B: {self.run.url}")

    @property
    def id(self) -> str:
        return str(self.run.id)

    def catch_up(self, rows: Sequence[tuple[dict[str, float], int]]) -> None:
        # An offline run is a new folder after each resume, and must hold all steps: W&B does not know of the others.
        first = self.run.starting_step if self.run.resumed else 0
        for metrics, step in rows:
            if step >= first:
                self.log(metrics, step)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.run.log(metrics, step=step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self.run.log({name: self.table_class(columns=list(columns), data=[list(row) for row in rows])}, step=step)

    def alert(self, title: str, message: str, step: int) -> None:
        self.run.alert(title=title, text=message, level="WARN", wait_duration=0)

    def summarize(self, figures: dict[str, float], headline: str) -> None:
        self.run.summary.update(figures | {"headline": headline})

    def finish(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)

    def abandon(self) -> None:
        import wandb

        # Otherwise the next job would use the same service process, and the interpreter would wait for it at exit.
        wandb.teardown()


def init_run(arguments: dict[str, Any], resumes: bool) -> tuple[Any, str]:
    """A W&B run, online if possible, and the reason if it is offline."""
    import wandb

    def init(mode: Any, resume: Any = None) -> Any:
        settings = wandb.Settings(
            init_timeout=INIT_SECONDS, finish_timeout=OWN_FINISH_SECONDS, silent=True, console="off"
        )
        return wandb.init(mode=mode, resume=resume, reinit="finish_previous", settings=settings, **arguments)

    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        return init(mode), f"WANDB_MODE={mode}"
    try:
        if logged_in():
            return init("online", "allow" if resumes else None), ""
        return init("offline"), "not logged in"
    except Exception as error:  # the service can raise anything
        return init("offline"), f"could not be used online ({first_line(error)})"


def normalize_environment() -> None:
    """Normalize W&B's environment variables: it refuses all of them if it cannot read one.

    A blank variable counts as not set, except the key, where it means that nobody is logged in.
    """
    for name, value in os.environ.items():
        if name.startswith("WANDB_") and name != "WANDB_API_KEY" and not value.strip():
            del os.environ[name]
    if mode := os.environ.get("WANDB_MODE", "").strip().lower():
        os.environ["WANDB_MODE"] = MODES.get(mode, mode)
    if tags := os.environ.get("WANDB_TAGS"):
        os.environ["WANDB_TAGS"] = ",".join(tag.strip()[:MAX_TAG_LENGTH] for tag in tags.split(",") if tag.strip())
    if key := os.environ.get("WANDB_API_KEY"):
        os.environ["WANDB_API_KEY"] = key.strip()  # a key read from a file may end in a newline


def _cache_is_writable() -> bool:
    """Whether W&B's own process can write its log to the user's cache; if not, it would log to the terminal."""
    home = os.environ.get("HOME")
    cache = os.environ.get("WANDB_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    if not cache:
        return False
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(cache, os.W_OK)


def check_wandb(config: TrackingConfig) -> None:
    """Let W&B check its environment variables and our settings.

    Raises:
        UserError: it refuses one of them.
    """
    import wandb

    variables = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    for name, value in sorted(variables.items()):
        try:
            wandb.Settings().update_from_env_vars({name: value})
        except (wandb.Error, ValueError) as error:
            setting = name if "KEY" in name else f"{name}={value}"
            raise UserError(f"{setting}: {_refusal(error)}. Set another value, or unset {name}.") from error
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
    return config.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT


def logged_in() -> bool:
    """Whether W&B has an API key; the service is not contacted.

    Raises:
        wandb.Error: the key has a format that no key has.
    """
    import wandb

    return wandb.login(prompt=False, verify=False)
