"""Config -> GRPOConfig -> GRPOTrainer, and what is recorded while it trains."""

import json
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from datasets import Dataset
from rich.text import Text
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.utils.data import Sampler as IndexSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from grpo.config.batch import Batch
from grpo.config.samplers import ENGINES, VLLM
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import say, shortest
from grpo.core.errors import UserError, first_line
from grpo.core.files import write_json
from grpo.policy.device import free_memory, out_of_memory
from grpo.policy.loading import source
from grpo.policy.prefix_sharing import LogProbs, Packed, Unsupported, distinct, forward, share_prompts
from grpo.rewards.advantages import attribute, measure
from grpo.rewards.registry import NotFinite, RewardStack, score
from grpo.runs.checkpoints import PREFIX, aside, keep_records, run_state, sealed
from grpo.sampling.engines import arguments
from grpo.sampling.policy_state import cast_for_engine, preserve_frozen_weights
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from grpo.sampling.sampler import Sampler
from grpo.training.recorder import AtStart, Recorder

# The most logits, tokens x vocabulary, that are held at once on a CPU; beyond it, TRL's head takes them in pieces.
PLAIN_HEAD = 2**25
# Files of a checkpoint that hold weights.
WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")


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
        # Neutral where the sampler has no such settings.
        top_p=1.0 if config.rollout.top_p is None else config.rollout.top_p,
        top_k=config.rollout.top_k or 0,
        min_p=config.rollout.min_p,
        repetition_penalty=config.rollout.repetition_penalty or 1.0,
        **arguments(config),
        max_steps=-1 if config.max_steps is None else config.max_steps,
        num_train_epochs=config.num_train_epochs,
        bf16=config.bf16,
        ddp_find_unused_parameters=False,  # there are none
        ddp_broadcast_buffers=False,  # they never change, and the processes do not make the same number of forwards
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
        use_bias_correction_kl=config.algorithm.kl_bias_correction,
        scale_rewards=config.algorithm.scale_rewards,
        epsilon=config.algorithm.epsilon,
        epsilon_high=config.algorithm.epsilon_high,
        importance_sampling_level=config.algorithm.importance_sampling_level,
        num_iterations=config.algorithm.num_iterations,
        steps_per_generation=batch.accumulation * config.algorithm.steps_per_generation,
        mask_truncated_completions=config.algorithm.mask_truncated_completions,
        reward_weights=list(rewards.weights.values()),
        logging_steps=config.logging_steps,
        save_strategy="no" if config.save_steps is None else "steps",
        save_steps=config.save_steps or 500,
        save_total_limit=config.save_total_limit,
        # A loss that is not finite is looked for here; transformers would log the mean of others in its place.
        logging_nan_inf_filter=False,
        trust_remote_code=config.model.trust_remote_code,
        # Trackers are those of grpo/training/tracking.py: transformers' own never end a run, and log hundreds of keys.
        report_to=[],
        # TRL loads the reference policy of the KL term by itself.
        model_init_kwargs=source(config.model) if config.algorithm.beta > 0 and not config.model.lora_rank else None,
        disable_tqdm=True,
        # A worker process would cost more than the few strings it hands over.
        dataloader_num_workers=0,
        dataloader_pin_memory=config.device == "cuda",
    )


