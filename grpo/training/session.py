"""A training run: evaluate, train with GRPO, evaluate again, and save the results."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from grpo.config.batch import Batch, derive_batch, optimizer_steps, smaller
from grpo.config.keys import flat
from grpo.config.samplers import ENGINES, undistorted
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import say
from grpo.core.device import out_of_memory, set_determinism, set_threads
from grpo.core.errors import UserError
from grpo.core.files import read_lines, write_json, written_aside, written_folder
from grpo.core.metric_format import listed
from grpo.core.paths import shortest
from grpo.core.progress import doing, progress
from grpo.core.redact import sources, stored
from grpo.core.run_log import quiet_libraries
from grpo.core.signals import Signals, Stopped
from grpo.core.tables import answers, comparison_table, heading
from grpo.core.text import plural
from grpo.evaluation.completion import Batch as BatchOfAnswers
from grpo.evaluation.difference import compare
from grpo.evaluation.evaluation import Evaluation, evaluate
from grpo.evaluation.generation import answer, answer_greedily
from grpo.evaluation.protocol import protocol
from grpo.evaluation.storage import load_evaluation, save_evaluation
from grpo.policy.chat_template import Framing, opened_tag
from grpo.policy.hub import on_hub, prepare_hub
from grpo.policy.requirements import check_device, slow_bfloat16
from grpo.rewards.registry import RewardStack, build_rewards
from grpo.runs.checkpoints import read_provenance, step_of
from grpo.runs.labels import Label
from grpo.runs.provenance import NAME as PROVENANCE
from grpo.runs.provenance import changes, provenance, save_diff
from grpo.runs.results import PRUNING
from grpo.runs.resume import set_aside
from grpo.runs.trust import sign
from grpo.sampling.engines import check_engine_package, check_engine_processes, check_engine_server
from grpo.tasks.datasets import JOY, Example, Splits, build_train_set, load_splits
from grpo.training.trackers.interface import NoTracker
from grpo.training.tracking import build_tracker, check_tracking

TRANSCRIPTS = "transcripts.jsonl"


# Called with the figures of an evaluation and its step; returns whether the trial of a search ends early.
Pruning = Callable[[dict[str, float], int], bool]


@dataclass
class Prepared:
    """A run before it writes anything; every cheap check has succeeded."""

    config: Config
    began: float
    rewards: RewardStack
    batch: Batch
    splits: Splits
    train_rows: list[dict[str, Any]]
    tokenizer: Any
    policy: Any
    sampled: Any  # what completions are sampled from: the policy, or a copy of its weights that training shards
    evaluated_by: Config  # with an undistorted sampler, whatever training uses
    rollout: Any
    provenance: dict[str, Any]


def run(
    config: Config,
    out: Path,
    label: Label | None = None,
    command: str = "",
    checkpoint: Path | None = None,
    prune: Pruning | None = None,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train the run that `config` describes in the directory `out`; returns what `results.json` holds.

    From a complete `checkpoint` in that directory, it resumes as if it had never stopped. `label` is what trackers call
    it; `prune` decides after an evaluation whether a trial of a search ends early. `begin` writes to the directory,
    after every cheap check has succeeded.

    Raises:
        UserError: a mistake that the user can fix.
        Stopped: a signal came; what was trained until then is saved.
    """
    prepared = prepare(config, out)
    if distributed.is_main_process():
        begin()
    distributed.gather_objects(None)  # the other processes read what rank 0 has changed
    return train_policy(prepared, out, label, command, checkpoint, prune)


