"""The folder of a run: one owner at a time, its settings, and going on with it where it was left."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from hydra import compose as hydra_compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from grpo import ranks
from grpo.checkpoint import newest_whole, put_back, ranks_of, sharding_of, step_of
from grpo.config import Config, as_schema, configs, flat, load, readable, saved_settings
from grpo.console import say, shortest
from grpo.errors import UserError, first_line
from grpo.files import written_aside
from grpo.tracking import Label, run_name
from grpo.trust import require_trust, sign

SWEEP = "sweep.json"  # what the jobs of a sweep are, in its folder
ERROR = "error.txt"  # why a job of a sweep has no results, in its own
# What a run that goes on may be given anew, and every setting of the group.
FREE = ("max_steps", "num_train_epochs", "tracking.")


@contextmanager
def owned(folder: Path, kind: str = "run") -> Iterator[None]:
    """The folder belongs to this process meanwhile; the system ends that with the process, however it ends.

    Raises:
        UserError: it belongs to another.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{shortest(folder)} is in use by another {kind}; wait for that, or give this one another folder, "
            f"hydra.{kind}.dir=FOLDER."
        ) from error
    try:
        yield
    finally:
        lock.release()


def in_use(folder: Path) -> bool:
    """Whether a run is under way in it. Where one may start just now, asking could be in its way."""
    if not (folder / ".lock").exists():
        return False
    try:
        with owned(folder):
            return False
    except UserError:
        return True


def outcome(folder: Path) -> dict[str, Any] | str | None:
    """The results of a job of a sweep, or why it has none; None where it has not come to an end."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        assert isinstance(results, dict)
        return results
    except (OSError, ValueError):
        pass
    try:
        return (folder / ERROR).read_text(encoding="utf-8")
    except OSError:
        return None


def forget(folder: Path) -> None:
    """How a job of a sweep failed, before it is tried again."""
    (folder / ERROR).unlink(missing_ok=True)


def holds_run(folder: Path) -> bool:
    return (folder / ".hydra" / "config.yaml").exists() or (folder / "completions").exists()


def save_settings(folder: Path, config: Config, overrides: Sequence[str], hydra: DictConfig | None = None) -> None:
    """Write `.hydra/`: the composed settings, what was typed, Hydra's own, and the signature of those that run code."""
    (folder / ".hydra").mkdir(exist_ok=True)
    sign(folder, asdict(config))
    for name, content in (("hydra", hydra), ("overrides", list(overrides)), ("config", asdict(config))):
        if content is not None:
            with written_aside(folder / ".hydra" / f"{name}.yaml") as partial:
                OmegaConf.save(OmegaConf.create(content), partial)


def overrides_of(folder: Path) -> list[str]:
    """What was typed for the run.

    Raises:
        UserError: the folder is not that of a run.
    """
    path = folder / ".hydra" / "overrides.yaml"
    try:
        typed = [str(each) for each in OmegaConf.load(path)]
        parsed = OverridesParser.create().parse_overrides(typed)
    except OSError as error:
        raise UserError(_not_a_run(folder)) from error
    except (yaml.YAMLError, UnicodeDecodeError, OverrideParseException, HydraException) as error:
        raise UserError(f"{path} is damaged: {first_line(error)}.") from error
    for override, each in zip(typed, parsed, strict=True):
        # A run saves its own settings alone; Hydra's choose launchers, log handlers and search paths, which run code.
        if any(re.match(r"hydra\b", place or "") for place in (each.key_or_group, each.package)):
            raise UserError(f"{path} was changed: {override} is a setting of Hydra's, which no run saves there.")
    return typed


def _not_a_run(folder: Path) -> str:
    if (folder / "multirun.yaml").is_file():
        return (
            f"{folder} is the folder of a sweep: type the sweep's own command once more, with "
            f"hydra.sweep.dir={folder}, and it does what is missing."
        )
    return f"{folder} is not the folder of a run; give the one that the run named at its start, outputs/DATE/TIME."


