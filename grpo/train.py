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
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from grpo.batching import Batch, derive_batch
from grpo.command import Jobs, command, job
from grpo.config import CONF, Config, load, undistorted
from grpo.console import answers, comparison_table, listed, progress, quiet_libraries, say, shortest
from grpo.data import GSM8K_TRAIN, JOY, Example, build_train_set, load_splits
from grpo.device import use_threads
from grpo.errors import UserError
from grpo.evaluation import VERSIONS, Evaluation, answer, answer_greedily, compare, evaluate, protocol
from grpo.files import write_json
from grpo.hub import on_hub, prepare_hub
from grpo.rewards import RewardStack, build_rewards
from grpo.tracking import build_tracker

# What a few CPU cores reach, for saying what a GPU's run would cost on them.
CPU_FLOP_PER_SECOND = 1e11


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
    splits = load_splits(config.data, validation=config.eval_steps is not None)
    for note in splits.notes:
        say(note)

    if on_hub(config.model.path):
        prepare_hub()
    quiet_libraries()
    import torch

    if config.device == "cpu" and torch.cuda.is_available():
        say(f"A CUDA device is here ({torch.cuda.get_device_name()}): the reference run is experiment=gsm8k.")
    from grpo.model import build_policy, build_tokenizer, save_policy
    from grpo.rollout import build_rollout

    use_threads(config)
    tokenizer = build_tokenizer(config.model)
    train_rows, notes = build_train_set(splits.train, tokenizer, config)
    policy: Any = build_policy(config.model, config.seed)
    policy.to(config.device)
    evaluated_by = replace(config, rollout=undistorted(config.rollout))  # however training samples
    rollout = build_rollout(policy, tokenizer, evaluated_by)
    stop = {"stop": tokenizer.convert_ids_to_tokens(rollout.ends)}
    for note in notes:
        say(note)

    def evaluate_on(examples: list[Example], when: str, lasting: bool = True) -> Evaluation:
        questions = [example.question for example in examples]
        with progress(f"evaluating {when}", len(examples), lasting) as advance:
            return evaluate(examples, answer(rollout, tokenizer, questions, config), rewards, on_answered=advance)

    def ask_shown(step: int) -> list[str]:
        answers = answer_greedily(rollout, tokenizer, [example.question for example in shown], config)
        with (out / "transcripts.jsonl").open("a", encoding="utf-8") as file:
            for example, completion in zip(shown, answers, strict=True):
                file.write(json.dumps({"step": step, **asdict(example), "completion": completion}) + "\n")
        return answers

    shown = [JOY, *[example for example in splits.held_out if example != JOY][:2]]
    tracker = build_tracker(config.tracking, asdict(config) | {"batch": asdict(batch)}, out, sweep)
    asking = 0.0

    def look(step: int) -> None:
        """What is asked of the policy while it trains, its time apart."""
        nonlocal asking
        started = time.perf_counter()
        steps = trainer.state.max_steps
        if step in (round(steps / 3), round(steps * 2 / 3)) and 0 < step < steps:
            ask_shown(step)
        if config.eval_steps and (step % config.eval_steps == 0 or step == steps):
            validate(step)
        asking += time.perf_counter() - started

    def validate(step: int) -> None:
        evaluation = evaluate_on(splits.validation, f"at step {step}", lasting=False)
        evaluation.keep(
            out / "evaluations" / f"step_{step:06d}.json",
            protocol(evaluated_by, "validation", splits.validation, {"path": f"step {step}"}) | stop,
        )
        recorder.record(evaluation.flat("eval"), step)
        low, high = evaluation.intervals["accuracy_strict"]
        right = evaluation.figures["accuracy_strict"]
        say(f"step {step}: {right:.1%} of {len(splits.validation)} validation problems right ({low:.1%} to {high:.1%})")

    exit_code = 1
    try:
        started = time.perf_counter()
        before, answers_before = evaluate_on(splits.held_out, "before training"), ask_shown(0)
        evaluated = time.perf_counter()
        # TRL takes seconds to import; they come after there is something to look at.
        from grpo.trainer import Looks, Recorder, build_trainer

        with ExitStack() as bars:
            recorder = Recorder(
                config, rewards, tracker, out, lambda steps: bars.enter_context(progress("training", steps))
            )
            trainer = build_trainer(config, batch, policy, tokenizer, train_rows, rewards, rollout, recorder, out)
            trainer.add_callback(Looks(look))
            trainer.train()
        trained = time.perf_counter()
        save_policy(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out / "policy")
        after, answers_after = evaluate_on(splits.held_out, "after training"), ask_shown(trainer.state.global_step)
        ended = time.perf_counter()

        for evaluation, when, path in ((before, "before", config.model.path), (after, "after", str(out / "policy"))):
            how = protocol(evaluated_by, "held-out", splits.held_out, {"path": path}) | stop
            evaluation.keep(out / "evaluations" / f"{when}.json", how)
        differences = compare(after, before)
        examples = [
            {"question": example.question, "gold": example.gold, "before": first, "after": last}
            for example, first, last in zip(shown, answers_before, answers_after, strict=True)
        ]
        results = {
            "before": before.as_json(),
            "after": after.as_json(),
            "difference": {name: asdict(difference) for name, difference in differences.items()},
            "train_seconds": round(trained - evaluated - asking, 2),
            "steps": trainer.state.global_step,
            "stopped_by": recorder.stopped_by,
            "seed": config.seed,
            "device": config.device,
            "threads": torch.get_num_threads(),
            "seconds": {
                "start": round(started - began, 2),
                "evaluate_before": round(evaluated - started, 2),
                "train": round(trained - evaluated - asking, 2),
                "ask_meanwhile": round(asking, 2),
                "evaluate_after": round(ended - trained, 2),
            },
            "batch": asdict(batch),
            "problems": {"train": len(train_rows), "held_out": len(splits.held_out)},
            "examples": examples,
            "versions": {package: version(package) for package in VERSIONS},
        }
        write_json(out / "results.json", results)
        tracker.summarize(before.flat("before") | after.flat("after"))
        say(f"\n{len(splits.held_out):,} held-out problems, answered greedily")
        main_figures = {name: differences[name] for name in listed(differences, rewards=False)}
        say(comparison_table(("before", "after"), before.figures, after.figures, main_figures))
        for example in examples:
            title = f"{example['question']} (gold: {example['gold']})"
            say(answers(title, {when: example[when] for when in ("before", "after")}))
        steps = f"{trainer.state.global_step} steps"
        if recorder.stopped_by:
            steps += f" of {trainer.state.max_steps} (stop_on={recorder.stopped_by})"
        say(f"{steps} in {results['train_seconds']:.0f} s. Everything is in {shortest(out)}")
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


def duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def app(composed: DictConfig) -> None:
    settings = HydraConfig.get()
    out = Path(settings.runtime.output_dir)
    with job():
        try:
            run(load(composed, Config), out, Path(settings.sweep.dir).name if Jobs.multirun else None)
            if not Jobs.multirun:
                from grpo.report import write_report  # it draws, and is not needed before

                say(f"Report: {shortest(write_report(out))}")
        except OSError as error:
            if error.filename is None or not Path(error.filename).is_relative_to(out):
                raise
            raise UserError(f"{error.filename} cannot be written: {error.strerror}.") from error


def main() -> None:
    try:
        command(app, Config, "Interrupted: no results of this run were written.")
    except (OSError, ValueError) as error:
        # Before the first job starts, all that is opened is its folder and train.log in it.
        if Jobs.started:
            raise
        where = "hydra.sweep.dir=FOLDER" if "-m" in sys.argv or "--multirun" in sys.argv else "hydra.run.dir=FOLDER"
        sys.exit(f"error: the folder of the run cannot be written: {error.__cause__ or error}; give another, {where}")


if __name__ == "__main__":
    main()
