"""Config -> GRPOConfig -> GRPOTrainer, and what is recorded while it trains."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from rich.text import Text
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from grpo.alarms import Alarm, Alarms
from grpo.batching import Batch
from grpo.config import Config
from grpo.console import say
from grpo.diagnostics import attribute, measure
from grpo.errors import UserError
from grpo.rewards import RewardStack, score
from grpo.rollout import Fast, Rollout
from grpo.shared_prompts import LogProbs, Packed, Unsupported, distinct, forward, share_prompts
from grpo.tracking import Tracker

# The most logits, tokens x vocabulary, that are held at once on a CPU; beyond it, TRL's head takes them in pieces.
PLAIN_HEAD = 2**25


def build_args(config: Config, batch: Batch, rewards: RewardStack, out: Path) -> GRPOConfig:
    """TRL's arguments. Those that have no setting of ours are set here for the reason beside them."""
    return GRPOConfig(
        output_dir=str(out / "checkpoints"),
        seed=config.seed,
        use_cpu=config.device == "cpu",
        num_generations=batch.num_generations,
        per_device_train_batch_size=batch.per_device,
        gradient_accumulation_steps=batch.accumulation,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        # rollout=fast has no such settings: neutral.
        top_p=1.0 if config.rollout.top_p is None else config.rollout.top_p,
        top_k=config.rollout.top_k or 0,
        min_p=config.rollout.min_p,
        repetition_penalty=config.rollout.repetition_penalty or 1.0,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        num_train_epochs=config.num_train_epochs,
        bf16=config.bf16,
        activation_checkpointing=config.activation_checkpointing,
        optim=config.optimizer.name,
        learning_rate=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        adam_beta1=config.optimizer.beta1,
        adam_beta2=config.optimizer.beta2,
        max_grad_norm=config.optimizer.max_grad_norm,
        lr_scheduler_type=config.optimizer.schedule,
        warmup_steps=config.optimizer.warmup,
        loss_type=config.algorithm.loss_type,
        beta=config.algorithm.beta,
        scale_rewards=config.algorithm.scale_rewards,
        epsilon=config.algorithm.epsilon,
        epsilon_high=config.algorithm.epsilon_high,
        importance_sampling_level=config.algorithm.importance_sampling_level,
        num_iterations=config.algorithm.num_iterations,
        mask_truncated_completions=config.algorithm.mask_truncated_completions,
        reward_weights=list(rewards.weights.values()),
        logging_steps=config.logging_steps,
        save_strategy="no" if config.save_steps is None else "steps",
        save_steps=config.save_steps or 500,
        save_total_limit=config.save_total_limit,
        # Trackers are ours (grpo/tracking.py): transformers' own never end a run, and log hundreds of other keys.
        report_to=[],
        # TRL loads the reference policy of the KL term by itself, from the same revision.
        model_init_kwargs={"revision": config.model.revision} if config.model.revision else None,
        disable_tqdm=True,
        # A worker process would cost more than the few strings it hands over.
        dataloader_num_workers=0,
        dataloader_pin_memory=config.device == "cuda",
    )