def prepare(config: Config, out: Path) -> Prepared:
    """Check settings, packages, device, server and tracker, load data and policy; writes nothing.

    Raises:
        UserError: a mistake that the user can fix.
    """
    began = time.perf_counter()
    # Cheap and fallible things first: a typo ends here, before torch is imported.
    rewards = build_rewards(config.rewards, config.reward_files, config.data.answer_match)
    batch = derive_batch(
        config.num_generations, config.prompts_per_step, config.micro_batch_size, distributed.world_size()
    )
    check_engine_package(config)
    check_tracking(config.tracking)
    check_engine_processes(config, distributed.world_size())
    say(banner(sources(config), rewards, batch, out))
    check_device(config, batch)
    if warning := slow_bfloat16(config):
        say(warning)
    check_engine_server(config)
    with doing("loading the data"):
        splits = load_splits(config.data, validation=config.eval_steps is not None)
    for note in splits.notes:
        say(note)

    if on_hub(config.model.path):
        prepare_hub()
    with doing("importing PyTorch and Transformers"):
        quiet_libraries()
        import torch

        from grpo.policy.compatibility import check_policy
        from grpo.policy.loading import build_policy, build_tokenizer
        from grpo.policy.sharding import whole_copy
        from grpo.sampling.build import build_sampler

    if config.device == "cpu" and torch.cuda.is_available():
        say(f"A CUDA device is here ({torch.cuda.get_device_name()}): the reference run is experiment=gsm8k.")
    for name in ("trust_remote_code", "trust_pickle"):
        if getattr(config.model, name):
            say(f"model.{name}=true: code that comes with {shortest(Path(sources(config.model.path)))} can run here.")
    set_threads(config.threads)
    set_determinism(config.device, config.deterministic)
    distributed.init_process_group(config.device)
    with doing("loading the policy"):
        tokenizer = build_tokenizer(config.model)
        train_rows, notes = build_train_set(splits.train, tokenizer, config)
        policy: Any = build_policy(config.model, config.seed)
        questions = [JOY.question, *(row["question"] for row in train_rows)]
        questions += [example.question for example in (*splits.validation, *splits.held_out)]
        notes += check_policy(policy, tokenizer, questions, config)
        if not distributed.weights_are_sharded():  # else it waits to be spread
            policy.to(config.device)
    evaluated_by = replace(config, rollout=undistorted(config.rollout))
    sampled = policy
    if distributed.weights_are_sharded():
        sampled = whole_copy(policy, torch.bfloat16 if config.bf16 else policy.dtype, config.device)
    rollout = build_sampler(sampled, tokenizer, evaluated_by)
    for note in notes:
        say(note)
    with doing("recording versions and checksums"):
        origin = provenance(config, splits.train, splits.held_out)
    return Prepared(
        config, began, rewards, batch, splits, train_rows, tokenizer, policy, sampled, evaluated_by, rollout, origin
    )


