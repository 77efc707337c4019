"""Checkpoints from which a run resumes as if it had never stopped.

Replaces, in transformers 5.23 (TRL 1.16 inherits them from `transformers.Trainer`):
- `_save_checkpoint`, `_get_output_dir`: a checkpoint is complete or absent, and holds what a run is in the middle of.
- `_load_from_checkpoint`, `_load_optimizer_and_scheduler`, `_load_scaler`, `_load_rng_state`: a damaged file ends in
  one line that names it.
- `_issue_warnings_after_load`: other weights than the policy's are refused; transformers only warns.
- `_get_train_sampler` (TRL): the order of prompts depends on seed and epoch alone.
"""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from datasets import Dataset
from rich.text import Text
from safetensors import SafetensorError
from torch.utils.data import Sampler as IndexSampler
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import rotate_checkpoints

from grpo.core import distributed
from grpo.core.console import say
from grpo.core.device import is_out_of_memory
from grpo.core.errors import UserError, first_line
from grpo.core.paths import display_path
from grpo.runs.checkpoints import CHECKPOINT_PREFIX, atomic_checkpoint, run_state_file, save_snapshot, temporary_folder
from grpo.runs.run_dir import RunDir
from grpo.training.base import BaseTrainer
from grpo.training.callbacks import OnTrainBegin

# Files of a checkpoint that hold weights.
WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")


