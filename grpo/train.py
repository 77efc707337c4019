"""Train a policy with GRPO and show what changed.

python -m grpo.train
python -m grpo.train rewards=no_xmlcount num_generations=8
python -m grpo.train experiment=gsm8k
"""

import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from grpo.batching import Batch, derive_batch
from grpo.config import CONF, Config, load, readable
from grpo.console import answers, before_after, log, progress, quiet_libraries, say, shortest
from grpo.data import GSM8K_TRAIN, JOY, build_train_set, load_splits
from grpo.errors import UserError
from grpo.hub import on_hub, prepare_hub
from grpo.rewards import RewardStack, build_rewards
from grpo.tracking import build_tracker

# What a few CPU cores reach, for saying what a GPU's run would cost on them.
CPU_FLOP_PER_SECOND = 1e11
VERSIONS = ("torch", "transformers", "trl", "accelerate", "datasets", "hydra-core", "wandb")


def run(config: Config, out: Path, sweep: str | None = None) -> dict[str, Any]:
    """Train the run that `config` describes into the folder `out`; returns what `results.json` holds.

    Raises:
        UserError: anything that the user can mend.
    """
    began = time.perf_counter()
    if (out / "completions").exists():
        raise UserError(f"{out} holds a run already; give this one another folder, hydra.run.dir=FOLDER.")
    # Cheap and fallible things first: a typo ends here, before torch is imported.
    rewards = build_rewards(config.rewards, config.reward_files)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    batch = derive_batch(config.num_generations, config.prompts_per_step, config.micro_batch_size, world_size)
    say(banner(config, rewards, batch, out))
    check_device(config, batch)
    splits = load_splits(config.data)
    for note in splits.notes:
        say(note)

    if on_hub(config.model.path):
        prepare_hub()
    quiet_libraries()
    import torch

    if config.device == "cpu" and torch.cuda.is_available():
        say(f"A CUDA device is here ({torch.cuda.get_device_name()}): the reference run is experiment=gsm8k.")
    from grpo.evaluate import answer_greedily, evaluate
    from grpo.model import build_policy, build_tokenizer, save_policy
    from grpo.rollout import build_rollout

    torch.set_num_threads(config.threads or min(torch.get_num_threads(), cpu_quota()))
    tokenizer = build_tokenizer(config.model)
    train_rows, notes = build_train_set(splits.train, tokenizer, config)
    policy: Any = build_policy(config.model, config.seed)
    policy.to(config.device)
    rollout = build_rollout(policy, tokenizer, config)
    for note in notes:
        say(note)

    def answer_and_score(when: str) -> tuple[dict[str, Any], list[str]]:
        """The figures on the held-out problems, and the answers to the showcased ones."""
        with progress(f"evaluating {when}", len(splits.held_out)) as advance:
            figures = evaluate(
                rollout, tokenizer, splits.held_out, rewards, config, lambda count: advance(count, "")
            ).figures
        answers = answer_greedily(rollout, tokenizer, [example.question for example in shown], config)
        return figures, [answer.text for answer in answers]

    shown = [JOY, *[example for example in splits.held_out if example != JOY][:2]]
    tracker = build_tracker(config.tracking, asdict(config) | {"batch": asdict(batch)}, out, sweep)
    exit_code = 1
    try:
        started = time.perf_counter()
        before, answers_before = answer_and_score("before training")
        evaluated = time.perf_counter()
        # TRL takes seconds to import; they come after there is something to look at.
        from grpo.trainer import Recorder, build_trainer

        with ExitStack() as bars:
            recorder = Recorder(
                config, rewards, tracker, out, lambda steps: bars.enter_context(progress("training", steps))
            )
            trainer = build_trainer(config, batch, policy, tokenizer, train_rows, rewards, rollout, recorder, out)
            trainer.train()
        trained = time.perf_counter()
        after, answers_after = answer_and_score("after training")
        ended = time.perf_counter()

        examples = [
            {"question": example.question, "gold": example.gold, "before": first, "after": last}
            for example, first, last in zip(shown, answers_before, answers_after, strict=True)
        ]
        save_policy(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out / "policy")
        results = {
            "before": before,
            "after": after,
            "train_seconds": round(trained - evaluated, 2),
            "steps": trainer.state.global_step,
            "seed": config.seed,
            "device": config.device,
            "threads": torch.get_num_threads(),
            "seconds": {
                "start": round(started - began, 2),
                "evaluate_before": round(evaluated - started, 2),
                "train": round(trained - evaluated, 2),
                "evaluate_after": round(ended - trained, 2),
            },
            "batch": asdict(batch),
            "problems": {"train": len(train_rows), "held_out": len(splits.held_out)},
            "examples": examples,
            "versions": {package: version(package) for package in VERSIONS},
        }
        write_json(out / "results.json", results)
        tracker.summarize(summary(results))
        say(before_after(before, after))
        for example in examples:
            say(answers(f"{example['question']} (gold: {example['gold']})", example["before"], example["after"]))
        say(f"{trainer.state.global_step} steps in {trained - evaluated:.0f} s. Everything is in {shortest(out)}")
        exit_code = 0
        return results
    finally:
        tracker.finish(exit_code)


