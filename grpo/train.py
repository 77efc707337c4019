"""Train a policy with GRPO and show what changed.

python -m grpo.train
python -m grpo.train rewards=no_xmlcount num_generations=8
python -m grpo.train experiment=gsm8k

A run: grpo/training/session.py, stage by stage. Its directory, start and resume: grpo/training/launch.py.
"""

import sys
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from grpo.config.application import Command, exit_with_message, hydra_job, is_multirun, run_hydra_app
from grpo.config.groups import CONF
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import error_message, quiet
from grpo.core.device import free_memory
from grpo.core.errors import UserError
from grpo.core.process import guard_streams
from grpo.runs.resume_arguments import expand_resume_arguments
from grpo.runs.run_dir import removed_if_unused
from grpo.sweeps.launchers import exit_if_orphaned
from grpo.sweeps.study import find_should_prune
from grpo.training.launch import DISK_FULL, run_in_directory, run_worker, save_error_of_job

# The files in conf/hydra/launcher/ reuse the schemas of Hydra's plugins, which have the same names. Hydra warns that
# matching by name is deprecated.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def app(composed: DictConfig) -> None:
    """One run, or one job of a sweep."""
    # `find_should_prune` is an argument because grpo.training must not import grpo.sweeps.
    hydra_config = HydraConfig.get()
    out = Path(hydra_config.runtime.output_dir)
    with hydra_job():
        if not is_multirun():
            with removed_if_unused(out):
                run_in_directory(composed, out, hydra_config, find_should_prune)
            return
        with quiet(), save_error_of_job(out):
            run_in_directory(composed, out, hydra_config, find_should_prune)
        distributed.release_workers()  # they still wait if the job failed before it was a run
        free_memory()
        exit_if_orphaned()


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
