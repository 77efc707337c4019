"""What a training run prints about itself: the banner, the advice after running out of memory, and the results.

The session calls it. It computes no figure.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import RenderableType

from grpo.config.batch import BatchSplit, smaller_micro_batch
from grpo.config.groups import CONF
from grpo.config.samplers import ENGINES
from grpo.config.schema import Config
from grpo.core.console import say
from grpo.core.environment_values import to_interpolations
from grpo.core.metric_format import ordered_metrics
from grpo.core.metric_names import TRAIN_SECONDS
from grpo.core.paths import display_path
from grpo.core.process import python_command
from grpo.core.redact import mask_overrides
from grpo.core.tables import answers_table, comparison_table, key_value_table, run_header
from grpo.core.text import plural
from grpo.evaluation.difference import PairedDifference
from grpo.evaluation.evaluation import Evaluation
from grpo.reports.headline import changes_sentences
from grpo.rewards.stack import RewardStack
from grpo.runs.run_dir import latest_or
from grpo.tasks.answer_format import DEFAULT_FORMAT, answer_format_of


def banner(config: Config, rewards: RewardStack, batch: BatchSplit, out: Path) -> RenderableType:
    """The lines printed before a run: model, data, rewards, batch and run directory."""
    steps = config.algorithm.steps_per_generation
    merged = ", merged" * config.model.merge_adapter
    adapter = f" with the adapter {display_path(Path(config.model.adapter))}{merged}," if config.model.adapter else ""
    lines = {
        "model": f"{config.model.name}{adapter} on {config.device}, seed {config.seed}",
        "data": config.data.name + (f" from {display_path(Path(config.data.path))}" if config.data.path else ""),
        "rewards": rewards.describe_weights() + "; a placebo: totals are permuted within each group" * config.placebo,
        "batch": str(batch) + f", {steps} steps per rollout" * (steps > 1),
        "folder": display_path(out),
    }
    if rewards.answer_format != DEFAULT_FORMAT:
        lines["format"] = rewards.answer_format.setting
    if config.rollout.name in ENGINES:
        lines["rollout"] = f"{config.rollout.name}: repeated or resumed, the run has other numbers in the last digits"
    return run_header(lines)


def out_of_memory_advice(config: Config, batch: BatchSplit, step: int, sampling: bool) -> str:
    """The message after running out of memory at `step`, with the next smaller settings."""
    if sampling:
        return (
            f"out of memory at step {step} while sampling all {batch.completions} completions of the batch ({batch}). "
            "Lower max_completion_length or prompts_per_step; micro_batch_size makes no difference."
        )
    advice = "Lower max_completion_length, or train adapters, model.lora_rank=16."
    if fitting := smaller_micro_batch(batch):
        advice = (
            f"micro_batch_size={fitting.per_device} takes the same optimizer steps in smaller micro-batches: {fitting}."
        )
        algorithm = config.algorithm
        has_bonus = algorithm.entropy_coef > 0 or algorithm.entropy_target is not None
        if algorithm.loss_type == "bnpo" or algorithm.top_entropy_quantile < 1 or has_bonus:
            advice += " With these settings of algorithm the loss differs slightly: it averages within a micro-batch."
    elif not config.activation_checkpointing:
        advice = "activation_checkpointing=true needs less memory. " + advice
    return f"out of memory at step {step} with {batch.per_device} completions at once ({batch}). {advice}"


def notes_on_policy(config: Config) -> Iterator[str]:
    """Notes on the device, the system prompt, and code that comes with the policy; PyTorch is imported."""
    import torch

    if config.device == "cpu" and torch.cuda.is_available():
        yield f"A CUDA device is available ({torch.cuda.get_device_name()}): the reference run is experiment=gsm8k."
    if not config.system_prompt.strip():
        yield (
            f"system_prompt=: nothing asks for the answer format ({answer_format_of(config.format).setting}), unless "
            "the questions or the chat template do; leave system_prompt out for the one of the format."
        )
    for name in ("trust_remote_code", "trust_pickle"):
        if getattr(config.model, name):
            path = display_path(Path(to_interpolations(config.model.path)))
            yield f"model.{name}=true: code that comes with {path} can run here."


def say_results(
    results: dict[str, Any],
    before: Evaluation,
    after: Evaluation,
    differences: dict[str, PairedDifference],
    max_steps: int,
    out: Path,
) -> None:
    """Print the answers to the example questions, the held-out figures before and after, and where everything is."""
    tags = after.rewards.answer_format.tags
    say("")
    for example in results["examples"]:
        title = f"{example['question']} (gold: {example['gold']})"
        say(answers_table(title, {when: example[when] for when in ("before", "after")}, tags))
    # The figures come last: a terminal shows them without scrolling back.
    say(f"{results['problems']['held_out']:,} held-out problems, answered greedily")
    main_figures = {name: differences[name] for name in ordered_metrics(differences, rewards=False)}
    say(comparison_table(("before", "after"), before.figures, after.figures, main_figures, after.labels))
    if at_k := {name: difference for name, difference in differences.items() if name.startswith("pass@")}:
        say("pass@k: the problems that are right at least once in k samples")
        say(comparison_table(("before", "after"), before.figures, after.figures, at_k, after.labels))
    say(textwrap.fill(" ".join(changes_sentences(results, after.labels)), 80))
    steps = f"{results['steps']} {plural(results['steps'], 'step')}"
    if results["stopped_by"]:
        steps += f" of {max_steps} (ended by {results['stopped_by']})"
    say(f"{steps} in {results[TRAIN_SECONDS]:.0f} s. Everything is in {display_path(out)}")


def say_next_commands(out: Path, config: Config, overrides: list[str]) -> None:
    """Print what to type after the run in `out`, which `overrides` configured, as commands that can be copied."""
    python, run = python_command(), shlex.quote(display_path(latest_or(out)))
    commands = {"ask the policy": f"{python} -m grpo.sample {run}"}
    # The study compares parts of the default stack. It sets rewards and seeds, is an experiment itself, and needs a
    # folder of its own (`hydra`).
    is_default = config.rewards == OmegaConf.load(CONF / "rewards" / "default.yaml")
    settings = r"[+~]*(rewards|reward_files|seed|experiment|hydra)\b"
    is_set = any(re.match(settings, word) for word in overrides)
    if is_default and not is_set and mask_overrides(overrides) == overrides:
        study = shlex.join([*overrides, "experiment=ablate_rewards"])
        commands["find which reward did it"] = f"{python} -m grpo.train {study}"
    commands["audit a stack"] = f"{python} -m grpo.audit rewards=verbatim"
    commands["draw the figures"] = f"{python} -m grpo.report {run} --figures"
    say("\nNext:")
    say(key_value_table(commands))
