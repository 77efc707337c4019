"""The policy of a training run under evaluation: on held-out and validation problems, and on example questions.

The session calls it before, during and after training. It knows nothing of the trainer.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from grpo.config.samplers import ENGINES
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.files import atomic_write, read_json_lines
from grpo.core.progress import progress, spinner
from grpo.evaluation.completion import CompletionBatch
from grpo.evaluation.evaluation import Evaluation, evaluate_completions
from grpo.evaluation.generation import generate_completions, texts_in_order
from grpo.evaluation.protocol import describe_template, evaluation_protocol
from grpo.evaluation.shared_completions import SharedCompletions
from grpo.evaluation.storage import save_evaluation
from grpo.policy.chat_template import ChatTemplate, Prompt
from grpo.rewards.reward_state import unchanged_reward_states
from grpo.rewards.stack import RewardStack
from grpo.runs.run_dir import RunDir
from grpo.tasks.example import Example


class PolicyEvaluator:
    """Answers problems with the current policy, scores the answers, and saves both in the run directory.

    All processes answer a part of the problems; the main process saves.
    """

    def __init__(
        self,
        config: Config,
        evaluation_config: Config,
        out: Path,
        policy: Any,
        sampling_model: Any,
        tokenizer: Any,
        sampler: Any,
        rewards: RewardStack,
        examples: Sequence[Example],
        shared: SharedCompletions | None = None,
    ) -> None:
        """
        Args:
            evaluation_config: `config` with the sampler that evaluates: neutral sampling, whatever sampler trains.
            sampling_model: what `sampler` samples from: `policy`, or a full copy of it if training shards the weights.
            examples: the questions that the policy answers before, during and after training.
            shared: where the jobs of a sweep share the completions of the untrained policy.
        """
        self.config, self.evaluation_config, self.run_dir = config, evaluation_config, RunDir(out)
        self.policy, self.sampling_model, self.tokenizer, self.sampler = policy, sampling_model, tokenizer, sampler
        self.rewards, self.examples, self.shared = rewards, examples, shared
        self.chat = ChatTemplate.of(tokenizer, config)
        self.seconds_of_answers = 0.0  # of the last call of `answers` that generated
        self._answers: list[str] = []
        self._step_of_answers: int | None = None  # the step of these answers
        self.end_tokens: list[str] = tokenizer.convert_ids_to_tokens(sampler.end_token_ids)

    def update_sampling_model(self) -> None:
        """Copy the weights of a sharded policy to the model that samples; without shards it is the policy itself."""
        if self.sampling_model is not self.policy:
            from grpo.policy.sharding import copy_full_weights

            copy_full_weights(self.policy, self.sampling_model)

    def evaluate(
        self, examples: Sequence[Example], when: str, lasting: bool = True, samples: int = 1, untrained: bool = False
    ) -> Evaluation:
        """Evaluate on `examples`, by default answered greedily, with a progress bar that stays if `lasting`.

        Args:
            samples: completions of each problem; several are sampled at the temperature of training.
            untrained: the policy is as it was loaded, so that the completions can be those of another job.
        """
        indices = range(distributed.rank(), len(examples), distributed.world_size())
        title = f"{'sampling' if samples > 1 else 'evaluating'} {when}"
        prompts = [examples[i].prompt for i in indices]
        answers = gather_batches(self._generate(prompts, title, untrained, samples, indices), indices)
        with (
            progress(title, len(examples) * samples, lasting, unit="answers") as advance,
            unchanged_reward_states(self.rewards.weights),
        ):
            evaluation = evaluate_completions(examples, answers, self.rewards, on_answered=advance)
        if self.config.rollout.name in ENGINES:  # the engine needs the memory until the next evaluation
            self.sampler.release_memory()
        return evaluation

    def _generate(
        self,
        prompts: Sequence[Prompt],
        title: str,
        untrained: bool,
        samples: int = 1,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[CompletionBatch]:
        """As `generate_completions`, or the stored completions of another job if the policy is `untrained`."""
        self.update_sampling_model()
        temperature = self._temperature(samples)
        generated = generate_completions(
            self.sampler, self.tokenizer, prompts, self.config, samples, temperature, numbers=numbers
        )
        if self.shared is None or not untrained:
            return generated
        ids, end_ids = self.chat.prompt_ids(prompts), self.sampler.end_token_ids
        return self.shared.stored_or_generated(ids, end_ids, samples, temperature, generated, title)

    def save(self, evaluation: Evaluation, name: str, split: str, path: str, samples: int = 1) -> None:
        """Save an evaluation as `evaluations/NAME.json` and `.parquet`.

        Args:
            split: `held-out` or `validation`.
            path: what the protocol names as the path of the policy.
            samples: as in `evaluate`.
        """
        with spinner("saving the evaluation"):
            protocol = evaluation_protocol(
                self.evaluation_config, split, evaluation.examples, {"path": path}, samples, self._temperature(samples)
            )
            protocol |= describe_template(self.chat, self.end_tokens)
            if distributed.is_main_process():
                save_evaluation(evaluation, self.run_dir.evaluation(name), protocol)

    def _temperature(self, samples: int) -> float:
        return self.config.temperature if samples > 1 else 0.0

    def has_answers(self, step: int) -> bool:
        """Whether the answers of this step have been generated."""
        return self._step_of_answers == step

    def answers(self, step: int) -> list[str]:
        """The greedy answers of the policy to the example questions, generated at the first call for this `step`."""
        if not self.has_answers(step):
            started = time.perf_counter()
            title = f"answering the example questions at step {step}"
            prompts = [example.prompt for example in self.examples]
            self._answers = texts_in_order(self._generate(prompts, title, untrained=step == 0))
            self._step_of_answers = step
            self.seconds_of_answers = time.perf_counter() - started
        return self._answers

    def answer_examples(self, step: int) -> None:
        """Answer the example questions greedily and write them to `transcripts.jsonl`."""
        answers = self.answers(step)
        if not distributed.is_main_process():
            return
        # A run that was interrupted may have answered at this step already.
        lines = [line for line in read_transcripts(self.run_dir) if line["step"] < step]
        for example, completion in zip(self.examples, answers, strict=True):
            problem = {"question": example.question, "gold": example.gold}
            lines.append({"step": step, **problem, "completion": completion})
        with atomic_write(self.run_dir.transcripts_jsonl) as partial:
            partial.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def gather_batches(batches: Iterable[CompletionBatch], indices: Sequence[int]) -> Iterator[CompletionBatch]:
    """The answers of this process, to the questions with these `indices`, then those of all other processes."""
    answers: CompletionBatch = {}
    for batch in batches:
        batch = {(indices[i], sample): completion for (i, sample), completion in batch.items()}
        answers |= batch
        yield batch
    for rank, answers_of_rank in enumerate(distributed.gather_objects(answers)):
        if rank != distributed.rank():
            yield answers_of_rank


def read_transcripts(run_dir: RunDir) -> list[dict[str, Any]]:
    """The example questions and the policy's answers at each step at which it answered them."""
    return read_json_lines(run_dir.transcripts_jsonl, {"step", "question", "gold", "completion"})


def answers_before_and_after(run_dir: RunDir, last_step: int) -> list[dict[str, str]]:
    """Each example question with the answers before training and after `last_step`."""
    lines = read_transcripts(run_dir)
    completions = {(line["step"], line["question"]): line["completion"] for line in lines}
    return [
        {
            "question": line["question"],
            "gold": line["gold"],
            "before": line["completion"],
            "after": completions[last_step, line["question"]],
        }
        for line in lines
        if line["step"] == 0 and (last_step, line["question"]) in completions
    ]