class Trainer(GRPOTrainer):
    """TRL's trainer with our rollouts, each prompt computed once a group in the training step, and whole checkpoints
    from which a run goes on as if it had never stopped.

    The overrides compute what TRL 1.16 computes; tests/training/test_trl.py compares each with its method.
    """

    args: Any
    model: Any
    lr_scheduler: Any
    num_generations: int
    reward_funcs: Any
    vllm_generation: Any
    _buffered_inputs: Any

    def __init__(self, rollout: Sampler | None, share_prompts: bool, recorder: "Recorder", **kwargs: Any) -> None:
        """`rollout`: ours; None samples with the engine that the arguments name."""
        super().__init__(callbacks=[recorder], **kwargs)
        if self.is_fsdp_enabled and self.args.bf16:
            # accelerate's own would also return log-probabilities, and add up gradients, in bfloat16.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
            )
        if self.use_vllm:
            # It seeded this process anew as it started, whatever our seed; processes that share a copy need the same.
            set_seed(self.args.seed + self.accelerator.process_index // self.vllm_tensor_parallel_size)
            sync = self.vllm_generation.sync_weights
            self.vllm_generation.sync_weights = preserve_frozen_weights(self.model)(sync)
        self.rollout, self.recorder = rollout, recorder
        self.shared = share_prompts and self._can_share()
        self.sampling = False
        self.before_sampling: Callable[[], None] = lambda: None
        self._advantages: Tensor | None = None
        self._aside: Path | None = None  # where a checkpoint is being written
        self._losses: list[Tensor] = []  # of the micro-batches of this step
        self._unscored = False  # a reward of the present rollout was not finite

    def go_on(self, checkpoint: Path, steps: int) -> None:
        """Train up to `steps` from a complete checkpoint of this run.

        Raises:
            UserError: a file of the checkpoint does not hold what it should.
        """
        own = run_state(checkpoint)

        def restore() -> None:
            with reading(own):
                self._restore(state)

        with reading(own):
            state = torch.load(own, weights_only=True)
            finished = int(state["global_step"]) >= steps or state["recorder"]["stopped_by"]
        with reading(checkpoint / "trainer_state.json"):
            reached = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if finished:
            self._load_from_checkpoint(str(checkpoint))
            self.state = reached
            restore()
        else:
            self.add_callback(AtStart(restore))
            self.train(resume_from_checkpoint=str(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        weights = [path for name in WEIGHTS for path in sorted(folder.glob(name))]
        with reading(*weights or [folder / WEIGHTS[0]]):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint with other weights; transformers only warns."""
        tensors = dict(self.model.state_dict(keep_vars=True))
        loaded = {id(tensor) for name, tensor in tensors.items() if name not in load_result.missing_keys}
        missing = [name for name in load_result.missing_keys if id(tensors.get(name)) not in loaded]  # except tied ones
        if missing or load_result.unexpected_keys:
            raise ValueError(f"not the weights of this policy: {[*missing, *load_result.unexpected_keys][0]}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        folder = Path(checkpoint or "")
        if (schedule := folder / "scheduler.pt").is_file() and not self.is_deepspeed_enabled:
            with reading(schedule):  # read first, so that a later failure is the optimizer's
                self.lr_scheduler.load_state_dict(torch.load(schedule, weights_only=True))
        with reading(folder / "optimizer.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading(Path(checkpoint or "") / "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        suffix = f"_{distributed.rank()}" if distributed.world_size() > 1 else ""
        with reading(Path(checkpoint or "") / f"rng_state{suffix}.pth"):
            super()._load_rng_state(checkpoint)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> IndexSampler:
        return Shuffled(super()._get_train_sampler(dataset))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        pass  # a run describes itself in its own folder

    def save(self) -> None:
        self._save_checkpoint(self.model, None)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._aside) if self._aside else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = Path(self.args.output_dir) / f"{PREFIX}{self.state.global_step}"
        try:
            with ExitStack() as sealing:
                failure = None
                try:
                    if distributed.is_main_process():
                        sealing.enter_context(sealed(checkpoint))
                except OSError as error:
                    failure = error
                all_succeed(failure)
                self._aside = aside(checkpoint)
                self._write_checkpoint(model, trial, self._aside / checkpoint.name)
        except (OSError, SafetensorError) as error:
            say(
                Text(
                    f"No checkpoint of step {self.state.global_step}: it could not be written ({first_line(error)}). "
                    "Training goes on, and earlier checkpoints stay.",
                    style="yellow",
                )
            )
        else:
            if distributed.is_main_process():
                rotate_checkpoints(self.args.output_dir, self.args.save_total_limit)
        finally:
            self._aside = None

    def _write_checkpoint(self, model: Any, trial: Any, folder: Path) -> None:
        """This process's part.

        Raises:
            OSError: any of the processes could not write its own.
        """
        failure = None
        try:
            super()._save_checkpoint(model, trial)
            torch.save(self._run_state(), run_state(folder))
            if distributed.is_main_process():
                keep_records(self.recorder.out, folder)
        except (OSError, SafetensorError, RuntimeError) as error:
            # What torch.save raises when a disk is full has no type of its own.
            if isinstance(error, RuntimeError) and not re.search("inline_container|PytorchStreamWriter", str(error)):
                raise
            failure = error
        all_succeed(failure)

    def _run_state(self) -> dict[str, Any]:
        under_way = self._step % (self.args.steps_per_generation * self.num_iterations)
        return {
            "global_step": self.state.global_step,
            "step": self._step,
            "inputs": self._buffered_inputs if under_way else None,
            "unscored": self._unscored,
            "metrics": dict(self._metrics["train"]),
            "logs": {name: kept for name, kept in _plain(self._logs).items() if name != "prompt"},  # nobody reads it
            "loss": self._tr_loss,
            "last_logged": self._globalstep_last_logged,
            "recorder": self.recorder.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._step, self._buffered_inputs, self._unscored = state["step"], state["inputs"], state["unscored"]
        self._metrics["train"].update(state["metrics"])
        logs: dict[str, Any] = self._logs
        for name, kept in state["logs"].items():
            if isinstance(kept, dict):
                for column, values in kept.items():
                    logs[name][column].extend(values)
            else:
                logs[name].extend(kept)
        self._tr_loss = state["loss"].to(self.args.device)
        self._globalstep_last_logged = state["last_logged"]
        self.recorder.restore(state["recorder"])

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
    ) -> tuple[list, list | None]:
        """Completions and, of vLLM, the log-probabilities that it sampled them with."""
        self.sampling = True
        self.recorder.tell("sampling")
        logps = None
        if self.rollout is not None and (
            isinstance(self.rollout, PrefixSharingSampler) or distributed.weights_are_sharded()
        ):
            self.before_sampling()
            completions = self.rollout.complete(prompt_ids, self.args.max_completion_length, self.temperature)
        else:
            with self._lent(), self._served():
                completions, logps = super()._generate_single_turn(
                    prompt_ids, images, multimodal_fields, num_generations, *args, **kwargs
                )
        if self.rollout is None:
            self._require_whole(completions, len(prompt_ids))
        self.sampling = False
        return completions, logps

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """The policy as transformers' engine takes it; TRL itself would cast it for good."""
        if not self.use_transformers_continuous_batching:
            yield
            return
        bf16, self.args.bf16 = self.args.bf16, False
        try:
            with cast_for_engine(self.model, bf16):
                yield
        finally:
            self.args.bf16 = bf16

    @contextmanager
    def _served(self) -> Iterator[None]:
        """A server that fails ends the run in a line.

        TRL's client tries again for a minute, then raises what requests does, or an Exception of its own.
        """
        try:
            yield
        except Exception as error:
            asked = self.use_vllm and self.vllm_mode == "server"
            if not asked or not (isinstance(error, OSError) or str(error).startswith("Request failed")):
                raise
            raise UserError(
                f"step {self.state.global_step + 1}: the vLLM server at {self.args.vllm_server_base_url} failed: "
                f"{first_line(error)}. Checkpoints stay; once it runs again, resume={shortest(self.recorder.out)}."
            ) from error

    def _require_whole(self, completions: list[list[int]], wanted: int) -> None:
        """
        Raises:
            UserError: an engine failed; transformers' then returns what it had, were it nothing.
        """
        limit = self.args.max_completion_length
        ends = set(self.eos_token_ids)
        whole = sum(len(ids) == limit or bool(ids and ids[-1] in ends) for ids in completions)
        if whole < wanted:
            raise UserError(
                f"step {self.state.global_step + 1}: rollout={self.recorder.config.rollout.name} gave up on "
                f"{wanted - whole} of {wanted} completions; train.log may say why. Where memory ran out, lower "
                "max_completion_length or prompts_per_step; rollout=fast needs less."
            )

    def dismiss_engine(self) -> None:
        """Training is over: what vLLM holds is given back."""
        if not self.use_vllm:
            return
        if client := getattr(self.vllm_generation, "vllm_client", None):
            client.close_communicator()
        del self.vllm_generation
        if self.accelerator.num_processes == 1:
            # TRL set them for vLLM; the next job of a sweep would take itself for a part of a run of many processes.
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
                os.environ.pop(name, None)
        free_memory()

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
        self.recorder.tell("scoring")
        scores: Tensor = super()._calculate_rewards(*args)
        troubles = [function.trouble for function in self.reward_funcs if function.trouble]
        self._unscored = bool(scores.isnan().any())
        if self._unscored:
            _, prompts, completions, *_ = args
            first, *_ = (each for of_rank in distributed.gather_objects(troubles) for each in of_rank)
            self._not_finite(first.rstrip("."), [], {"prompt": prompts, "completion": completions})
            return torch.full_like(scores, math.nan)  # TRL would take the others for the whole
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

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        self._losses.append(loss)
        return loss

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """The norm of the gradient that the optimizer is about to take; none is left where it must not."""
        norm = super()._clip_grad_norm(model)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        elif norm is None:  # DeepSpeed tells none of its first steps
            norm = torch.zeros(())
        loss, self._losses = self.accelerator.reduce(torch.stack(self._losses).sum(), "mean"), []
        if self._unscored or not torch.isfinite(loss + norm):
            if not self._unscored:
                what = f"the loss is {loss.item():.3g} and the norm of its gradient {norm.item():.3g}"
                self._not_finite(what, self._buffered_inputs, {"loss": loss, "grad_norm": norm})
            for parameter in model.parameters():
                parameter.grad = None
        return norm

    def _not_finite(self, what: str, inputs: list[dict[str, Any]], more: dict[str, Any]) -> None:
        """Keep what a step that must not be taken was made of, and say so.

        Raises:
            UserError: such a step ends the run.
        """
        step = self.state.global_step + 1
        folder = self.recorder.out / "nonfinite" / f"step_{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f"_{distributed.rank()}" if distributed.world_size() > 1 else ""
        torch.save({"inputs": inputs, **more}, folder / f"batch{suffix}.pt")
        tensors = {f"inputs/{i}/{name}": value for i, part in enumerate(inputs) for name, value in part.items()}
        for name, parameter in self.model.named_parameters():
            tensors |= {f"gradient/{name}": parameter.grad, f"weight/{name}": parameter.detach()}
        found = {name: statistics(value) for name, value in (tensors | more).items() if isinstance(value, Tensor)}
        write_json(folder / f"statistics{suffix}.json", {"step": step, "what": what, "tensors": found})
        where = f"The batch and the statistics of its tensors are in {shortest(folder)}."
        if self.recorder.config.on_nonfinite == "stop":
            raise UserError(
                f"step {step}: {what}. {where} No checkpoint is touched. Lower optimizer.lr or "
                "optimizer.max_grad_norm, or mend the reward if it is one. A new run leaves such steps out with "
                "on_nonfinite=skip."
            )
        say(Text(f"Step {step} is skipped: {what}. {where}", style="yellow"))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if not torch.isfinite(self._tr_loss):  # transformers subtracts it from itself, which leaves nan as it is
            self._tr_loss.zero_()

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self.recorder.tell("updating")
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
        if distributed.weights_are_sharded():  # each forward gathers weights, so all make the same number of them
            return [(real.nonzero()[:, 0], torch.is_grad_enabled())]
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
        predicting, vocabulary = packed.predicting, self.model.config.get_text_config().vocab_size
        small = packed.ids.device.type == "cpu" and len(predicting) * vocabulary <= PLAIN_HEAD
        if small and not self._entropy_bonus_enabled:
            logits = forward(model, packed, logits_to_keep=predicting).logits[0] / self.temperature
            logps, entropies = LogProbs.apply(logits, packed.labels[predicting])
            return logps, entropies
        outputs = forward(model, packed, shift_labels=packed.labels[None], fused_lm_head=True)
        logps = outputs.log_probs[0, predicting]
        # The reference policy's head gives no entropy.
        return logps, logps.detach() if outputs.entropy is None else outputs.entropy[0, predicting]


class Shuffled(IndexSampler):
    """TRL's sampler with an order that hangs on the seed and the epoch alone, not on the epochs drawn before."""

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.epoch = sampler, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator.manual_seed(self.sampler.seed + self.epoch)
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


@contextmanager
def reading(*files: Path) -> Iterator[None]:
    """Turn what a loader raises into a message that names the file of the checkpoint.

    The manifest is verified before, so only a file that was changed together with it fails here.

    Raises:
        UserError: one of `files` does not hold what it should.
    """
    try:
        yield
    except Exception as error:  # a loader can raise anything
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        names = " or ".join(file.name for file in files)
        why = first_line(error)
        if isinstance(error, UnpicklingError):
            why = "it is damaged, or holds code, which is not run"
        raise UserError(
            f"{shortest(files[0].parent)}: {names} does not hold what a checkpoint of this run does ({why}). Delete "
            "that folder to resume from the checkpoint before it."
        ) from error


def all_succeed(failure: Exception | None) -> None:
    """
    Raises:
        OSError: this process failed, or another did.
    """
    if failures := [each for each in distributed.gather_objects(failure and first_line(failure)) if each]:
        raise OSError(failures[0]) from failure


def statistics(tensor: Tensor) -> dict[str, Any]:
    """Shape, dtype, how many values are not finite, and the least, the mean and the largest of the others."""
    values = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().double().flatten()
    finite = values[torch.isfinite(values)]
    found = {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "not_finite": len(values) - len(finite)}
    if not len(finite):
        return found
    return found | {"min": finite.min().item(), "mean": finite.mean().item(), "max": finite.max().item()}


def _plain(content: Any) -> Any:
    """Dictionaries and deques as what torch.load takes from a file without trusting it."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    return list(content) if isinstance(content, deque) else content


class RewardFunction:
    """Our reward `name` as TRL calls it, by the rule `answer_match`; with `log_columns` it also hands question and gold
    to TRL's table.

    Scores that are not finite are nan throughout, so that all processes come to know of them where TRL gathers them;
    `trouble` says what was wrong with them.
    """

    def __init__(self, name: str, answer_match: str, log_columns: bool) -> None:
        self.__name__, self.answer_match, self.log_columns = name, answer_match, log_columns
        self.trouble = ""

    def __call__(
        self, completions: list[Any], gold: list[str], question: list[str], log_extra: Any, **_: Any
    ) -> list[float]:
        if self.log_columns:
            log_extra("question", question)
            log_extra("gold", gold)
        try:
            self.trouble = ""
            texts = [messages[0]["content"] for messages in completions]
            return score(self.__name__, texts, gold, question, self.answer_match)
        except NotFinite as error:
            self.trouble = str(error)
            return [math.nan] * len(completions)


def build_trainer(
    config: Config,
    batch: Batch,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: list[dict[str, Any]],
    rewards: RewardStack,
    rollout: Sampler,
    recorder: Recorder,
    out: Path,
) -> Trainer:
    if config.model.init == "random" and (config.algorithm.beta > 0 or config.rollout.name == "vllm"):
        # TRL loads the reference policy, and vLLM its copy, from where the policy came from; random weights must first
        # be there.
        policy.save_pretrained(out / "reference")
        tokenizer.save_pretrained(out / "reference")
        policy.config._name_or_path = policy.name_or_path = str(out / "reference")
    args = build_args(config, batch, rewards, out)
    if config.rollout.name in VLLM:  # vLLM itself reads end tokens only from the policy's folder
        args.generation_kwargs = {"stop_token_ids": rollout.eos_token_ids}
    trainer = Trainer(
        rollout=None if config.rollout.name in ENGINES else rollout,
        share_prompts=config.share_prompts,
        recorder=recorder,
        model=policy,
        reward_funcs=[
            RewardFunction(name, rewards.answer_match, log_columns=i == 0) for i, name in enumerate(rewards.weights)
        ],
        args=args,
        train_dataset=Dataset.from_list(train_rows),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    recorder.logs = trainer._logs
    return trainer
