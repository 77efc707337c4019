"""The folder of a run: its lock, its settings, and resuming it from its newest checkpoint."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from grpo.config import overrides as typed_overrides
from grpo.config.schema import Config, NotSet, as_schema, check, flat, require_run, saved_settings
from grpo.core import distributed
from grpo.core.console import say, shortest, written
from grpo.core.errors import UserError, shortened
from grpo.core.files import json_object, path_fault, read, written_aside, yaml_settings
from grpo.core.redact import masked_overrides, sources, stored
from grpo.runs.checkpoints import RECORDS, newest_whole, provenance_fault, put_back, ranks_of, sharding_of, step_of
from grpo.runs.trust import require_trust, sign

SWEEP = "sweep.json"  # what the jobs of a sweep are, in its folder
ERROR = "error.txt"  # why a job of a sweep has no results, in its own
LOCK = ".lock"
PRUNING = "pruning"  # what ended a trial of a search, as results.json says it
# What `results.json` holds at least.
RESULTS: dict[str, type] = {
    "before": dict,
    "after": dict,
    "difference": dict,
    "steps": int,
    "examples": list,
    "problems": dict,
    "batch": dict,
    "device": str,
    "threads": int,
    "seed": int,
    "versions": dict,
    "seconds": dict,
}
# Holds what a resumed run wrote after its checkpoint, until its new results are written.
PREVIOUS = "previous"
LATEST = "latest"
# The settings, and the group of settings, that can be changed when a run is resumed.
FREE = ("max_steps.", "num_train_epochs.", "tracking.")
OF_COMMAND = ("resume", "trust_run")  # about one command alone: not among the overrides that a run saves


@dataclass(frozen=True)
class Label:
    """What a run is called in a tracker."""

    name: str
    group: str | None = None  # its sweep
    tags: tuple[str, ...] = ()  # its experiments


@contextmanager
def owned(folder: Path, kind: str = "run") -> Iterator[None]:
    """The folder belongs to this process meanwhile; the system ends that with the process, however it ends.

    Raises:
        UserError: it belongs to another.
    """
    lock = FileLock(folder / LOCK, timeout=0)
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
    if not (folder / LOCK).exists():
        return False
    try:
        with owned(folder):
            return False
    except UserError:
        return True


@contextmanager
def removed_if_unused(folder: Path, idle: str = LOCK) -> Iterator[None]:
    """On exit, remove `folder` if it holds nothing but a file named `idle`, and parents that are empty then, up to the
    working directory."""
    try:
        yield
    finally:
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {idle}:
            (folder / idle).unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                folder.rmdir()
                for parent in folder.absolute().parents:
                    if parent == Path.cwd() or not parent.is_relative_to(Path.cwd()):
                        break
                    parent.rmdir()


def results_of(folder: Path) -> dict[str, Any] | None:
    """The content of `results.json`; None if the run has not finished.

    Raises:
        UserError: it is damaged.
    """
    path = folder / "results.json"
    if not path.is_file():
        return None
    results = read(path, json_object)
    if missing := sorted(RESULTS.keys() - results.keys()):
        raise UserError(
            f"{path} is damaged, or was written by another version of this project: it has no {', '.join(missing)}."
        )
    for key, kind in RESULTS.items():
        if not isinstance(results[key], kind) or isinstance(results[key], bool):
            raise UserError(f"{path} is damaged: {key} is {str(results[key])[:50]!r}.")
    if not isinstance(results["after"].get("n"), int):
        raise UserError(f"{path} is damaged: after.n is {str(results['after'].get('n'))[:50]!r}.")
    if "provenance" in results and (fault := provenance_fault(results["provenance"])):
        raise UserError(f"{path} is damaged: in provenance, {fault}.")
    return results


def outcome(folder: Path) -> dict[str, Any] | str | None:
    """The results of a job of a sweep, or why it has none; None if it has not ended."""
    with suppress(UserError):  # damaged results are written again
        if results := results_of(folder):
            return results
    try:
        return (folder / ERROR).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def forget(folder: Path) -> None:
    """How a job of a sweep failed, before it is tried again."""
    (folder / ERROR).unlink(missing_ok=True)


def holds_run(folder: Path) -> bool:
    return (folder / ".hydra" / "config.yaml").exists() or (folder / "completions").exists()


def holds_sweep(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SWEEP, "multirun.yaml"))


def refuse_used(folder: Path, setting: str) -> None:
    """
    Raises:
        UserError: the folder that `setting` gives to something new holds a run or a sweep.
    """
    if holds_run(folder) or holds_sweep(folder):
        what = "run" if holds_run(folder) else "sweep"
        raise UserError(f"{shortest(folder)} holds a {what}, which is not overwritten; give another folder, {setting}.")


def save_settings(folder: Path, config: Config, overrides: Sequence[str], hydra: DictConfig | None = None) -> None:
    """Write `.hydra/`: the composed settings, what was typed, Hydra's own, and the signature of those that run code."""
    (folder / ".hydra").mkdir(exist_ok=True)
    settings = stored(asdict(config))
    sign(folder, settings)
    for name, content in (
        ("hydra", unresolved(hydra)),
        ("overrides", masked_overrides(overrides)),
        ("config", settings),
    ):
        if content is not None:
            with written_aside(folder / ".hydra" / f"{name}.yaml") as partial:
                OmegaConf.save(OmegaConf.create(content), partial)