class CheckpointingMixin(BaseTrainer):
    """The part of `Trainer` that writes checkpoints and resumes from them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._aside: Path | None = None  # where a checkpoint is being written

    def go_on(self, checkpoint: Path, steps: int) -> None:
        """Train up to `steps` from a complete checkpoint of this run.

        Raises:
            UserError: a file of the checkpoint does not hold what it should.
        """
        own = run_state_file(checkpoint)

        def restore() -> None:
            with reading(own):
                self._restore(state)

        with reading(own):
            state = torch.load(own, weights_only=True)
            finished = int(state["global_step"]) >= steps or state["recorder"]["stopped_by"]
        with reading(checkpoint / "trainer_state.json"):
            reached = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if finished:
            self._load_from_checkpoint(str(checkpoint))
            self.state = reached
            restore()
        else:
            self.add_callback(OnTrainBegin(restore))
            self.train(resume_from_checkpoint=str(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        weights = [path for name in WEIGHTS for path in sorted(folder.glob(name))]
        with reading(*weights or [folder / WEIGHTS[0]]):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint with other weights; transformers only warns."""
        tensors = dict(self.model.state_dict(keep_vars=True))
        loaded = {id(tensor) for name, tensor in tensors.items() if name not in load_result.missing_keys}
        missing = [name for name in load_result.missing_keys if id(tensors.get(name)) not in loaded]  # except tied ones
        if missing or load_result.unexpected_keys:
            raise ValueError(f"not the weights of this policy: {[*missing, *load_result.unexpected_keys][0]}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        folder = Path(checkpoint or "")
        if (schedule := folder / "scheduler.pt").is_file() and not self.is_deepspeed_enabled:
            with reading(schedule):  # read first, so that a later failure is the optimizer's
                self.lr_scheduler.load_state_dict(torch.load(schedule, weights_only=True))
        with reading(folder / "optimizer.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading(Path(checkpoint or "") / "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        suffix = f"_{distributed.rank()}" if distributed.world_size() > 1 else ""
        with reading(Path(checkpoint or "") / f"rng_state{suffix}.pth"):
            super()._load_rng_state(checkpoint)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> IndexSampler:
        return Shuffled(super()._get_train_sampler(dataset))

    def save(self) -> None:
        self._save_checkpoint(self.model, None)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._aside) if self._aside else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = Path(self.args.output_dir) / f"{CHECKPOINT_PREFIX}{self.state.global_step}"
        try:
            with ExitStack() as sealing:
                failure = None
                try:
                    if distributed.is_main_process():
                        sealing.enter_context(atomic_checkpoint(checkpoint))
                except OSError as error:
                    failure = error
                all_succeed(failure)
                self._aside = temporary_folder(checkpoint)
                self._write_checkpoint(model, trial, self._aside / checkpoint.name)
        except (OSError, SafetensorError) as error:
            say(
                Text(
                    f"No checkpoint of step {self.state.global_step}: it could not be written ({first_line(error)}). "
                    "Training goes on, and earlier checkpoints stay.",
                    style="yellow",
                )
            )
        else:
            if distributed.is_main_process():
                rotate_checkpoints(self.args.output_dir, self.args.save_total_limit)
        finally:
            self._aside = None

    def _write_checkpoint(self, model: Any, trial: Any, folder: Path) -> None:
        """This process's part.

        Raises:
            OSError: any of the processes could not write its own.
        """
        failure = None
        try:
            super()._save_checkpoint(model, trial)
            torch.save(self._run_state(), run_state_file(folder))
            if distributed.is_main_process():
                save_snapshot(RunDir(self.recorder.out), folder)
        except (OSError, SafetensorError, RuntimeError) as error:
            # What torch.save raises when a disk is full has no type of its own.
            if isinstance(error, RuntimeError) and not re.search("inline_container|PytorchStreamWriter", str(error)):
                raise
            failure = error
        all_succeed(failure)

    def _run_state(self) -> dict[str, Any]:
        under_way = self._step % (self.args.steps_per_generation * self.num_iterations)
        return {
            "global_step": self.state.global_step,
            "step": self._step,
            "inputs": self._buffered_inputs if under_way else None,
            "unscored": self._unscored,
            "metrics": dict(self._metrics["train"]),
            "logs": {name: kept for name, kept in _plain(self._logs).items() if name != "prompt"},  # nobody reads it
            "loss": self._tr_loss,
            "last_logged": self._globalstep_last_logged,
            "recorder": self.recorder.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._step, self._buffered_inputs, self._unscored = state["step"], state["inputs"], state["unscored"]
        self._metrics["train"].update(state["metrics"])
        logs: dict[str, Any] = self._logs
        for name, kept in state["logs"].items():
            if isinstance(kept, dict):
                for column, values in kept.items():
                    logs[name][column].extend(values)
            else:
                logs[name].extend(kept)
        self._tr_loss = state["loss"].to(self.args.device)
        self._globalstep_last_logged = state["last_logged"]
        self.recorder.restore(state["recorder"])


class Shuffled(IndexSampler):
    """TRL's sampler with an order that hangs on the seed and the epoch alone, not on the epochs drawn before."""

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.epoch = sampler, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator.manual_seed(self.sampler.seed + self.epoch)
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


@contextmanager
def reading(*files: Path) -> Iterator[None]:
    """Turn what a loader raises into a message that names the file of the checkpoint.

    The manifest is verified before, so only a file that was changed together with it fails here.

    Raises:
        UserError: one of `files` does not hold what it should.
    """
    try:
        yield
    except Exception as error:  # a loader can raise anything
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        names = " or ".join(file.name for file in files)
        why = first_line(error)
        if isinstance(error, UnpicklingError):
            why = "it is damaged, or holds code, which is not run"
        raise UserError(
            f"{display_path(files[0].parent)}: {names} does not hold what a checkpoint of this run does ({why}). "
            f"Delete "
            "that folder to resume from the checkpoint before it."
        ) from error


def all_succeed(failure: Exception | None) -> None:
    """
    Raises:
        OSError: this process failed, or another did.
    """
    if failures := [each for each in distributed.gather_objects(failure and first_line(failure)) if each]:
        raise OSError(failures[0]) from failure


def _plain(content: Any) -> Any:
    """Dictionaries and deques as what torch.load takes from a file without trusting it."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    return list(content) if isinstance(content, deque) else content
