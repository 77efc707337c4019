"""What an evaluation is about: a run's policy, any other policy, or completions from a file; and its baseline.

Called by `grpo.evaluate`. It reads settings and problems, and must not load a policy or import torch.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from grpo.config.composition import load_config
from grpo.config.schema import CommonConfig, DataConfig, EvaluateConfig
from grpo.config.validation import check_config
from grpo.core.console import say
from grpo.core.environment_values import to_interpolations
from grpo.core.errors import UserError
from grpo.core.files import parse_file, parse_json_object
from grpo.evaluation.completion import CompletionBatch
from grpo.evaluation.completion_files import COMPLETION_SUFFIXES, read_completions
from grpo.runs.format_of_file import format_of_file
from grpo.runs.provenance import problems_digest
from grpo.runs.run_dir import RunDir, resolve_link
from grpo.runs.settings import read_finished_run_config, read_settings, trained_model
from grpo.runs.trust import refuse_links, require_trust
from grpo.tasks.example import Example
from grpo.tasks.splits import load_held_out, load_splits

# Settings that have no effect on completions from a file.
POLICY_SETTINGS = {"model", "data", "rollout", "system_prompt", "chat_template_kwargs", "max_completion_length"}
POLICY_SETTINGS |= {"samples", "temperature"}
EVALUATIONS_FOLDER = Path("outputs/evaluations")


@dataclass
class Subject:
    """Whose completions are evaluated, on which problems, and where the evaluation is saved."""

    title: str
    config: EvaluateConfig
    folder: Path
    stem: str
    examples: list[Example]
    seed: int = 0  # of the random weights of a policy without a checkpoint
    from_file: tuple[Path, CompletionBatch] | None = None  # a file and its completions; None: the policy generates them


def main_subject(config: EvaluateConfig, composed: DictConfig, overrides: Sequence[str]) -> Subject:
    """What `run=`, `completions=` or the model settings name.

    Raises:
        UserError: both are given, or what they name cannot be read.
    """
    if config.completions is not None and config.run is not None:
        raise UserError(
            f"run={config.run} completions={config.completions}: evaluate one of them; the other can be the baseline=."
        )
    if config.completions is not None:
        answer_format = format_of_file(config.completions, config.format, overrides)
        return _from_file("file", config.completions, "completions", replace(config, format=answer_format))
    if config.run is not None:
        return _from_run("run", resolve_link(Path(config.run).expanduser()), composed, overrides)
    check_config(config)
    stem = f"{_file_name(Path(config.model.name).name)}-{config.data.name}"
    notes: list[str] = []
    examples = load_held_out(config.data, notes)
    for note in notes:
        say(note)
    return Subject("policy", config, EVALUATIONS_FOLDER, stem, examples, config.seed)


def baseline_subject(
    baseline: str, evaluated: Subject, config: EvaluateConfig, composed: DictConfig, overrides: Sequence[str]
) -> Subject:
    """What `baseline=` names: `before`, a run, or a file of completions; scored with the rewards of `evaluated`.

    Raises:
        UserError: there is no such thing, or it cannot be read.
    """
    # model= and name= on the command line belong to the evaluated policy.
    keys = zip(overrides, override_keys(overrides), strict=True)
    overrides = [override for override, key in keys if key.partition(".")[0] not in ("model", "name")]
    config, composed = replace(config, name=None), composed.copy()
    composed.name = None
    path = resolve_link(Path(baseline).expanduser())
    if baseline == "before":
        if config.run is None:
            raise UserError("baseline=before: means the policy from which run= was trained; add run=FOLDER.")
        subject = _from_run("before", resolve_link(Path(config.run).expanduser()), composed, overrides, before=True)
    elif path.suffix in COMPLETION_SUFFIXES:
        subject = _from_file("baseline", baseline, "baseline", replace(config, format=evaluated.config.format))
    elif path.is_dir():
        subject = _from_run("baseline", path, composed, overrides)
    else:
        raise UserError(
            f"baseline={baseline}: there is no such folder; give the folder of a run, a file of completions "
            f"({' or '.join(COMPLETION_SUFFIXES)}), or before."
        )
    # The same rewards and the same rule score both: totals of different rewards cannot be compared.
    subject.config.rewards, subject.config.reward_files = evaluated.config.rewards, evaluated.config.reward_files
    subject.config.correct_by = evaluated.config.correct_by
    subject.config.data = replace(subject.config.data, answer=evaluated.config.data.answer)
    return subject


def _from_file(title: str, file: str, setting: str, config: EvaluateConfig) -> Subject:
    check_config(config)
    path = Path(file).expanduser()
    examples, completions = read_completions(path, setting)
    return Subject(title, config, EVALUATIONS_FOLDER, _file_name(path.stem), examples, from_file=(path, completions))


def _from_run(
    title: str, folder: Path, composed: DictConfig, overrides: Sequence[str], before: bool = False
) -> Subject:
    """A run's policy under the run's own settings, except for those on the command line."""
    settings = read_settings(folder)
    names_read = {item.name for item in fields(CommonConfig)} - {"rollout"}
    if title == "baseline":  # it is scored with the rewards of run=
        names_read -= {"rewards", "reward_files"}
    runs_rewards = "reward_files" in names_read and settings.get("reward_files")
    without = "To evaluate without its rewards, add reward_files=[] rewards=default. " if runs_rewards else ""
    require_trust(
        folder,
        settings,
        advice=f"{without}If you trust whoever made it, add trust_run=true.",
        settings_used=names_read,
        settings_typed=override_keys(overrides),
        trusted=bool(composed.trust_run),
        policy=not before,
    )
    saved = read_finished_run_config(folder)
    data, seed = saved.data, saved.seed
    if not before:
        saved.model = trained_model(saved.model, folder)
    merged = composed.copy()
    OmegaConf.set_struct(merged, False)
    names = [item.name for item in fields(CommonConfig)]
    for name in names:
        # `${...}` stays, so that this evaluation does not store the values of environment variables.
        merged[name] = to_interpolations(getattr(saved, name))
    for override, key in zip(overrides, override_keys(overrides), strict=True):
        if key.partition(".")[0] in names:
            if override.startswith("~"):
                merged.rewards.pop(key.partition(".")[2], None)
            else:
                OmegaConf.update(merged, key, OmegaConf.select(composed, key), merge=False)
    typed = {key.partition(".")[0] for key in override_keys(overrides)}
    if "format" in typed and "system_prompt" not in typed:  # the prompt asks for the format
        unresolved: Any = OmegaConf.to_container(composed, resolve=False)
        merged.system_prompt = unresolved["system_prompt"]
    config = load_config(merged, EvaluateConfig)
    stem = f"before-{config.data.name}" if before else config.data.name
    if config.model.name != saved.model.name:
        title, stem = "policy", f"{_file_name(Path(config.model.name).name)}-{stem}"
    destination = RunDir(folder).evaluations if os.access(folder, os.W_OK) else EVALUATIONS_FOLDER
    if destination != EVALUATIONS_FOLDER:
        refuse_links(folder, trusted=bool(composed.trust_run))
    return Subject(title, config, destination, stem, _held_out(config.data, data, folder), seed)


def _held_out(data: DataConfig, run_data: DataConfig, folder: Path) -> list[Example]:
    """The held-out problems of `data`, for the run in `folder`, which was trained on `run_data`.

    Raises:
        UserError: some are problems that the run was trained on, or the files of the run's own problems have changed.
    """
    with _naming_the_run(folder):
        examples = load_held_out(data)
        if run_data.name in ("arithmetic", "countdown"):
            return examples  # no held-out problem shares its numbers with a training problem
        protocol = _read_if_intact(RunDir(folder).evaluation("after")).get("protocol")
        digest = protocol.get("problems") if isinstance(protocol, dict) else None
        if data == run_data and digest not in (None, problems_digest(examples)):
            raise UserError("data: the files have changed since the run: its held-out problems are different.")
    if data == run_data:
        return examples  # training excluded them
    try:
        trained_keys = {example.key for example in load_splits(run_data).train}
    except UserError:
        say(f"The training problems of {folder} cannot be read: it is not checked whether these are among them.")
        trained_keys = set()
    if shared := sum(example.key in trained_keys for example in examples):
        raise UserError(
            f"data: {shared:,} of these {len(examples):,} problems are among those the run was trained on; give "
            "others, data.test_file=FILE."
        )
    return examples


@contextmanager
def _naming_the_run(folder: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} (Of {folder}; its settings can be overridden on the command line.)") from error


def _read_if_intact(path: Path) -> dict[str, Any]:
    try:
        return parse_file(path, parse_json_object)
    except (OSError, UserError):
        return {}


def override_keys(overrides: Sequence[str]) -> list[str]:
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)