def unresolved(hydra: DictConfig | None) -> Any:
    """Hydra's own settings as they are stored: with their interpolations, and without secrets."""
    return None if hydra is None else stored(OmegaConf.to_container(hydra, resolve=False))


def overrides_of(folder: Path) -> list[str]:
    """What was typed for the run.

    Raises:
        UserError: the folder is not that of a run.
    """
    path = folder / ".hydra" / "overrides.yaml"
    try:
        listed: Any = read(path, lambda text: OmegaConf.to_container(yaml_settings(text)))
        typed = [str(each) for each in listed]
        parsed = OverridesParser.create().parse_overrides(typed)
    except OSError as error:
        if holds_sweep(folder):
            raise UserError(
                f"{folder} is the folder of a sweep: type the sweep's own command once more, with "
                f"hydra.sweep.dir={folder}, and it does what is missing."
            ) from error
        require_run(folder)
        raise UserError(f"{path} is missing.") from error
    except OverrideParseException as error:
        raise UserError(f"{path} is damaged: {shortened(error.override)} is not a setting.") from error
    except (TypeError, HydraException) as error:
        raise UserError(f"{path} is damaged: it holds no list of settings.") from error
    for override, each in zip(typed, parsed, strict=True):
        # A run saves only its own settings; Hydra's choose launchers, log handlers and search paths, which run code.
        if any(re.match(r"hydra\b", place or "") for place in (each.key_or_group, each.package)):
            raise UserError(f"{path} was changed: {override} is a setting of Hydra's, which no run saves there.")
    return typed


