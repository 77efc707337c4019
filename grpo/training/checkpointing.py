"""Checkpoints inside TRL's trainer: written completely or not at all, and resumed to the last bit.

Replaces methods that `GRPOTrainer` (TRL 1.16) inherits from `transformers.Trainer` (5.23):

- `_save_checkpoint` and `_get_output_dir`: transformers writes into the final folder, so an interrupted write leaves a
  damaged checkpoint. Ours is written into a temporary folder, with the state in the middle of a rollout and copies of
  the run's records, then renamed. A full disk costs a warning.
- `_load_from_checkpoint`, `_load_optimizer_and_scheduler`, `_load_scaler`, `_load_rng_state`: wrapped, so that a
  damaged file ends in one line that names it.
- `_issue_warnings_after_load`: transformers warns about weights of another policy. Ours refuses them.

and one of `GRPOTrainer`:

- `_get_train_sampler`: the order of TRL's prompts depends on how many epochs the process has drawn. Ours depends on the
  seed and the epoch only, and with a curriculum on the steps.

The files of a checkpoint and their manifest are in `grpo.runs.checkpoints`.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
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
from grpo.rewards.reward_state import restore_reward_states, reward_states
from grpo.runs.checkpoints import CHECKPOINT_PREFIX, atomic_checkpoint, run_state_file, save_snapshot, temporary_folder
from grpo.runs.run_dir import RunDir
from grpo.tasks.curriculum import Curriculum
from grpo.training.base import BaseTrainer
from grpo.training.callbacks import OnTrainBegin
from grpo.training.prompt_order import CurriculumSampler, EpochSeededSampler

# Files of a checkpoint that hold weights.
WEIGHT_FILES = ("model*.safetensors", "adapter_model*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")


class CheckpointingMixin(BaseTrainer):
    """The part of `Trainer` that writes checkpoints and resumes from them."""

    def __init__(self, curriculum: Curriculum | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.curriculum = curriculum
        self._partial_dir: Path | None = None  # the folder into which a checkpoint is being written

    def resume_from(self, checkpoint: Path, steps: int) -> None:
        """Train up to step `steps` from a complete checkpoint of this run.

        Raises:
            UserError: a file of the checkpoint is damaged.
        """
        state_file = run_state_file(checkpoint)
        with naming_damaged_files(state_file):
            state = torch.load(state_file, weights_only=True)
            finished = int(state["global_step"]) >= steps or state["recorder"]["stopped_by"]
        with naming_damaged_files(checkpoint / "trainer_state.json"):
            trainer_state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

        def restore() -> None:
            with naming_damaged_files(state_file):
                self._restore_run_state(state)

        if finished:
            self._load_from_checkpoint(str(checkpoint))
            self.state = trainer_state
            restore()
        else:
            self.add_callback(OnTrainBegin(restore))
            self.train(resume_from_checkpoint=str(checkpoint))

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the current step."""
        self._save_checkpoint(self.model, None)

    # Writing

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._partial_dir) if self._partial_dir else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = Path(self.args.output_dir) / f"{CHECKPOINT_PREFIX}{self.state.global_step}"
        try:
            with ExitStack() as atomic:
                failure = None
                try:
                    if distributed.is_main_process():
                        atomic.enter_context(atomic_checkpoint(checkpoint))
                except OSError as error:
                    failure = error
                raise_any_failure(failure)
                self._partial_dir = temporary_folder(checkpoint)
                self._write_checkpoint(model, trial, self._partial_dir / checkpoint.name)
        except (OSError, SafetensorError) as error:
            say(
                Text(
                    f"No checkpoint of step {self.state.global_step}: it could not be written ({first_line(error)}). "
                    "Training continues, and earlier checkpoints stay.",
                    style="yellow",
                )
            )
        else:
            if distributed.is_main_process():
                rotate_checkpoints(self.args.output_dir, self.args.save_total_limit)
        finally:
            self._partial_dir = None

    def _write_checkpoint(self, model: Any, trial: Any, folder: Path) -> None:
        """Write the files of this process.

        Raises:
            OSError: this process or another could not write its files.
        """
        failure = None
        try:
            super()._save_checkpoint(model, trial)
            torch.save(self._run_state(), run_state_file(folder))
            if distributed.is_main_process():
                save_snapshot(RunDir(self.recorder.out), folder)
        except (OSError, SafetensorError, RuntimeError, UserError) as error:
            # On a full disk torch.save raises a plain RuntimeError.
            if isinstance(error, RuntimeError) and not re.search("inline_container|PytorchStreamWriter", str(error)):
                raise
            failure = error
        raise_any_failure(failure)

    def _run_state(self) -> dict[str, Any]:
        """The state that transformers does not save: the current rollout, metrics not yet logged, the recorder."""
        in_rollout = self._step % (self.args.steps_per_generation * self.num_iterations)
        return {
            "global_step": self.state.global_step,
            "step": self._step,
            "inputs": self._buffered_inputs if in_rollout else None,
            "unscored": self._has_nonfinite_score,
            "metrics": dict(self._metrics["train"]),
            "logs": {name: content for name, content in _to_plain(self._logs).items() if name != "prompt"},  # unused
            "loss": self._tr_loss,
            "last_logged": self._globalstep_last_logged,
            "recorder": self.recorder.state(),
            "rewards": safe_reward_states(self.recorder.rewards.weights),
        }

    # Resuming

    def _restore_run_state(self, state: dict[str, Any]) -> None:
        self._step, self._buffered_inputs = state["step"], state["inputs"]
        self._has_nonfinite_score = state["unscored"]
        self._metrics["train"].update(state["metrics"])
        logs: dict[str, Any] = self._logs
        for name, content in state["logs"].items():
            if isinstance(content, dict):
                for column, values in content.items():
                    logs[name][column].extend(values)
            else:
                logs[name].extend(content)
        self._tr_loss = state["loss"].to(self.args.device)
        self._globalstep_last_logged = state["last_logged"]
        self.recorder.restore(state["recorder"])
        restore_reward_states(state.get("rewards", {}))  # older checkpoints have none

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        weights = [path for name in WEIGHT_FILES for path in sorted(folder.glob(name))]
        with naming_damaged_files(*weights or [folder / WEIGHT_FILES[0]]):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """
        Raises:
            ValueError: the checkpoint has other weights than this policy.
        """
        tensors = dict(self.model.state_dict(keep_vars=True))
        loaded = {id(tensor) for name, tensor in tensors.items() if name not in load_result.missing_keys}
        # Tied weights are saved under one of their names.
        missing = [name for name in load_result.missing_keys if id(tensors.get(name)) not in loaded]
        if missing or load_result.unexpected_keys:
            raise ValueError(f"not the weights of this policy: {[*missing, *load_result.unexpected_keys][0]}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        folder = Path(checkpoint or "")
        if (schedule := folder / "scheduler.pt").is_file() and not self.is_deepspeed_enabled:
            with naming_damaged_files(schedule):  # loaded here first, so that a failure below is the optimizer's
                self.lr_scheduler.load_state_dict(torch.load(schedule, weights_only=True))
        with naming_damaged_files(folder / "optimizer.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with naming_damaged_files(Path(checkpoint or "") / "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        suffix = f"_{distributed.rank()}" if distributed.world_size() > 1 else ""
        with naming_damaged_files(Path(checkpoint or "") / f"rng_state{suffix}.pth"):
            super()._load_rng_state(checkpoint)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> IndexSampler:
        sampler = super()._get_train_sampler(dataset)
        if self.curriculum is None:
            return EpochSeededSampler(sampler)
        algorithm = self.recorder.config.algorithm
        steps = algorithm.steps_per_generation * algorithm.num_iterations
        return CurriculumSampler(sampler, self.curriculum, steps, lambda: self.state.max_steps)


@contextmanager
def naming_damaged_files(*files: Path) -> Iterator[None]:
    """Turn any error of a loader into a message that names `files`.

    The manifest is verified before, so this happens only if a file was changed together with the manifest.

    Raises:
        UserError: one of `files` is damaged or does not belong to this run.
    """
    try:
        yield
    except Exception as error:  # a loader can raise anything
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        names = " or ".join(file.name for file in files)
        reason = first_line(error)
        if isinstance(error, UnpicklingError):
            reason = "it is damaged, or holds code, which is not run"
        raise UserError(
            f"{display_path(files[0].parent)}: {names} does not hold what a checkpoint of this run does ({reason}). "
            "Delete that folder to resume from the checkpoint before it."
        ) from error


def raise_any_failure(failure: Exception | None) -> None:
    """Let all processes agree whether a write succeeded; `failure` is that of this process.

    Raises:
        OSError: this process failed, or another one did.
    """
    if messages := [line for line in distributed.gather_objects(failure and first_line(failure)) if line]:
        raise OSError(messages[0]) from failure


def safe_reward_states(names: Iterable[str]) -> dict[str, Any]:
    """The states of rewards as a checkpoint stores them: `torch.load(..., weights_only=True)` reads them, without code.

    Raises:
        UserError: a state holds objects that cannot be stored or read so.
    """
    states = reward_states(names)
    for name, state in states.items():
        rule = "a checkpoint stores numbers, texts, lists, dicts and tensors"
        buffer = BytesIO()
        try:
            torch.save(state, buffer)
            buffer.seek(0)
            classes = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
        except Exception as error:  # pickling calls code of any class
            raise UserError(
                f"reward '{name}': its state_dict cannot be saved ({first_line(error)}); {rule}."
            ) from error
        if classes:
            raise UserError(f"reward '{name}': its state_dict holds {', '.join(classes)}; {rule}.")
    return states


def _to_plain(content: Any) -> Any:
    """`content` with dicts and lists in place of subclasses and deques, which torch.load refuses to read safely."""
    if isinstance(content, dict):
        return {name: _to_plain(value) for name, value in content.items()}
    return list(content) if isinstance(content, deque) else content
