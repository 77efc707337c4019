"""A training run as a sequence of stages: prepare, start the tracker, evaluate, train, evaluate again, save.

`train_run` is what `grpo.train`, each job of a sweep, every worker process and `grpo.reproduce` call. How its directory
and its checkpoint are found is in grpo/training/launch.py.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from grpo.config.batch import optimizer_steps
from grpo.config.samplers import evaluation_rollout
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import say
from grpo.core.device import is_out_of_memory, peak_process_memory
from grpo.core.environment_values import to_interpolations
from grpo.core.errors import UserError
from grpo.core.files import atomic_folder, write_json
from grpo.core.metric_format import format_accuracies
from grpo.core.metric_names import TRAIN_SECONDS, VALIDATION_PREFIX
from grpo.core.progress import Bar, importing, progress, spinner
from grpo.core.redact import redacted
from grpo.core.signals import SignalHandler, StoppedBySignal
from grpo.evaluation.difference import PairedDifference, paired_differences
from grpo.evaluation.evaluation import Evaluation
from grpo.evaluation.shared_completions import SharedCompletions
from grpo.evaluation.storage import load_evaluation
from grpo.policy.chat_template import TemplateFraming
from grpo.policy.requirements import lora_learning_rate_warning, slow_bfloat16_warning
from grpo.reports.headline import changes_sentences
from grpo.rewards.reward_files import unused_file_notes
from grpo.rewards.reward_state import state_notes
from grpo.rewards.stack import rewards_of
from grpo.runs.labels import RunLabel
from grpo.runs.provenance import collect_provenance
from grpo.runs.results import STOPPED_BY_PRUNING
from grpo.runs.run_dir import RunDir
from grpo.runs.signature import sign
from grpo.tasks.embedded_policy import embedded_policy_note
from grpo.training.environment import check_environment
from grpo.training.policy_evaluator import PolicyEvaluator, answers_before_and_after
from grpo.training.run_inputs import load_policy, load_problems, prepare_libraries
from grpo.training.run_output import banner, out_of_memory_advice, say_results
from grpo.training.run_provenance import record_provenance
from grpo.training.trackers.interface import NoTracker
from grpo.training.tracking import build_tracker
from grpo.training.watch import Watch, example_steps

if TYPE_CHECKING:
    from grpo.training.recorder import Recorder
    from grpo.training.trainer import Trainer

# Called with the figures of an evaluation and its step; returns whether the trial of a search ends early.
ShouldPrune = Callable[[dict[str, float], int], bool]


def train_run(
    config: Config,
    out: Path,
    label: RunLabel | None = None,
    command: str = "",
    checkpoint: Path | None = None,
    should_prune: ShouldPrune | None = None,
    prepare_directory: Callable[[], None] = lambda: None,
    shared_completions: Path | None = None,
    exits: bool = True,
) -> dict[str, Any]:
    """Train the run that `config` describes in the directory `out`; returns the content of `results.json`.

    From a complete `checkpoint` in that directory, it resumes as if it had never stopped. `label` is its name in
    trackers; `should_prune` decides after an evaluation whether a trial of a search ends early. `prepare_directory` is
    called in the main process once every check has passed, and is the first to write to the directory.
    `shared_completions` is a folder in which the jobs of a sweep share the completions of the untrained policy.
    `exits`: a second signal ends the process.

    Raises:
        UserError: a mistake that the user can fix.
        StoppedBySignal: a signal came; the steps until then are saved.
    """
    session = Session(config, out, checkpoint, should_prune, shared_completions)
    session.prepare()
    if distributed.is_main_process():
        prepare_directory()
    distributed.barrier()  # the other processes read what the main process has written
    session.start_tracker(label, command)
    exit_code = 1
    try:
        # A second handler, because the stages call `deferred` and read `received`. That of `run_in_directory` is for
        # the time before and after training.
        with SignalHandler(exits) as signals:
            session.signals = signals
            session.evaluate_before()
            session.train()
            session.evaluate_after()
            session.save_policy()
        results = session.save_results() if distributed.is_main_process() else {}
        exit_code = 0
        return results
    except StoppedBySignal as stopped:
        exit_code = stopped.exit_code
        raise
    finally:
        session.rewards.executor.close()
        with spinner("closing the tracker"):
            session.tracker.finish(exit_code)


class Session:
    """The state of one training run. Its public methods are the stages, in the order of `train_run`."""

    signals: SignalHandler
    before: Evaluation
    after: Evaluation
    trainer: "Trainer"
    recorder: "Recorder"
    watch: Watch | None

    def __init__(
        self,
        config: Config,
        out: Path,
        checkpoint: Path | None,
        should_prune: ShouldPrune | None,
        shared_completions: Path | None,
    ) -> None:
        self.config, self.run_dir, self.checkpoint, self.should_prune = config, RunDir(out), checkpoint, should_prune
        self.shared_completions = shared_completions
        self.stage_times = {"start": time.perf_counter()}

    def prepare(self) -> None:
        """Check settings, packages, devices, vLLM server and tracker, then load data and policy.

        Writes nothing to the run directory.

        Raises:
            UserError: a mistake that the user can fix.
        """
        config = self.config
        # The quick checks come first. On a CPU, a mistake ends the command before PyTorch is imported.
        self.rewards = rewards_of(config)
        self.batch = check_environment(config)
        say(banner(to_interpolations(config), self.rewards, self.batch, self.run_dir.path))
        for note in (*state_notes(self.rewards.weights), *unused_file_notes(self.rewards.weights)):
            say(Text(note, style="yellow"))
        for warning in (slow_bfloat16_warning(config), lora_learning_rate_warning(config)):
            if warning:
                say(warning)
        self.splits = load_problems(config, self.rewards)
        questions = [example.question for example in self.splits.train[:20]]
        if about_policy := embedded_policy_note(config.model.path, questions):
            say(Text(f"{about_policy}. Choose another policy with model.path=.", style="yellow"))
        prepare_libraries(config)
        from grpo.sampling.build import build_sampler

        distributed.init_process_group(config.device)
        with spinner("loading the policy"):
            notes = self._load_policy()
        self.sampler = build_sampler(self.sampling_model, self.tokenizer, self.evaluation_config)
        for note in notes:
            say(note)
        with spinner("recording versions and checksums"):
            self.current_provenance = collect_provenance(config, self.splits.train, self.splits.held_out)
            if getattr(self.sampler, "packs_weights", False):  # which is measured, and decides the last bits of logits
                self.current_provenance["hardware"]["matrix_products"] = "packed"
        self.evaluator = self._build_evaluator()

    def _load_policy(self) -> list[str]:
        """Load policy and tokenizer and tokenize the training set; returns notes for the user."""
        import torch

        from grpo.policy.sharding import full_copy

        config = self.config
        loaded = load_policy(config, self.splits)
        self.tokenizer, self.train_examples, policy = loaded.tokenizer, loaded.train_examples, loaded.policy
        # The sampler of this config evaluates. With rollout=fast, training uses it, too; with others, TRL samples
        # (grpo/training/sampling_adapter.py).
        self.evaluation_config = replace(config, rollout=evaluation_rollout(config.rollout))
        if distributed.weights_are_sharded():  # accelerate places the shards; a full copy samples
            sampling_model = full_copy(policy, torch.bfloat16 if config.bf16 else policy.dtype, config.device)
        else:
            sampling_model = policy.to(config.device)
        self.policy, self.sampling_model = policy, sampling_model
        return loaded.notes

    def _build_evaluator(self) -> PolicyEvaluator:
        shared = None
        if self.shared_completions is not None and distributed.world_size() == 1:  # each process has its own prompts
            shared = SharedCompletions(self.shared_completions, self.evaluation_config, self.current_provenance)
        return PolicyEvaluator(
            self.config,
            self.evaluation_config,
            self.run_dir.path,
            self.policy,
            self.sampling_model,
            self.tokenizer,
            self.sampler,
            self.rewards,
            self.splits.examples,
            shared,
        )

    def start_tracker(self, label: RunLabel | None, command: str) -> None:
        """Start the tracker, then write `provenance.json`, which stores the id of the run in the tracker."""
        config, out = self.config, self.run_dir.path
        provenance = record_provenance(config, out, self.current_provenance, command, self.checkpoint)
        # The tracker gets the settings once, at the top level, without the copy of them in the provenance.
        run_facts = {"batch": asdict(self.batch), "provenance": to_interpolations(provenance) | {"settings": None}}
        settings = redacted(asdict(config)) | run_facts
        with spinner("starting the tracker"):
            self.tracker = (
                build_tracker(config.tracking, settings, out, label, provenance["tracking"])
                if distributed.is_main_process()
                else NoTracker()
            )
        self.provenance = provenance | {"tracking": self.tracker.id}
        if distributed.is_main_process():
            write_json(self.run_dir.provenance_json, self.provenance)

    def evaluate_before(self) -> None:
        """Evaluate the policy on the held-out problems, or read the evaluation of a run that is resumed."""
        self._mark_time("evaluation_before_start")
        if self.checkpoint and self.run_dir.evaluation_table("before").is_file():
            with spinner("reading the evaluation before training"):
                self.before = load_evaluation(self.run_dir.evaluation("before"), self.splits.held_out, self.rewards)
        else:
            self.before = self.evaluator.evaluate(self.splits.held_out, "before training", untrained=True)
            self.evaluator.save(self.before, "before", "held-out", self.config.model.path)
            # A resumed run repeats an evaluation whose file is lost, but it has the answers of step 0.
            if not self.checkpoint:
                with spinner("answering the example questions"):
                    self.evaluator.answer_examples(0)
        self.before = self._with_samples(self.before, "before", self.config.model.path)
        self._mark_time("evaluation_before_end")

    def _with_samples(self, evaluation: Evaluation, when: str, path: str) -> Evaluation:
        """The greedy `evaluation` with pass@k and maj@k of `eval_samples` completions per problem, which are saved."""
        if (samples := self.config.eval_samples) is None:
            return evaluation
        name, problems = f"{when}_samples", self.splits.held_out
        if when == "before" and self.checkpoint and self.run_dir.evaluation_table(name).is_file():
            with spinner("reading the samples before training"):
                sampled = load_evaluation(self.run_dir.evaluation(name), problems, self.rewards)
        else:
            sampled = self.evaluator.evaluate(problems, f"{when} training", samples=samples, untrained=when == "before")
            self.evaluator.save(sampled, name, "held-out", path, samples)
        return evaluation.with_at_k(sampled)

    def train(self) -> None:
        """Train to the last step, or until an alarm, a pruned trial or a signal ends training.

        Raises:
            StoppedBySignal: a signal came; the steps until then are saved.
            UserError: memory ran out, or a step is not finite.
        """
        with ExitStack() as cleanup:  # closes the progress bar and the engine
            self._build_trainer(cleanup)
            self._mark_time("training_start")
            try:
                with self.signals.deferred("finishing the step, then saving"):
                    if self.checkpoint:
                        self.trainer.resume_from(
                            self.checkpoint, optimizer_steps(self.config, len(self.train_examples))
                        )
                    else:
                        self.trainer.train()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                step = self.trainer.state.global_step + 1
                raise UserError(
                    out_of_memory_advice(self.config, self.batch, step, self.trainer.is_sampling)
                ) from error
        self._mark_time("training_end")
        self.train_seconds = round(self._train_seconds(), 2)
        if self.signals.received:
            steps = f"{self.trainer.state.global_step} of {self.trainer.state.max_steps}"
            raise StoppedBySignal(self.signals.received, f" after step {steps}")

    def _build_trainer(self, cleanup: ExitStack) -> None:
        # TRL takes seconds to import; the evaluation before training is shown first.
        with importing("TRL"):
            from grpo.training.callbacks import EvaluateCallback, StopOnSignal
            from grpo.training.recorder import Recorder
            from grpo.training.trainer import build_trainer

        config = self.config
        # The alarms name the opened tag and the end tokens in their messages.
        framing = TemplateFraming(self.evaluator.chat.opened, tuple(self.evaluator.end_tokens))

        def start_bar(steps: int) -> Bar:
            return cleanup.enter_context(progress("training", steps, unit="steps"))

        self.recorder = Recorder(config, self.rewards, self.tracker, self.run_dir.path, start_bar, framing)
        with spinner("preparing training"):
            self.trainer = build_trainer(
                config,
                self.batch,
                self.policy,
                self.tokenizer,
                self.train_examples,
                self.rewards,
                self.sampler,
                self.recorder,
                self.run_dir.path,
            )
        self.watch = Watch.of(config, self.evaluator, self.recorder.progress)
        self.trainer.before_sampling = self.evaluator.update_sampling_model
        cleanup.callback(self.trainer.close_engine)
        self.trainer.add_callback(EvaluateCallback(self._evaluate_between_steps))
        self.trainer.add_callback(StopOnSignal(self.signals))
        if logged := self.recorder.metrics_file.read():
            self.tracker.catch_up(logged)

    def _evaluate_between_steps(self, step: int) -> bool:
        """Answer the example questions and validate at their steps; returns whether training ends.

        The example questions are answered here at a third and at two thirds of training, and by the stages before and
        after it. The time is counted apart from that of training.
        """
        started = time.perf_counter()
        last_step = self.trainer.state.max_steps
        if step in example_steps(last_step) and 0 < step < last_step:
            self.evaluator.answer_examples(step)
        elif step == last_step:
            self.evaluator.answers(step)  # in every process, for `watch` and for `evaluate_after`
        if self.watch:
            self.watch.after_step(step, last_step, self._train_seconds())
        if self.config.eval_steps and (step % self.config.eval_steps == 0 or step == last_step):
            self._validate(step)
        self.recorder.between_steps_seconds += time.perf_counter() - started
        return self.recorder.stopped_by is not None

    def _train_seconds(self) -> float:
        return self.recorder.elapsed_seconds() - self.recorder.between_steps_seconds

    def _validate(self, step: int) -> None:
        validation = self.splits.validation
        evaluation = self.evaluator.evaluate(validation, f"at step {step}", lasting=False, untrained=step == 0)
        self.evaluator.save(evaluation, f"step_{step:06d}", "validation", f"step {step}")
        self.recorder.record_metrics(evaluation.as_metrics(VALIDATION_PREFIX), step)
        right = format_accuracies(evaluation.figures, evaluation.labels, evaluation.intervals)
        say(f"step {step}: of {len(validation):,} validation problems {right}")
        # Only the main process knows of the search. At step 0 a trial has not trained yet.
        ends_early = self.should_prune is not None and step > 0 and self.should_prune(evaluation.figures, step)
        if distributed.max_over_processes(ends_early):
            self.recorder.stopped_by = STOPPED_BY_PRUNING

    def evaluate_after(self) -> None:
        """Evaluate the trained policy on the held-out problems.

        Raises:
            StoppedBySignal: a signal came; a checkpoint of the last step is saved.
        """
        try:
            # Several processes must not be interrupted at different points.
            with self.signals.deferred("evaluating, then saving") if distributed.world_size() > 1 else nullcontext():
                self.after = self.evaluator.evaluate(self.splits.held_out, "after training")
                self.evaluator.save(self.after, "after", "held-out", str(self.run_dir.policy))
                self.after = self._with_samples(self.after, "after", str(self.run_dir.policy))
                with spinner("answering the example questions"):
                    self.evaluator.answer_examples(self.trainer.state.global_step)
            if signal_number := int(distributed.max_over_processes(self.signals.received or 0)):
                raise StoppedBySignal(signal_number)
        except StoppedBySignal:
            self.trainer.save_checkpoint()
            raise
        self._mark_time("evaluation_after_end")

    def save_policy(self) -> None:
        """Save the trained policy, with adapters merged, and sign the run."""
        from grpo.policy.loading import build_policy, save_policy
        from grpo.policy.prefix_sharing import unwrap_adapters
        from grpo.policy.sharding import build_unsharded, copy_full_weights

        with self.signals.deferred("writing the results"), spinner("saving the policy"):
            final = self.trainer.accelerator.unwrap_model(self.trainer.model)
            if self.sampling_model is not self.policy:
                final = build_unsharded(lambda: build_policy(self.config.model, self.config.seed))
                copy_full_weights(self.policy, final)
                unwrap_adapters(final).generation_config = unwrap_adapters(self.sampling_model).generation_config
            if distributed.is_main_process():
                with atomic_folder(
                    self.run_dir.policy, lambda: self.run_dir.move_to_previous(self.run_dir.policy)
                ) as partial:
                    save_policy(final, self.tokenizer, partial)
                # `save_settings` has signed the settings. If they run code, the signature must include the files of
                # the saved policy, so that this user can resume without trust_run.
                sign(self.run_dir.path, redacted(asdict(self.config)))

    def save_results(self) -> dict[str, Any]:
        """Write `results.json`, print the comparison, and return the results."""
        step = self.trainer.state.global_step
        differences = paired_differences(self.after, self.before)
        results = self._results(step, differences)
        write_json(self.run_dir.results_json, results)
        figures = self.before.as_metrics("before/") | self.after.as_metrics("after/")
        self.tracker.summarize(figures, " ".join(changes_sentences(results, self.after.labels)))
        say_results(results, self.before, self.after, differences, self.trainer.state.max_steps, self.run_dir.path)
        return results

    def _results(self, step: int, differences: dict[str, PairedDifference]) -> dict[str, Any]:
        import torch

        def seconds(first: str, second: str) -> float:
            return self.stage_times[second] - self.stage_times[first]

        return {
            "before": self.before.as_json(),
            "after": self.after.as_json(),
            "difference": {name: asdict(difference) for name, difference in differences.items()},
            TRAIN_SECONDS: self.train_seconds,
            "steps": step,
            "stopped_by": self.recorder.stopped_by,
            "seed": self.config.seed,
            "device": self.config.device,
            "threads": torch.get_num_threads(),
            "seconds": {
                # Before and after the evaluation before training: TRL is imported after it.
                "start": round(
                    seconds("start", "evaluation_before_start") + seconds("evaluation_before_end", "training_start"), 2
                ),
                "evaluate_before": round(seconds("evaluation_before_start", "evaluation_before_end"), 2),
                "train": self.train_seconds,
                "ask_meanwhile": round(self.recorder.between_steps_seconds, 2),
                "evaluate_after": round(seconds("training_end", "evaluation_after_end"), 2),
            },
            "peak_memory_bytes": peak_process_memory(self.config.device),
            "batch": asdict(self.batch),
            "problems": {"train": len(self.train_examples), "held_out": len(self.splits.held_out)},
            "examples": answers_before_and_after(self.run_dir, step),
            "versions": self.provenance["versions"],
            "provenance": self.provenance,
        }

    def _mark_time(self, stage: str) -> None:
        self.stage_times[stage] = time.perf_counter()