def banner(config: Config, rewards: RewardStack, batch: Batch, out: Path) -> str:
    weights = ", ".join(f"{name} {weight:g}" for name, weight in rewards.weights.items())
    lines = {
        "model": f"{config.model.path} on {config.device}, seed {config.seed}",
        "data": config.data.name + (f" from {config.data.path}" if config.data.path else ""),
        "rewards": weights,
        "batch": str(batch),
        "folder": shortest(out),
    }
    return "\n".join(f"{name:<8}{value}" for name, value in lines.items())


def check_device(config: Config, batch: Batch) -> None:
    """Nothing is chosen by hardware: a GPU that is missing stops the run, and so does one too many.

    Raises:
        UserError: CUDA is asked for and absent, or the run would be spread over several devices.
    """
    if batch.world_size > 1:
        raise UserError(f"WORLD_SIZE={batch.world_size}: a run is one process so far; start it without a launcher.")
    if config.device == "cpu":
        return
    import torch

    if (count := torch.cuda.device_count()) > 1:
        raise UserError(f"device=cuda: {count} devices are visible, and a run takes one: set CUDA_VISIBLE_DEVICES=0.")
    if count == 1:
        return
    message = "device=cuda: no CUDA device is found."
    if config.model.parameters is not None:
        # A forward pass to generate, a forward and a backward pass to train: 2 + 2 + 4 FLOP a parameter and token.
        tokens = batch.completions * ((config.max_prompt_length or 0) + config.max_completion_length)
        seconds = 8 * config.model.parameters * tokens / CPU_FLOP_PER_SECOND
        size = f"{config.model.parameters / 1e6:,.0f} M parameters (model.parameters)"
        speed = f"{CPU_FLOP_PER_SECOND / 1e12} TFLOP/s"
        message += f" On a CPU, at {speed}, a step with {size} would take about {duration(seconds)}"
        steps = config.max_steps
        if steps is None and config.data.name == "gsm8k":
            problems = min(GSM8K_TRAIN, config.data.train_problems or GSM8K_TRAIN)
            steps = int(problems // config.prompts_per_step * config.num_train_epochs)
        message += f", all {steps:,} steps about {duration(steps * seconds)}." if steps else "."
    raise UserError(
        f"{message} To go on all the same: device=cpu. The embedded default needs no GPU: python -m grpo.train"
    )


def cpu_quota() -> int:
    """The cores that a container lets this process use, which torch does not ask for; without a container, all."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return os.cpu_count() or 1


def duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def summary(results: dict[str, Any]) -> dict[str, float]:
    """The evaluations as flat names: `before/accuracy_strict`, `after/rewards/int`."""
    flat = {}
    for when in ("before", "after"):
        for name, value in results[when].items():
            nested = {f"{when}/{name}/{inner}": v for inner, v in value.items()} if isinstance(value, dict) else None
            flat.update(nested or {f"{when}/{name}": value})
    return flat


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


class Command:
    """What `main` must know of the jobs that Hydra ran for it."""

    started = False
    multirun = False
    mistake: UserError | None = None


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def app(composed: DictConfig) -> None:
    settings = HydraConfig.get()
    Command.started, Command.multirun = True, settings.mode == RunMode.MULTIRUN
    out = Path(settings.runtime.output_dir)
    try:
        try:
            run(load(composed), out, Path(settings.sweep.dir).name if Command.multirun else None)
        except OSError as error:
            if error.filename is None or not Path(error.filename).is_relative_to(out):
                raise
            raise UserError(f"{error.filename} cannot be written: {error.strerror}.") from error
    except UserError as error:
        log.error("%s", error)
        if Command.multirun:
            # Hydra goes on with the next job, and counts this one as failed.
            print(f"error in job {settings.job.num}: {error}", file=sys.stderr)
            raise
        Command.mistake = error


def main() -> None:
    # Hydra would print a traceback of its own; every mistake of the user's ends in one message instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with readable():
            app()
        if Command.mistake:
            raise Command.mistake
    except UserError as error:
        sys.exit(1 if Command.multirun else f"error: {error}")
    except (OSError, ValueError) as error:
        # Before the first job starts, all that is opened is its folder and train.log in it.
        if Command.started:
            raise
        where = "hydra.sweep.dir=FOLDER" if "-m" in sys.argv or "--multirun" in sys.argv else "hydra.run.dir=FOLDER"
        sys.exit(f"error: the folder of the run cannot be written: {error.__cause__ or error}; give another, {where}")
    except KeyboardInterrupt:
        print("Interrupted: no results of this run were written.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
