"""Train a policy with GRPO and show what changed.

python -m grpo.train
python -m grpo.train rewards=no_xmlcount num_generations=8
python -m grpo.train experiment=gsm8k
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
from grpo.core.console import (
    error_message,
    quiet,
)
from grpo.core.device import free_memory
from grpo.core.errors import UserError
from grpo.core.process import guard_streams
from grpo.runs.lock import removed_if_unused
from grpo.runs.resume_arguments import going_on
from grpo.sweeps.launchers import leave_if_orphaned
from grpo.sweeps.study import pruning
from grpo.training.launch import NO_SPACE, by_itself, follow, in_its_folder

# The launchers in conf/hydra/launcher/ differ from their packages' in values alone.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def app(composed: DictConfig) -> None:
    settings = HydraConfig.get()
    out = Path(settings.runtime.output_dir)
    with hydra_job():
        if not is_multirun():
            with removed_if_unused(out):
                in_its_folder(composed, out, settings, pruning)
            return
        with quiet(), by_itself(out):
            in_its_folder(composed, out, settings, pruning)
        distributed.broadcast_run_dir(None)  # it may have failed before it was a run
        free_memory()
        leave_if_orphaned()


def start() -> None:
    if not distributed.is_main_process():
        return follow()
    Command.current.typed = sys.argv[1:]
    try:
        sys.argv[1:] = going_on(Command.current.typed)
        run_hydra_app(app, Config)
    finally:
        distributed.broadcast_run_dir(None)  # there was no run, only --help or a mistake


def main() -> None:
    guard_streams()
    try:
        distributed.init_process()
    except UserError as error:
        sys.exit(error_message(f"error: {error}"))
    with distributed.exit_without_teardown():
        by_command_line()


def by_command_line() -> None:
    try:
        with exit_with_message(Config, "Interrupted: no results of this run were written."):
            start()
    except RuntimeError as error:
        if not distributed.is_peer_failure(error):
            raise
        lost = error_message("error: another process of this run has ended, and the run with it.")
        sys.exit(lost if distributed.is_main_process() else 1)
    except (OSError, ValueError) as error:
        # Before the first job starts, only its folder and train.log are written; the logging module wraps its error in
        # a ValueError. An error without a path is about something else, unless the disk is full.
        reason = error.__cause__ or error
        of_folder = isinstance(reason, OSError) and (reason.filename or reason.errno in NO_SPACE)
        if Command.current.started or not of_folder:
            raise
        where = "hydra.sweep.dir=FOLDER" if "-m" in sys.argv or "--multirun" in sys.argv else "hydra.run.dir=FOLDER"
        message = f"error: the folder of the run cannot be written: {reason}; give another, {where}"
        sys.exit(error_message(message))


if __name__ == "__main__":
    # Under its own name, by which the processes of a sweep find what they are to run.
    from grpo import train

    train.main()