class Trainer(GRPOTrainer):
    """TRL's trainer with our rollouts, and with each prompt computed once a group in the training step.

    What is overridden computes what TRL 1.16 computes; tests/test_trl.py names the methods and holds them to it.
    """

    args: Any
    model: Any
    num_generations: int
    _buffered_inputs: Any

    def __init__(self, *args: Any, rollout: Rollout, share_prompts: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rollout = rollout
        self.shared = share_prompts and self._can_share()
        self._advantages: Tensor | None = None

    def _can_share(self) -> bool:
        try:
            if self.aux_loss_enabled:
                raise Unsupported("its load-balancing loss counts every prompt K times")
            if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in self.model.modules()):
                raise Unsupported("dropout is drawn for every completion anew")
            for model in (self.model, self.ref_model):
                if model is not None:
                    share_prompts(self.accelerator.unwrap_model(model))
        except Unsupported as reason:
            self._say_fallback(reason)
            return False
        return True

    def _say_fallback(self, reason: Unsupported) -> None:
        say(f"share_prompts=true does not go with this policy: {reason}. The training step is TRL's own.")

    def _tokenize_prompts(self, prompts: list) -> tuple[list, Any, dict]:
        """Each distinct prompt once."""
        first, group = distinct([json.dumps(prompt) for prompt in prompts])
        ids, images, fields = super()._tokenize_prompts([prompts[i] for i in first])
        return [ids[i] for i in group], images, fields

    def _generate_single_turn(
        self, prompt_ids: list, images: Any, multimodal_fields: dict, num_generations: int, *args: Any, **kwargs: Any
    ) -> tuple[list, None]:
        if isinstance(self.rollout, Fast):
            return self.rollout.complete(prompt_ids, self.args.max_completion_length, self.temperature), None
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, *args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """As TRL's in training, but the completions of a prompt stay together instead of being shuffled."""
        if not self.shared or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), steps)
        return self._buffered_inputs[self._step % steps]

    def _calculate_rewards(self, *args: Any) -> Tensor:
        """The raw scores (N, R) of all ranks' completions; logs what their advantages are made of."""
        scores: Tensor = super()._calculate_rewards(*args)
        if self.model.training:
            raw = scores.cpu().double().numpy()
            split = attribute(
                raw,
                self.reward_weights.double().cpu().numpy(),
                self.num_generations,
                self.scale_rewards,
                self.multi_objective_aggregation,
            )
            correct = raw[:, self.reward_func_names.index("correctness")] > 0
            figures = measure(split, self.reward_func_names, correct, self.num_generations)
            for name, value in figures.items():
                self._metrics["train"][name].append(value)
        return scores

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        # Rows of zero advantage get no gradient from the policy loss, so without other terms they need none at all.
        policy_loss_alone = self.beta == 0 and not self._entropy_bonus_enabled
        self._advantages = inputs["advantages"] if policy_loss_alone else None
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._advantages = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities and entropies (B, C) of the completions, in (B, P + C) ids of padded rows.

        Every forward is of `batch_size` rows, or of all of them.
        """
        size = batch_size or len(input_ids)
        if self.shared and attention_mask[:, -logits_to_keep].any():
            try:
                pieces = [
                    self._shared(model, input_ids[i : i + size], attention_mask[i : i + size], logits_to_keep)
                    for i in range(0, len(input_ids), size)
                ]
                logps, entropies = (torch.cat(parts) for parts in zip(*pieces, strict=True))
                return logps, entropies if compute_entropy else None, None
            except Unsupported as reason:
                self._say_fallback(reason)
                self.shared = False
        return super()._get_per_token_logps_and_entropies(
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            batch_size=batch_size,
            compute_entropy=compute_entropy,
            compute_aux_loss=compute_aux_loss,
            **multimodal,
        )

    def _shared(self, model: Any, ids: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (B, C) by way of shared prompts; completions that came out alike, once."""
        tokens = ids.where(mask.bool(), -1).cpu().numpy()
        first, alike = distinct([row.tobytes() for row in tokens])
        prompts = distinct([row.tobytes() for row in tokens[first, :-width]])[1]
        ids, mask = ids[first], mask[first]
        logps = entropies = ids.new_zeros(len(ids), width, dtype=torch.float32)
        for rows, with_gradient in self._parts(
            torch.tensor(prompts), torch.tensor(alike), mask[:, -width].bool().cpu()
        ):
            rows = rows.to(ids.device)
            packed = Packed(ids[rows], mask[rows], width)
            with torch.set_grad_enabled(with_gradient), self.accelerator.autocast():
                of_logps, of_entropies = self._head(model, packed)
            logps = logps.to(of_logps.dtype).index_copy(0, rows, packed.unpack(of_logps))
            entropies = entropies.index_copy(0, rows, packed.unpack(of_entropies.float()))
        return logps[alike], entropies[alike]

    def _parts(self, prompts: Tensor, alike: Tensor, real: Tensor) -> list[tuple[Tensor, bool]]:
        """Which of the distinct rows to forward together, and whether with a gradient; rows without tokens in none."""
        gradient = torch.full_like(real, torch.is_grad_enabled())
        if torch.is_grad_enabled() and self._advantages is not None:
            moved = alike[self._advantages.cpu() != 0]
            gradient = torch.isin(prompts, prompts[moved][real[moved]])
            if not gradient.any():
                # One prompt keeps its gradient of zero: without any, the optimizer would take the step for none.
                gradient = prompts == prompts[real][0]
        parts = [(((gradient == needs) & real).nonzero()[:, 0], needs) for needs in (True, False)]
        return [(rows, needs) for rows, needs in parts if len(rows)]

    def _head(self, model: Any, packed: Packed) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (M,) of the predicted tokens."""
        predicting, vocabulary = packed.predicting, model.config.get_text_config().vocab_size
        small = packed.ids.device.type == "cpu" and len(predicting) * vocabulary <= PLAIN_HEAD
        if small and not self._entropy_bonus_enabled:
            logits = forward(model, packed, logits_to_keep=predicting).logits[0] / self.temperature
            logps, entropies = LogProbs.apply(logits, packed.labels[predicting])
            return logps, entropies
        outputs = forward(model, packed, shift_labels=packed.labels[None], fused_lm_head=True)
        logps = outputs.log_probs[0, predicting]
        # The reference policy's head gives no entropy.
        return logps, logps.detach() if outputs.entropy is None else outputs.entropy[0, predicting]


def reward_function(name: str, log_columns: bool) -> Callable[..., Any]:
    """Our reward `name` as TRL calls it; with `log_columns` it also hands question and gold to TRL's table."""

    def function(completions: list[Any], gold: list[str], question: list[str], log_extra: Any, **_: Any) -> list[float]:
        if log_columns:
            log_extra("question", question)
            log_extra("gold", gold)
        return score(name, [messages[0]["content"] for messages in completions], gold, question)

    function.__name__ = name
    return function