def going_on(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command; with `resume=FOLDER` among them, those that go on with that run.

    Raises:
        UserError: there is no run to go on with.
    """
    if (value := _typed(arguments, "resume")) is None:
        return list(arguments)
    if elsewhere := [each for each in arguments if each.startswith("hydra.run.dir=")]:
        raise UserError(f"{elsewhere[0]}: with resume=FOLDER a run goes on in FOLDER; leave it out.")
    if value == "":
        raise UserError("resume=: give the folder of a run, resume=outputs/DATE/TIME.")
    if "-m" in arguments or "--multirun" in arguments or not isinstance(value, str | int):
        raise UserError(
            "resume: goes on with one run. A sweep goes on with its own command and hydra.sweep.dir=FOLDER, its folder."
        )
    folder = Path(str(value))
    require_trust(
        folder,
        saved_settings(folder),
        trusted=_typed(arguments, "trust_run") is True,
        again="If you trust whoever made it, add trust_run=true.",
    )
    return [*overrides_of(folder), *arguments, f"hydra.run.dir={quoted(folder)}", "hydra.mode=RUN"]


def _typed(arguments: Sequence[str], key: str) -> Any:
    """The value of a setting among the arguments of a command; None if it is not there."""
    typed = [each for each in arguments if each.lstrip("+").startswith(f"{key}=")]
    with readable():
        return OverridesParser.create().parse_override(typed[-1]).value() if typed else None


def quoted(folder: Path) -> str:
    """A path as Hydra takes it for a value."""
    text = str(folder)
    return text if re.fullmatch(r"[\w./-]+", text, re.ASCII) else json.dumps(text, ensure_ascii=False)


def settings_of(folder: Path) -> Config:
    """
    Raises:
        UserError: they are missing, damaged, or of another version.
    """
    settings = saved_settings(folder)
    try:
        return as_schema(settings, Config)
    except UserError as error:
        raise UserError(
            f"{folder} was made by another version of this project, or its settings were changed: {error}"
        ) from error


def resume(folder: Path, composed: Config) -> Config:
    """The settings that the run in `folder` goes on with: its own, and what of `FREE` was typed anew.

    Raises:
        UserError: anything else was typed, or its settings cannot be read.
    """
    saved = settings_of(folder)
    with configs(), readable():
        before = load(hydra_compose("config", overrides_of(folder)), Config)
    here, there, kept = (flat(asdict(each)) for each in (composed, before, saved))
    changed: dict[str, Any] = {key: here.get(key) for key in here | there if here.get(key) != there.get(key)}
    for key in ("resume", "trust_run"):  # of this command alone
        changed.pop(key, None)
    for key, value in changed.items():
        if not key.startswith(FREE):
            raise UserError(
                f"{key}={'null' if value is None else value}: a run that goes on keeps its settings (here "
                f"{kept.get(key)}); only max_steps, num_train_epochs and tracking can be given anew. "
                "For any other, start a new run."
            )
    tracking = {key.partition(".")[2]: value for key, value in changed.items() if key.startswith("tracking.")}
    scalars: dict[str, Any] = {key: value for key, value in changed.items() if "." not in key}
    config = replace(saved, tracking=replace(saved.tracking, **tracking), **scalars, resume=None, trust_run=False)
    if "num_train_epochs" in scalars and config.max_steps is not None:
        raise UserError(
            f"num_train_epochs={config.num_train_epochs}: max_steps={config.max_steps} comes first; add max_steps=null."
        )
    return config


def same_job(folder: Path, composed: Config) -> Config:
    """The settings of a job of a sweep that is typed again, and has been here before.

    Raises:
        UserError: it was another one.
    """
    saved, here = (flat(asdict(each)) for each in (settings_of(folder), composed))
    for key in here.keys() | saved.keys():
        if saved.get(key) != here.get(key):
            raise UserError(
                f"{shortest(folder)} holds a job of another sweep: {key} is {saved.get(key)} there and "
                f"{here.get(key)} here. Give this sweep another folder, hydra.sweep.dir=FOLDER."
            )
    return composed


def is_done(folder: Path, config: Config) -> bool:
    """Whether the run has its results, and all the steps that `config` asks for.

    Raises:
        UserError: it has more than that.
    """
    path = folder / "results.json"
    if not path.is_file():
        return False
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False  # it was damaged since, and is written again
    saved = settings_of(folder)
    if (config.max_steps, config.num_train_epochs) == (saved.max_steps, saved.num_train_epochs):
        return True
    if config.max_steps is not None and config.max_steps < results["steps"]:
        raise UserError(f"max_steps={config.max_steps}: the run has {results['steps']} steps already.")
    if not newest_whole(folder / "checkpoints")[0]:
        raise UserError(
            f"{folder} is finished and has no whole checkpoint to go on from; start a new run with more steps, and "
            "save_steps=N for one that can go on."
        )
    return config.max_steps == results["steps"]


def cut_back(folder: Path, config: Config) -> Path | None:
    """Bring what the run has written back to its newest whole checkpoint, and name that; None: to its very start.

    Raises:
        UserError: the checkpoint is past the last step that `config` asks for, or of another number of processes.
    """
    checkpoint, damaged = newest_whole(folder / "checkpoints")
    step = -1 if checkpoint is None else step_of(checkpoint)
    if checkpoint:
        before, now = ((ranks_of(checkpoint), sharding_of(checkpoint)), (ranks.world_size(), ranks.sharding()))
        if before != now:
            again = f"{ranks.launcher(*before)} resume={quoted(Path(shortest(folder)))}"
            raise UserError(
                f"{shortest(folder)} was trained by {_processes(*before)}, each with random numbers of its own, and "
                f"cannot go on with {_processes(*now)}: {again}"
            )
    if config.max_steps is not None and config.max_steps < step:
        raise UserError(f"max_steps={config.max_steps}: the run is at step {step} already.")
    for each, wrong in damaged.items():
        aside = each.rename(each.with_name(f"damaged-{each.name}"))
        say(f"{each.name} is damaged ({wrong}); it is left out, as {shortest(aside)}.")
    for path in (*folder.glob("completions/step_*"), *folder.glob("evaluations/step_*")):
        if int(path.name.removeprefix("step_").partition(".")[0]) > step:
            path.unlink()
    for path in (
        *(folder / name for name in ("results.json", "report.html", ERROR)),
        *folder.glob("evaluations/after.*"),
    ):
        path.unlink(missing_ok=True)
    if gone := put_back(checkpoint, folder):
        say(f"{len(gone)} files of completions/ are gone, {gone[0]} the first; they are not made again.")
    if checkpoint:
        say(f"Going on from step {step}.")
    else:
        say(f"{'No whole checkpoint is left' if damaged else 'It has no checkpoint yet'}: it starts at its first step.")
    return checkpoint


def _processes(count: int, sharding: str) -> str:
    return f"{count} process{'es' * (count > 1)}" + (f" with {sharding}" if sharding != "ddp" else "")


def sweep_of(folder: Path) -> dict[str, Any]:
    """What is on record of the sweep that a run is a job of; empty where there is none."""
    try:
        sweep = json.loads((folder.parent / SWEEP).read_text(encoding="utf-8"))
        return {job["folder"]: sweep | {"name": job["name"]} for job in sweep["jobs"]}.get(folder.name, {})
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def command_of(folder: Path) -> str | None:
    """What was typed for the sweep that a run is a job of."""
    return sweep_of(folder).get("command")


def label_of(folder: Path, overrides: Sequence[str]) -> Label:
    """What a run is called in a tracker: a job of a sweep by its overrides, any other by its folder."""
    experiments: Any = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group == "experiment":
            experiments = override.value() or []
    tags = tuple(map(str, [experiments] if isinstance(experiments, str) else experiments))
    sweep = sweep_of(folder)
    return Label(sweep["name"], run_name(folder.parent), tags) if sweep else Label(run_name(folder), None, tags)


def command_to_resume(folder: Path) -> str:
    return f"{ranks.launcher()} {shlex.quote(f'resume={quoted(Path(shortest(folder)))}')}"
