"""The jobs of a sweep: composed from the typed overrides, and checked before the first one starts.

Used by `runner` and `search`. It starts nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from grpo.config.batch import optimizer_steps
from grpo.config.composition import load_config
from grpo.config.hydra_errors import translate_errors
from grpo.config.limits import GSM8K_PROBLEMS
from grpo.config.overrides import refuse_too_many_jobs
from grpo.config.schema import Config
from grpo.core.errors import UserError
from grpo.core.progress import progress
from grpo.policy.requirements import check_device, check_model_files
from grpo.rewards.stack import RewardStack, rewards_of
from grpo.sampling.engines import check_engine_server
from grpo.tasks.splits import Splits, load_splits
from grpo.training.environment import check_settings


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    number: int
    overrides: tuple[str, ...]
    name: str  # the overrides that distinguish it from the others
    folder: Path
    config: Config

    def steps(self, problems: int | None = None) -> int | None:
        """The optimizer steps; None if they depend on the number of training problems, which is unknown.

        Args:
            problems: the number of training problems, if known.
        """
        if self.config.max_steps is None and problems is None:
            problems = self.config.data.train_problems or (GSM8K_PROBLEMS if self.config.data.name == "gsm8k" else None)
            if problems is None:
                return None
        return optimizer_steps(self.config, problems or 0)

    @property
    def completions_per_step(self) -> int:
        return self.config.num_generations * self.config.prompts_per_step


def expand_overrides(context: HydraContext, arguments: Sequence[str]) -> dict[str, list[str]]:
    """The values of each override: key -> one override for each value.

    Raises:
        UserError: a list without values, a range without an end, or more jobs than are possible.
    """
    listed: dict[str, list[str]] = {}
    overrides = OverridesParser.create(context.config_loader).parse_overrides(list(arguments))
    refuse_too_many_jobs(overrides)
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            listed[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            listed[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise UserError(f"{override.input_line}: a range without steps is for a search, hydra/sweeper=optuna.")
        if not listed[key]:
            raise UserError(f"{override.input_line}: the list is empty, so there is no job to run.")
    return listed


def compose_jobs(
    context: HydraContext,
    master: DictConfig,
    combinations: Sequence[Sequence[str]],
    varied: Sequence[str],
    first: int = 0,
    on_this_machine: bool = False,
) -> list[Job]:
    """Compose the jobs, and check them as each job is checked when it starts.

    Args:
        combinations: the overrides of each job.
        varied: the keys of the settings that differ between jobs, which name them; the caller decides which.
        first: the number of the first job.
        on_this_machine: also check the devices and files of this machine.

    Raises:
        UserError: some jobs would not start; the message names all reasons.
    """
    jobs: list[Job] = []
    errors: dict[str, list[str]] = {}  # message -> the names of the jobs
    files = FileChecks()
    with progress("checking", len(combinations), lasting=False, unit="jobs") as advance:
        for number, overrides in enumerate(combinations, first):
            name = " ".join(short_override(override) for override in overrides if override.partition("=")[0] in varied)
            try:
                job, rewards = _compose_job(context, master, overrides, name or f"job {number}", number)
                if on_this_machine:
                    files.check(job.config, rewards)
                jobs.append(job)
            except UserError as error:
                errors.setdefault(str(error), []).append(name)
            advance(1, "")
    if errors:
        raise UserError(_error_message(errors, len(combinations)))
    on_device = next((job.config for job in jobs if job.config.device != "cpu"), None)
    if on_this_machine and on_device:
        check_device(on_device, check_settings(on_device))
    return jobs


def short_override(override: str) -> str:
    """An override as a part of a job's name: numbers have four significant digits."""
    key, _, value = override.lstrip("+").partition("=")
    return f"{key}={float(value):.4g}" if re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", value) else f"{key}={value}"


def refuse_duplicates(jobs: Sequence[Job]) -> None:
    """
    Raises:
        UserError: two jobs have the same settings.
    """
    by_settings: dict[str, Job] = {}
    for job in jobs:
        if (other := by_settings.setdefault(repr(job.config), job)) is not job:
            stack = " To combine experiments, stack them: experiment=[a,b]." * ("experiment=" in job.name)
            raise UserError(f"Two jobs would be the same, {other.name} and {job.name}: list each value once.{stack}")


def _compose_job(
    context: HydraContext, master: DictConfig, overrides: Sequence[str], name: str, number: int
) -> tuple[Job, RewardStack]:
    with translate_errors():
        composed = context.config_loader.load_sweep_config(master, list(overrides))
        with open_dict(composed):
            composed.hydra.job.num = composed.hydra.job.id = number
        folder = Path(composed.hydra.sweep.dir, str(composed.hydra.sweep.subdir))
        with open_dict(composed):
            del composed["hydra"]
        config = load_config(composed, Config)
    rewards = rewards_of(config)
    check_settings(config)
    return Job(number, tuple(overrides), name, folder, config), rewards


class FileChecks:
    """Checks of what the jobs read on this machine; what several jobs share is read once."""

    def __init__(self) -> None:
        self._checked: set[str] = set()
        self._splits: dict[str, Splits] = {}

    def check(self, config: Config, rewards: RewardStack) -> None:
        """
        Raises:
            UserError: a file cannot be read, a server does not answer, or a reward takes a column that the data lack.
        """
        files = repr((config.model, config.data, config.rollout))
        if files not in self._checked:
            check_model_files(config.model)
            if config.data.path is not None:
                self._load(config)
            check_engine_server(config)
            self._checked.add(files)
        if rewards.taken_columns:
            splits = self._load(config)
            for examples in (splits.train, splits.held_out):
                rewards.check_columns(examples, f"data={config.data.name}")

    def _load(self, config: Config) -> Splits:
        data = repr(config.data)
        if data not in self._splits:
            self._splits[data] = load_splits(config.data)
        return self._splits[data]


def _error_message(errors: dict[str, list[str]], jobs: int) -> str:
    failing = sum(map(len, errors.values()))
    if failing == jobs and len(errors) == 1:
        return next(iter(errors))
    lines = [f"{failing} of {jobs} jobs cannot run, so none was started."]
    for message, names in errors.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        which = "" if names == [message.partition(":")[0]] else f"{', '.join(names[:3])}{more}: "
        lines.append(f"  {which}{message}")
    return "\n".join(lines)