class Recorder(TrainerCallback):
    """Writes metrics.jsonl and completions/, feeds the tracker, and tells the progress bar."""

    def __init__(
        self,
        config: Config,
        rewards: RewardStack,
        tracker: Tracker,
        out: Path,
        start_bar: Callable[[int], Callable[[int, str], None]],
    ) -> None:
        self.config, self.rewards, self.tracker, self.start_bar = config, rewards, tracker, start_bar
        self.metrics_file = out / "metrics.jsonl"
        self.completions = out / "completions"
        try:
            self.completions.mkdir()
        except FileExistsError as error:
            raise UserError(
                f"{out} holds a run already; give this one another folder, hydra.run.dir=FOLDER."
            ) from error
        self.table: list[list[Any]] = []
        self.logs: dict[str, Any] = {}
        self.beside = ""
        self.last_step = 0
        self.sampled_at = 0
        self.quarters = 0
        self.alarms = Alarms(config, rewards)
        self.stopped_by: str | None = None

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        self.advance = self.start_bar(state.max_steps)

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            control.should_log = True  # whatever logging_steps is, the last step is on record

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or "train_runtime" in logs:
            return
        step = state.global_step
        # TRL hands on None for what is nan throughout.
        metrics = {
            name: math.nan if value is None else value
            for name, value in logs.items()
            if isinstance(value, int | float | None)
        }
        self.record(metrics, step)
        for alarm in self.alarms.see(metrics, step):
            self._sound(alarm, step, control)
        # A further pass over the same completions (algorithm.num_iterations) has no rewards of its own.
        sampled = "reward" in metrics
        self.beside = beside(metrics) if sampled else self.beside
        self.advance(step - self.last_step, self.beside)
        self.last_step = step
        if not sampled:
            return
        columns, rows = self._latest_completions(step)
        pd.DataFrame(rows, columns=columns).to_parquet(self.completions / f"step_{step:06d}.parquet", index=False)
        self._sample_for_table(columns, rows, step, state.max_steps)

    def record(self, metrics: dict[str, float], step: int) -> None:
        """A line of metrics.jsonl, and the same for the tracker."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._write({"step": step, **finite})
        self.tracker.log(metrics, step)

    def _write(self, line: dict[str, Any]) -> None:
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def _sound(self, alarm: Alarm, step: int, control: TrainerControl) -> None:
        say(Text(f"Alarm: {alarm.message}", style="yellow"))
        self._write({"step": step, "alarm": alarm.name, "message": alarm.message})
        self.tracker.alert(alarm.title, alarm.message, step)
        if alarm.name in self.config.stop_on:
            self.stopped_by = alarm.name
            control.should_training_stop = True

    def _sample_for_table(self, columns: list[str], rows: list[list[Any]], step: int, last: int) -> None:
        """Keep a group now and then, and log the table anew after each quarter of the run."""
        every, limit = self.config.tracking.completions_every, self.config.tracking.completions_rows
        if limit and (not self.table or step - self.sampled_at >= every or step == last):
            # A whole group, so that rewards can be compared where the advantages were computed.
            self.table = (self.table + rows[: self.config.num_generations])[-limit:]
            self.sampled_at = step
        if self.table and step * 4 // last > self.quarters:
            self.quarters = step * 4 // last
            self.tracker.log_table("completions", columns, self.table, step)

    def _latest_completions(self, step: int) -> tuple[list[str], list[list[Any]]]:
        """The completions of the last batch as TRL keeps them, a row each."""
        scores = {name: list(self.logs["rewards"][name]) for name in self.rewards.weights}
        completions = [messages[0]["content"] for messages in self.logs["completion"]]
        questions, golds = self.logs["extra"]["question"], self.logs["extra"]["gold"]
        columns = ["step", "question", "gold", "completion", *scores, "total", "advantage"]
        total, advantages = self.rewards.total(scores), list(self.logs["advantages"])
        rows = zip(questions, golds, completions, *scores.values(), total, advantages, strict=True)
        return columns, [[step, *row] for row in rows]


class Looks(TrainerCallback):
    """Calls `look` with the step, before the first step and after every one."""

    def __init__(self, look: Callable[[int], None]) -> None:
        self.look = look

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        self.look(state.global_step)

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        self.look(state.global_step)


def beside(metrics: dict[str, float]) -> str:
    """What stands beside the progress bar."""
    parts = [f"reward {metrics['reward']:.2f}"]
    if "rewards/correctness/mean" in metrics:
        parts.append(f"correct {metrics['rewards/correctness/mean'] / 2:.0%}")
    parts.append(f"{metrics['completions/mean_length']:.0f} tokens")
    return ", ".join(parts)


def build_trainer(
    config: Config,
    batch: Batch,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: list[dict[str, Any]],
    rewards: RewardStack,
    rollout: Rollout,
    recorder: Recorder,
    out: Path,
) -> Trainer:
    if config.algorithm.beta > 0 and config.model.init == "random":
        # TRL loads the reference policy from where the policy came from; random weights must first be there.
        policy.save_pretrained(out / "reference")
        policy.config._name_or_path = str(out / "reference")
    trainer = Trainer(
        rollout=rollout,
        share_prompts=config.share_prompts,
        model=policy,
        reward_funcs=[reward_function(name, log_columns=i == 0) for i, name in enumerate(rewards.weights)],
        args=build_args(config, batch, rewards, out),
        train_dataset=Dataset.from_list(train_rows),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    recorder.logs = trainer._logs
    return trainer
