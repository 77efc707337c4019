"""Train a policy with GRPO and show what changed.

python -m grpo.train
python -m grpo.train rewards=no_xmlcount num_generations=8
python -m grpo.train experiment=gsm8k

From Python: `grpo.train.run(grpo.compose(["num_generations=8"]))`, docs/python-api.md.
A run: grpo/training/session.py, stage by stage. Its directory, start and resume: grpo/training/launch.py.
"""

import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from grpo.config.application import (
    Command,
    exit_with_message,
    hydra_job,
    is_multirun,
    job_overrides,
    run_hydra_app,
)
from grpo.config.composition import checked_copy, load_config, overrides_of, to_dataclass, with_absolute_paths
from grpo.config.groups import CONF
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import error_message, quiet
from grpo.core.device import free_memory
from grpo.core.errors import UserError
from grpo.core.process import guard_streams
from grpo.core.redact import mask_overrides
from grpo.runs.results import Results
from grpo.runs.resume_arguments import expand_resume_arguments
from grpo.runs.run_dir import RunDir, SweepDir, create_folder, new_run_folder, removed_if_unused, resolve_link
from grpo.sweeps.launchers import exit_if_orphaned
from grpo.sweeps.study import find_should_prune
from grpo.training.launch import DISK_FULL, Launch, run_in_directory, run_worker, save_error_of_job
from grpo.training.process import undisturbed_process

# The files in conf/hydra/launcher/ reuse the schemas of Hydra's plugins, which have the same names. Hydra warns that
# matching by name is deprecated.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")


def run(config: Config, folder: str | Path | None = None) -> Results:
    """Train the run that `config` describes, as the command does, and return its results.

    Afterwards the process is as before: its signal handlers, logging, environment, random numbers and torch settings.

    Args:
        config: from `grpo.compose`; its settings may have been changed since. With `resume`, a run is resumed.
        folder: the run directory; by default outputs/DATE/TIME in the working directory.

    Raises:
        UserError: a mistake that the user can fix; the message says how.
        StoppedBySignal: Ctrl-C or another signal came; the message names the command that resumes the run.
    """
    if not isinstance(config, Config):
        raise TypeError(f"grpo.train.run takes the Config that grpo.compose returns, not {type(config).__name__}.")
    if distributed.world_size() > 1:
        raise UserError(
            f"WORLD_SIZE={distributed.world_size()}: from Python a run has one process; for several, "
            f"{distributed.launch_command()}."
        )
    overrides, config = overrides_of(config), checked_copy(config)
    if config.resume is not None:
        if folder is not None:
            raise UserError(f"folder={str(folder)!r}: with resume a run stays in its folder; leave this out.")
        overrides = [word for word in expand_resume_arguments(overrides) if not word.startswith("hydra.")]
        folder = resolve_link(Path(config.resume).expanduser())
    out = Path(folder).expanduser() if folder is not None else new_run_folder()
    command = shlex.join(["python", "-m", "grpo.train", *mask_overrides(overrides)])
    launch = Launch(overrides, command, folder_setting="folder=FOLDER", in_python=True)
    with undisturbed_process(config.seed, RunDir(out).train_log), removed_if_unused(out):
        create_folder(out, launch.folder_setting)
        results = run_in_directory(config, out, launch)
    return Results.of(out, results)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def app(composed: DictConfig) -> None:
    """One run, or one job of a sweep."""
    hydra_config = HydraConfig.get()
    out = Path(hydra_config.runtime.output_dir)
    with hydra_job():
        if not is_multirun():
            with removed_if_unused(out):
                run_in_directory(typed_settings(composed), out, launch_of_command(hydra_config))
            return
        with quiet(), save_error_of_job(out):
            run_in_directory(typed_settings(composed), out, launch_of_command(hydra_config))
        distributed.release_workers()  # they still wait if the job failed before it was a run
        free_memory()
        exit_if_orphaned()


def typed_settings(composed: DictConfig) -> Config:
    """The settings of a new run, checked. With `resume`, only their names and types: the run has settings of its own.

    Raises:
        UserError: a setting is wrong.
    """
    if composed.get("resume") is not None:
        return with_absolute_paths(to_dataclass(composed, Config))
    return load_config(composed, Config)


def launch_of_command(hydra_config: Any) -> Launch:
    """How this command starts a run: Hydra's settings tell whether it is a job of a sweep, or a trial of a search."""
    shares = is_multirun() and hydra_config.sweeper.get("share_evaluation")
    arguments = shlex.join(mask_overrides(Command.current.arguments))
    return Launch(
        overrides=job_overrides(),
        command=f"{distributed.launch_command()} {arguments}".rstrip(),
        folder_setting="hydra.sweep.dir=FOLDER" if is_multirun() else "hydra.run.dir=FOLDER",
        hydra_config=hydra_config,
        is_job=is_multirun(),
        should_prune=find_should_prune(hydra_config),
        shared_completions=SweepDir(Path(hydra_config.sweep.dir)).shared_completions if shares else None,
    )


def main() -> None:
    """Run the command, in the main process or in a worker process of a launcher."""
    guard_streams()
    try:
        distributed.init_process()
    except UserError as error:
        sys.exit(error_message(f"error: {error}"))
    with distributed.exit_without_teardown():
        try:
            with exit_with_message(Config, "Interrupted: no results of this run were written."):
                run_main_process() if distributed.is_main_process() else run_worker()
        except RuntimeError as error:
            if not distributed.is_peer_failure(error):
                raise
            message = error_message("error: another process of this run has ended, and the run with it.")
            sys.exit(message if distributed.is_main_process() else 1)
        except (OSError, ValueError) as error:
            sys.exit(error_message(explain_unwritable_directory(error)))


def run_main_process() -> None:
    """Compose the run or the sweep from the arguments of this process, and run it."""
    Command.current.arguments = sys.argv[1:]
    try:
        sys.argv[1:] = expand_resume_arguments(Command.current.arguments)
        run_hydra_app(app, Config)
    finally:
        distributed.release_workers()  # they still wait if there was no run: --help, or a mistake


def explain_unwritable_directory(error: OSError | ValueError) -> str:
    """The message for a directory in which Hydra cannot create train.log; raises any other error again."""
    # The logging module wraps its error in a ValueError. An error without a path has another cause, unless the disk is
    # full.
    reason = error.__cause__ or error
    is_about_directory = isinstance(reason, OSError) and (reason.filename or reason.errno in DISK_FULL)
    if Command.current.started or not is_about_directory:
        raise error
    setting = "hydra.sweep.dir=FOLDER" if "-m" in sys.argv or "--multirun" in sys.argv else "hydra.run.dir=FOLDER"
    return f"error: the directory of the run cannot be written: {reason}; give another, {setting}"


if __name__ == "__main__":
    # Not as `__main__`: the processes of a sweep import `app` by the name of its module.
    from grpo import train

    train.main()