def going_on(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command; with `resume=FOLDER` among them, those that resume that run.

    Raises:
        UserError: there is no run to go on with.
    """
    arguments = [_without_link(each) for each in arguments]
    if (value := _typed(arguments, "resume")) is None:
        return arguments
    if not isinstance(value, str | list | dict):  # the folder 1e5 or true, not the number or the boolean
        value = _typed_text(arguments, "resume")
    if elsewhere := [each for each in arguments if each.startswith("hydra.run.dir=")]:
        raise UserError(f"{elsewhere[0]}: with resume=FOLDER a run goes on in FOLDER; leave it out.")
    if value == "":
        raise UserError("resume=: give the folder of a run, resume=outputs/DATE/TIME.")
    if "-m" in arguments or "--multirun" in arguments or not isinstance(value, str):
        raise UserError(
            "resume: goes on with one run. A sweep goes on with its own command and hydra.sweep.dir=FOLDER, its folder."
        )
    if fault := path_fault(value):
        raise UserError(f"resume={shortened(value)}: {fault}.")
    folder = followed(Path(value).expanduser())
    saved = overrides_of(folder)
    require_trust(
        folder,
        saved_settings(folder),
        trusted=_typed(arguments, "trust_run") is True,
        again="If you trust whoever made it, add trust_run=true.",
    )
    # Overrides that the run was started with are saved in it, and the files that they name may be gone.
    left = [each for each in arguments if each not in saved or is_free(key_of(each))]
    return [*left, f"hydra.run.dir={quoted(folder)}", "hydra.mode=RUN"]


def _without_link(argument: str) -> str:
    key, _, value = argument.partition("=")
    is_link = key in ("hydra.run.dir", "hydra.sweep.dir") and os.path.islink(value)
    return f"{key}={quoted(followed(Path(value)))}" if is_link else argument


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def is_free(key: str) -> bool:
    """Whether a setting, or a group of them, can be changed when a run is resumed."""
    return f"{key}.".startswith(FREE)


def followed(folder: Path) -> Path:
    """The folder that a link such as `outputs/latest` points to."""
    return Path(shortest(folder.resolve())) if folder.is_symlink() else folder


def point_latest(folder: Path) -> None:
    """Have `outputs/latest` point to a run or a sweep in `outputs/`, if the file system supports links."""
    outputs, target = Path("outputs").resolve(), folder.resolve()
    if not target.is_relative_to(outputs):
        return
    link = outputs / f".{LATEST}.{os.getpid()}"
    with suppress(OSError):
        link.symlink_to(target.relative_to(outputs), target_is_directory=True)
        os.replace(link, outputs / LATEST)
    link.unlink(missing_ok=True)


def _typed(arguments: Sequence[str], key: str) -> Any:
    """The value of a setting among the arguments of a command; None if it is not there."""
    typed = _typed_text(arguments, key)
    return None if typed is None else typed_overrides.parse([f"{key}={typed}"])[0].value()


def _typed_text(arguments: Sequence[str], key: str) -> str | None:
    typed = [each.partition("=")[2] for each in arguments if each.lstrip("+").startswith(f"{key}=")]
    return typed[-1] if typed else None


def quoted(folder: Path) -> str:
    """A path as Hydra takes it for a value."""
    return typed_overrides.quoted(str(folder))


def settings_of(folder: Path) -> Config:
    """
    Raises:
        UserError: they are missing, damaged, or of another version.
    """
    settings = saved_settings(folder)
    try:
        return as_schema(settings, Config)
    except NotSet as error:
        raise UserError(f"{folder}: {error}") from error
    except UserError as error:
        raise UserError(
            f"{folder} was made by another version of this project, or its settings were changed: {error}"
        ) from error


def resume(folder: Path, composed: Config, overrides: Sequence[str]) -> Config:
    """The settings that the run in `folder` resumes with: its own, and those of `FREE` that were typed.

    Args:
        composed: the defaults with `overrides`, which were typed.

    Raises:
        UserError: anything else was typed, or its settings cannot be read.
    """
    config = settings_of(folder)
    here, saved = flat(asdict(composed)), flat(asdict(config))
    scalars: dict[str, Any] = {}
    tracking: dict[str, Any] = {}
    for override in overrides:
        key = key_of(override)
        below = [each for each in here | saved if f"{each}.".startswith(f"{key}.")]
        if is_free(key):
            scalars |= {each: here[each] for each in below if "." not in each}
            tracking |= {each.partition(".")[2]: here[each] for each in below if "." in each}
            continue
        changed = next((each for each in below if here.get(each) != saved.get(each)), None)
        if key not in OF_COMMAND and (changed or not below):
            name = "" if changed == key else f"{changed}="
            kept = f" (here {name}{written(sources(saved[changed]))})" if changed in saved else ""
            raise UserError(
                f"{override}: a run that is resumed keeps its settings{kept}; only max_steps, num_train_epochs and "
                "tracking can be changed. For other settings, start a new run."
            )
    config = replace(config, tracking=replace(config.tracking, **tracking), **scalars, resume=None, trust_run=False)
    check(config)
    if "num_train_epochs" in scalars and config.max_steps is not None:
        raise UserError(
            f"num_train_epochs={config.num_train_epochs}: max_steps={config.max_steps} comes first; add max_steps=null."
        )
    return config


def overrides_with(folder: Path, overrides: Sequence[str]) -> list[str]:
    """The overrides of the run in `folder`, with those that are typed to resume it."""
    typed = [each for each in overrides if key_of(each) not in OF_COMMAND]
    keys = tuple(f"{key_of(each)}." for each in typed)
    return [each for each in overrides_of(folder) if not f"{key_of(each)}.".startswith(keys)] + typed


def same_job(folder: Path, composed: Config) -> Config:
    """The settings of a job of a sweep that is typed again, and has been here before.

    Raises:
        UserError: it was another one.
    """
    saved, here = (flat(asdict(each)) for each in (settings_of(folder), composed))
    for key in here.keys() | saved.keys():
        if saved.get(key) != here.get(key):
            raise UserError(
                f"{shortest(folder)} holds a job of another sweep: {key} is {sources(saved.get(key))} there "
                f"and {sources(here.get(key))} here. Give this sweep another folder, hydra.sweep.dir=FOLDER."
            )
    return composed


def is_done(folder: Path, config: Config) -> bool:
    """Whether the run has its results, and all the steps that `config` asks for.

    Raises:
        UserError: it has more than that.
    """
    try:
        results = results_of(folder)
    except UserError:
        return False  # it was damaged since, and is written again
    if results is None:
        return False
    saved = settings_of(folder)
    if (config.max_steps, config.num_train_epochs) == (saved.max_steps, saved.num_train_epochs):
        return True
    if config.max_steps is not None and config.max_steps < results["steps"]:
        raise UserError(f"max_steps={config.max_steps}: the run has {results['steps']} steps already.")
    if not newest_whole(folder / "checkpoints")[0]:
        raise UserError(
            f"{folder} is finished and has no complete checkpoint to resume from; start a new run with more steps, and "
            "save_steps=N for one that can go on."
        )
    return config.max_steps == results["steps"]


@dataclass(frozen=True)
class Resumption:
    """Where a run resumes."""

    folder: Path
    checkpoint: Path | None  # None: at its first step
    damaged: dict[Path, str]  # newer checkpoints, and what is wrong with each

    @property
    def step(self) -> int:
        return -1 if self.checkpoint is None else step_of(self.checkpoint)


def find_checkpoint(folder: Path, config: Config) -> Resumption:
    """The newest complete checkpoint of the run in `folder`; changes nothing.

    Raises:
        UserError: the checkpoint is past the last step that `config` asks for, or of another number of processes.
    """
    checkpoint, damaged = newest_whole(folder / "checkpoints")
    found = Resumption(folder, checkpoint, damaged)
    if checkpoint:
        before, now = (
            (ranks_of(checkpoint), sharding_of(checkpoint)),
            (distributed.world_size(), distributed.strategy()),
        )
        if before != now:
            again = f"{distributed.launch_command(*before)} resume={quoted(Path(shortest(folder)))}"
            raise UserError(
                f"{shortest(folder)} was trained by {_processes(*before)}, each with random numbers of its own, and "
                f"cannot go on with {_processes(*now)}: {again}"
            )
    if config.max_steps is not None and config.max_steps < found.step:
        raise UserError(f"max_steps={config.max_steps}: the run is at step {found.step} already.")
    return found


def missing_from(folder: Path) -> list[str]:
    """The files of a finished run's policy and evaluations that are gone."""
    names = ["policy/config.json"]
    names += [f"evaluations/{when}.{kind}" for when in ("before", "after") for kind in ("json", "parquet")]
    gone = [name for name in names if not (folder / name).is_file()]
    weights = any((folder / "policy").glob("*.safetensors"))
    return gone if weights else ["policy/*.safetensors", *gone]


def to_complete(folder: Path, config: Config) -> Resumption | None:
    """Where a finished run resumes to write missing files again; None if none is missing.

    Raises:
        UserError: no checkpoint of its last step is left.
    """
    if not (gone := missing_from(folder)):
        return None
    results, found = results_of(folder), find_checkpoint(folder, config)
    assert results is not None
    if found.step != results["steps"]:
        raise UserError(
            f"{shortest(folder)} is finished, but {', '.join(gone)} is missing, and there is no checkpoint of step "
            f"{results['steps']} to write it from. To run it again: python -m grpo.reproduce {shortest(folder)}"
        )
    say(f"Missing, and written again: {', '.join(gone)}.")
    return found


def cut_back(found: Resumption) -> None:
    """Move what the run wrote after its checkpoint to `previous/`.

    Results are moved first: a process that is killed in between leaves an unfinished run, which can be resumed.
    """
    folder, checkpoint = found.folder, found.checkpoint
    try:
        if results_of(folder) is not None:
            discard_previous(folder)  # it is older than these results
    except UserError as error:
        say(f"{error} It is written again.")
    for name in ("results.json", "report.html", "evaluations/after.json", "evaluations/after.parquet"):
        set_aside(folder, name)
    (folder / ERROR).unlink(missing_ok=True)
    for each, wrong in found.damaged.items():
        aside = each.rename(each.with_name(f"damaged-{each.name}"))
        say(f"{each.name} is damaged ({wrong}); it is left out, as {shortest(aside)}.")
    for path in (*folder.glob("completions/step_*.parquet"), *folder.glob("evaluations/step_*")):
        step = re.fullmatch(r"step_(\d+)", path.stem)
        if step and int(step[1]) > found.step:
            set_aside(folder, str(path.relative_to(folder)))
    for name in RECORDS:
        if name != "provenance.json":  # it also records later sessions
            set_aside(folder, name)
    if gone := put_back(checkpoint, folder):
        say(f"{len(gone)} files of completions/ are gone, {gone[0]} the first; they are not made again.")
    if checkpoint:
        say(f"Resuming from step {found.step}.")
    else:
        none = "No complete checkpoint is left" if found.damaged else "It has no checkpoint yet"
        say(f"{none}: it starts at its first step.")


def set_aside(folder: Path, name: str) -> None:
    """Move a file or a folder of a run to `previous/`; if one of its name is there already, delete it instead."""
    path, aside = folder / name, folder / PREVIOUS / name
    if aside.exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    elif path.exists():
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.rename(aside)


def discard_previous(folder: Path) -> None:
    """Delete what was moved to `previous/`, once new results are written."""
    if (folder / PREVIOUS).is_dir():
        shutil.rmtree(folder / PREVIOUS)


def _processes(count: int, sharding: str) -> str:
    return f"{count} process{'es' * (count > 1)}" + (f" with {sharding}" if sharding != "ddp" else "")


def sweep_of(folder: Path) -> dict[str, Any]:
    """What is on record of the sweep that a run is a job of; empty where there is none."""
    try:
        sweep = read(folder.parent / SWEEP, json_object)
        return {job["folder"]: sweep | {"name": job["name"]} for job in sweep["jobs"]}.get(folder.name, {})
    except (OSError, UserError, KeyError, TypeError):
        return {}


def command_of(folder: Path) -> str | None:
    """What was typed for the sweep that a run is a job of."""
    return sweep_of(folder).get("command")


def run_name(folder: Path) -> str:
    """A run or a sweep is called by its folder: its date and time."""
    return "-".join(folder.absolute().parts[-2:])


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
    return f"{distributed.launch_command()} {shlex.quote(f'resume={quoted(Path(shortest(folder)))}')}"