def train_policy(
    prepared: Prepared, out: Path, label: Label | None, command: str, checkpoint: Path | None, prune: Pruning | None
) -> dict[str, Any]:
    """Evaluate, train and evaluate again; returns what `results.json` holds."""
    import torch

    from grpo.policy.loading import build_policy, save_policy
    from grpo.policy.prefix_sharing import causal_lm
    from grpo.policy.sharding import copy_weights, whole

    config, rewards, batch, splits = prepared.config, prepared.rewards, prepared.batch, prepared.splits
    tokenizer, policy, sampled = prepared.tokenizer, prepared.policy, prepared.sampled
    rollout, evaluated_by, train_rows = prepared.rollout, prepared.evaluated_by, prepared.train_rows
    stop = {"stop": tokenizer.convert_ids_to_tokens(rollout.eos_token_ids)}
    framing = Framing(opened_tag(tokenizer, config.system_prompt), tuple(stop["stop"]))
    origin = record_provenance(config, out, prepared.provenance, command, checkpoint)
    leads = distributed.is_main_process()

    def evaluate_on(examples: list[Example], when: str, lasting: bool = True) -> Evaluation:
        refresh()
        own = range(distributed.rank(), len(examples), distributed.world_size())  # every process answers some of them
        answers = answer(rollout, tokenizer, [examples[i].question for i in own], config)
        with progress(f"evaluating {when}", len(examples), lasting) as advance:
            evaluation = evaluate(examples, of_all_ranks(answers, own), rewards, on_answered=advance)
        if config.rollout.name in ENGINES:  # which want the memory until the next evaluation
            rollout.release_memory()
        return evaluation

    def keep(evaluation: Evaluation, name: str, split: str, path: str) -> None:
        with doing("saving the evaluation"):
            how = protocol(evaluated_by, split, evaluation.examples, {"path": path}) | stop
            if leads:
                save_evaluation(evaluation, out / "evaluations" / f"{name}.json", how)

    def ask_shown(step: int) -> None:
        refresh()
        with doing(f"answering the example questions at step {step}"):
            answers = answer_greedily(rollout, tokenizer, [example.question for example in shown], config)
        if not leads:
            return
        # A run that was interrupted may have asked at this step already.
        lines = [line for line in transcripts(out) if line["step"] < step]
        for example, completion in zip(shown, answers, strict=True):
            lines.append({"step": step, **asdict(example), "completion": completion})
        with written_aside(out / TRANSCRIPTS) as partial:
            partial.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")

    def refresh() -> None:
        if sampled is not policy:
            copy_weights(policy, sampled)

    shown = [JOY, *[example for example in splits.held_out if example != JOY][:2]]
    settings = stored(asdict(config)) | {"batch": asdict(batch), "provenance": sources(origin) | {"settings": None}}
    with doing("starting the tracker"):
        tracker = build_tracker(config.tracking, settings, out, label, origin["tracking"]) if leads else NoTracker()
    origin["tracking"] = tracker.id
    if leads:
        write_json(out / PROVENANCE, origin)

    def look(step: int) -> bool:
        """What is asked of the policy while it trains, its time apart; whether training is to end."""
        started = time.perf_counter()
        steps = trainer.state.max_steps
        if step in (round(steps / 3), round(steps * 2 / 3)) and 0 < step < steps:
            ask_shown(step)
        if config.eval_steps and (step % config.eval_steps == 0 or step == steps):
            validate(step)
        recorder.evaluation_seconds += time.perf_counter() - started
        return recorder.stopped_by is not None

    def validate(step: int) -> None:
        evaluation = evaluate_on(splits.validation, f"at step {step}", lasting=False)
        keep(evaluation, f"step_{step:06d}", "validation", f"step {step}")
        recorder.record_metrics(evaluation.flat("eval"), step)
        low, high = evaluation.intervals["accuracy_strict"]
        right = evaluation.figures["accuracy_strict"]
        say(f"step {step}: {right:.1%} of {len(splits.validation)} validation problems right ({low:.1%} to {high:.1%})")
        # Rank 0 alone knows of the search.
        if distributed.max_over_processes(bool(prune and step and prune(evaluation.figures, step))):
            recorder.stopped_by = PRUNING

    exit_code = 1
    try:
        with Signals() as signals:
            started = time.perf_counter()
            if checkpoint and (out / "evaluations" / "before.parquet").is_file():
                with doing("reading the evaluation before training"):
                    before = load_evaluation(out / "evaluations" / "before.json", splits.held_out, rewards)
            else:
                before = evaluate_on(splits.held_out, "before training")
                keep(before, "before", "held-out", config.model.path)
                if not checkpoint:
                    ask_shown(0)
            evaluated = time.perf_counter()
            # TRL takes seconds to import; they come after there is something to look at.
            with doing("importing TRL"):
                from grpo.training.callbacks import EvaluateCallback, StopOnSignal
                from grpo.training.recorder import Recorder
                from grpo.training.trainer import build_trainer

            with ExitStack() as training:
                recorder = Recorder(
                    config,
                    rewards,
                    tracker,
                    out,
                    lambda steps: training.enter_context(progress("training", steps)),
                    framing,
                )
                with doing("preparing training"):
                    trainer = build_trainer(
                        config, batch, policy, tokenizer, train_rows, rewards, rollout, recorder, out
                    )
                trainer.before_sampling = refresh
                training.callback(trainer.dismiss_engine)
                trainer.add_callback(EvaluateCallback(look))
                trainer.add_callback(StopOnSignal(signals))
                if recorded := recorder.metrics_file.read():
                    tracker.catch_up(recorded)
                built = time.perf_counter()
                try:
                    with signals.noted("finishing the step, then saving"):
                        if checkpoint:
                            trainer.go_on(checkpoint, optimizer_steps(config, len(train_rows)))
                        else:
                            trainer.train()
                except (MemoryError, RuntimeError) as error:
                    if not out_of_memory(error):
                        raise
                    step = trainer.state.global_step + 1
                    raise UserError(out_of_memory_advice(config, batch, step, trainer.sampling)) from error
            trained = time.perf_counter()
            train_seconds = round(recorder.elapsed_seconds() - recorder.evaluation_seconds, 2)
            if signals.received:
                steps = f"{trainer.state.global_step} of {trainer.state.max_steps}"
                raise Stopped(signals.received, f" after step {steps}")
            try:
                # Several processes must not leave it at different places.
                with signals.noted("evaluating, then saving") if distributed.world_size() > 1 else nullcontext():
                    after = evaluate_on(splits.held_out, "after training")
                    keep(after, "after", "held-out", str(out / "policy"))
                    ask_shown(trainer.state.global_step)
                if number := int(distributed.max_over_processes(signals.received or 0)):
                    raise Stopped(number)
            except Stopped:
                trainer.save()
                raise
            ended = time.perf_counter()
            with signals.noted("writing the results"), doing("saving the policy"):
                final = trainer.accelerator.unwrap_model(trainer.model)
                if sampled is not policy:
                    final = whole(lambda: build_policy(config.model, config.seed))
                    copy_weights(policy, final)
                    causal_lm(final).generation_config = causal_lm(sampled).generation_config
                if leads:
                    with written_folder(out / "policy", lambda: set_aside(out, "policy")) as partial:
                        save_policy(final, tokenizer, partial)
                    sign(out, stored(asdict(config)))  # its files, if they may hold code

        if not leads:
            return {}
        differences = compare(after, before)
        results = {
            "before": before.as_json(),
            "after": after.as_json(),
            "difference": {name: asdict(difference) for name, difference in differences.items()},
            "train_seconds": train_seconds,
            "steps": trainer.state.global_step,
            "stopped_by": recorder.stopped_by,
            "seed": config.seed,
            "device": config.device,
            "threads": torch.get_num_threads(),
            "seconds": {
                "start": round(started - prepared.began + built - evaluated, 2),
                "evaluate_before": round(evaluated - started, 2),
                "train": train_seconds,
                "ask_meanwhile": round(recorder.evaluation_seconds, 2),
                "evaluate_after": round(ended - trained, 2),
            },
            "batch": asdict(batch),
            "problems": {"train": len(train_rows), "held_out": len(splits.held_out)},
            "examples": asked_before_and_after(out, trainer.state.global_step),
            "versions": origin["versions"],
            "provenance": origin,
        }
        write_json(out / "results.json", results)
        tracker.summarize(before.flat("before") | after.flat("after"))
        say(f"\n{len(splits.held_out):,} held-out problems, answered greedily")
        main_figures = {name: differences[name] for name in listed(differences, rewards=False)}
        say(comparison_table(("before", "after"), before.figures, after.figures, main_figures))
        for example in results["examples"]:
            title = f"{example['question']} (gold: {example['gold']})"
            say(answers(title, {when: example[when] for when in ("before", "after")}))
        steps = f"{trainer.state.global_step} {plural(trainer.state.global_step, 'step')}"
        if recorder.stopped_by:
            steps += f" of {trainer.state.max_steps} (ended by {recorder.stopped_by})"
        say(f"{steps} in {train_seconds:.0f} s. Everything is in {shortest(out)}")
        exit_code = 0
        return results
    except Stopped as stopped:
        exit_code = stopped.exit_code
        raise
    finally:
        with doing("closing the tracker"):
            tracker.finish(exit_code)


