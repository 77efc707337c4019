"""The jobs of a sweep: chosen by what was typed, composed and checked before the first one starts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from grpo.config.batch import optimizer_steps
from grpo.config.composition import load_config
from grpo.config.limits import GSM8K_PROBLEMS
from grpo.config.messages import translate_errors
from grpo.config.overrides import refuse_too_many_jobs
from grpo.config.schema import Config
from grpo.core.errors import UserError
from grpo.core.progress import progress
from grpo.policy.hub import resolve_model_path
from grpo.policy.requirements import check_device
from grpo.rewards.stack import build_rewards
from grpo.sampling.engines import check_engine_server
from grpo.tasks.splits import load_splits
from grpo.training.environment import check_settings


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    number: int
    overrides: tuple[str, ...]
    name: str  # the overrides that tell it from the others
    folder: Path
    config: Config

    def steps(self, problems: int | None = None) -> int | None:
        """Its optimizer steps; None where that hangs on how many training problems there are, and nothing tells."""
        if self.config.max_steps is None and problems is None:
            problems = self.config.data.train_problems or (GSM8K_PROBLEMS if self.config.data.name == "gsm8k" else None)
            if problems is None:
                return None
        return optimizer_steps(self.config, problems or 0)

    @property
    def completions(self) -> int:
        """A step."""
        return self.config.num_generations * self.config.prompts_per_step


def values_listed(context: HydraContext, arguments: Sequence[str]) -> dict[str, list[str]]:
    """key -> an override for each of its values.

    Raises:
        UserError: a list without values, a range without an end, or more jobs than are possible.
    """
    listed: dict[str, list[str]] = {}
    given = OverridesParser.create(context.config_loader).parse_overrides(list(arguments))
    refuse_too_many_jobs(given)
    for override in given:
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
    chosen: Sequence[Sequence[str]],
    varied: Sequence[str],
    first: int = 0,
    here: bool = False,
) -> list[Job]:
    """The jobs, numbered from `first`, each composed and checked as it will be when it starts.

    Those that run `here`, on this machine, are also checked for its devices and files.

    Raises:
        UserError: some would not start; all that is wrong is said at once.
    """
    jobs: list[Job] = []
    wrong: dict[str, list[str]] = {}
    seen: set[str] = set()
    with progress("checking", len(chosen), lasting=False) as advance:
        for number, overrides in enumerate(chosen, first):
            name = " ".join(short(each) for each in overrides if each.partition("=")[0] in varied)
            try:
                job = _compose_job(context, master, overrides, name or f"job {number}", number)
                if here and (place := repr((job.config.model.path, job.config.data, job.config.rollout))) not in seen:
                    _check_files(job.config)
                    seen.add(place)
                jobs.append(job)
            except UserError as error:
                wrong.setdefault(str(error), []).append(name)
            advance(1, "")
    if wrong:
        raise UserError(_what_is_wrong(wrong, len(chosen)))
    if here and (asking := [job.config for job in jobs if job.config.device != "cpu"]):
        check_device(asking[0], check_settings(asking[0]))
    return jobs


def short(override: str) -> str:
    """An override as a part of a name."""
    key, _, value = override.lstrip("+").partition("=")
    return f"{key}={float(value):.4g}" if re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", value) else f"{key}={value}"


def refuse_twins(jobs: Sequence[Job]) -> None:
    same: dict[str, Job] = {}
    for job in jobs:
        if (twin := same.setdefault(repr(job.config), job)) is not job:
            stack = " To have one around the other, stack them: experiment=[a,b]." * ("experiment=" in job.name)
            raise UserError(f"Two jobs would be the same, {twin.name} and {job.name}: list each value once.{stack}")


def _compose_job(context: HydraContext, master: DictConfig, overrides: Sequence[str], name: str, number: int) -> Job:
    with translate_errors():
        composed = context.config_loader.load_sweep_config(master, list(overrides))
        with open_dict(composed):
            composed.hydra.job.num = composed.hydra.job.id = number
        folder = Path(composed.hydra.sweep.dir, str(composed.hydra.sweep.subdir))
        with open_dict(composed):
            del composed["hydra"]
        config = load_config(composed, Config)
    build_rewards(config.rewards, config.reward_files)
    check_settings(config)
    return Job(number, tuple(overrides), name, folder, config)


def _check_files(config: Config) -> None:
    resolve_model_path(config.model.path)
    if config.data.path is not None:
        load_splits(config.data)
    check_engine_server(config)


def _what_is_wrong(wrong: dict[str, list[str]], jobs: int) -> str:
    bad = sum(map(len, wrong.values()))
    if bad == jobs and len(wrong) == 1:
        return next(iter(wrong))
    lines = [f"{bad} of {jobs} jobs cannot run, so none was started."]
    for message, names in wrong.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        which = "" if names == [message.partition(":")[0]] else f"{', '.join(names[:3])}{more}: "
        lines.append(f"  {which}{message}")
    return "\n".join(lines)