def record_provenance(
    config: Config, out: Path, now: dict[str, Any], command: str, checkpoint: Path | None
) -> dict[str, Any]:
    """Where this run comes from, as `results.json` is to hold it; says what is not as it was when the run began."""
    now, settings = sources(now), stored(asdict(config))
    if not (out / PROVENANCE).is_file():
        if distributed.is_main_process() and now["code"] and not now["code"]["clean"]:
            save_diff(out / "git.diff")
        return {"command": command} | now | {"settings": settings, "tracking": None, "resumed": []}
    began = read_provenance(out / PROVENANCE)
    differences = changes(began, now)
    for difference in differences:
        say(f"Not as when the run began, so its numbers may differ from an unbroken run's: {difference}")
    step = step_of(checkpoint) if checkpoint else 0
    before = flat(began["settings"])
    changed = {key: value for key, value in flat(settings).items() if before.get(key, value) != value}
    began["resumed"].append(
        {"command": command, "started": now["started"], "step": step, "settings": changed, "differences": differences}
    )
    return began


def of_all_ranks(batches: Iterable[BatchOfAnswers], own: Sequence[int]) -> Iterator[BatchOfAnswers]:
    """The answers of this process, whose questions are those numbered `own`, then those of all others."""
    mine: BatchOfAnswers = {}
    for batch in batches:
        batch = {(own[i], sample): each for (i, sample), each in batch.items()}
        mine |= batch
        yield batch
    for rank, theirs in enumerate(distributed.gather_objects(mine)):
        if rank != distributed.rank():
            yield theirs


def transcripts(out: Path) -> list[dict[str, Any]]:
    """What was asked of the policy while it trained, and what it said."""
    return read_lines(out / TRANSCRIPTS, {"step", "question", "gold", "completion"})


def asked_before_and_after(out: Path, last_step: int) -> list[dict[str, str]]:
    lines = transcripts(out)
    said = {(line["step"], line["question"]): line["completion"] for line in lines}
    return [
        {
            "question": line["question"],
            "gold": line["gold"],
            "before": line["completion"],
            "after": said[last_step, line["question"]],
        }
        for line in lines
        if line["step"] == 0
    ]


def out_of_memory_advice(config: Config, batch: Batch, step: int, sampling: bool) -> str:
    if sampling:
        return (
            f"out of memory at step {step} while sampling all {batch.completions} completions of the batch ({batch}). "
            "Lower max_completion_length or prompts_per_step; micro_batch_size plays no part in it."
        )
    advice = "Lower max_completion_length, or train adapters, model.lora_rank=16."
    if fitting := smaller(batch):
        advice = f"micro_batch_size={fitting.per_device} takes the same optimizer steps in smaller parts: {fitting}."
        if config.algorithm.loss_type == "bnpo":
            advice += " Not quite the same: loss_type=bnpo averages within a part."
    elif not config.activation_checkpointing:
        advice = "activation_checkpointing=true takes less. " + advice
    return f"out of memory at step {step} with {batch.per_device} completions at once ({batch}). {advice}"


def banner(config: Config, rewards: RewardStack, batch: Batch, out: Path) -> RenderableType:
    weights = ", ".join(f"{name} {weight:g}" for name, weight in rewards.weights.items())
    steps = config.algorithm.steps_per_generation
    lines = {
        "model": f"{config.model.path} on {config.device}, seed {config.seed}",
        "data": config.data.name + (f" from {shortest(Path(config.data.path))}" if config.data.path else ""),
        "rewards": weights,
        "batch": str(batch) + f", {steps} steps a rollout" * (steps > 1),
        "folder": shortest(out),
    }
    if config.rollout.name in ENGINES:
        lines["rollout"] = (
            f"{config.rollout.name}: run again, or gone on with, the numbers are others in the last digits"
        )
    return heading(lines)
