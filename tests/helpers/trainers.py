"""Trainers on the embedded policy, and one step of theirs, for tests that compare ours with TRL's."""

from pathlib import Path
from typing import Any

import torch

from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.rewards.stack import rewards_of
from grpo.sampling.build import build_sampler
from grpo.tasks.splits import load_splits
from grpo.tasks.train_set import select_train_examples
from grpo.training.recorder import Recorder
from grpo.training.trackers.interface import NoTracker
from grpo.training.trainer import Trainer, build_trainer

# Templates of different lengths and a limit that cuts some completions.
BATCH = ["num_generations=6", "prompts_per_step=4", "max_completion_length=20", "data.train_problems=40"]


def build(out: Path, *overrides: str, double: bool = False, attention: str = "sdpa") -> Trainer:
    """The trainer of a run in `out`; with `double`, its policy is in float64."""
    config = compose([*BATCH, *overrides])
    config.device = "cpu"  # whatever the settings need
    tokenizer = build_tokenizer(config.model)
    policy = build_policy(config.model, 0)
    policy.set_attn_implementation(attention)
    if config.model.lora_rank:  # adapters start at zero, where half of the gradients vanish
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
    if double:
        policy.double()
    rewards = rewards_of(config)
    examples, _ = select_train_examples(load_splits(config.data).train, tokenizer, config)
    batch = derive_batch(config.num_generations, config.prompts_per_step, config.micro_batch_size)
    rollout = build_sampler(policy, tokenizer, config)
    recorder = Recorder(config, rewards, NoTracker(), out)
    built = build_trainer(config, batch, policy, tokenizer, examples, rewards, rollout, recorder, out)
    if built.ref_model is not None:  # another policy than the one trained
        torch.manual_seed(1)
        for parameter in built.ref_model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.01)
            if double:
                parameter.data = parameter.data.double()
    return built


def micro_batches(trainer: Trainer) -> list[dict[str, Any]]:
    """One generation batch, cut as the step takes it."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    generation_batch = next(iter(trainer.get_train_dataloader()))
    batches = []
    for _ in range(trainer.args.steps_per_generation):
        batches.append(trainer._prepare_inputs(generation_batch))
        trainer._step += 1
    return batches


def decoded(trainer: Trainer, batches: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The prompts and the completions of micro-batches as texts."""
    texts: list[list[str]] = []
    for part in ("prompt", "completion"):
        rows = [
            ids[mask.bool()]
            for inputs in batches
            for ids, mask in zip(inputs[f"{part}_ids"], inputs[f"{part}_mask"], strict=True)
        ]
        texts.append(trainer.processing_class.batch_decode(rows, skip_special_tokens=True))
    return texts[0], texts[1]


def step(trainer: Trainer, batches: list[dict[str, Any]], shared: bool) -> tuple[list, list, torch.Tensor, dict]:
    """Losses, log-probabilities and the gradient of a whole accumulated step, and the metrics it logged."""
    trainer.shares_prompts = shared
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    losses, logps = [], []
    for inputs in batches:
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        losses.append(loss.item())
        ids = torch.cat((inputs["prompt_ids"], inputs["completion_ids"]), 1)
        mask = torch.cat((inputs["prompt_mask"], inputs["completion_mask"]), 1)
        with torch.no_grad():
            logps.append(
                trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, inputs["completion_ids"].shape[1])[
                    0
                ]
            )
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in parameters)
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters])
    return losses, logps, gradient, {name: list(values) for name, values in trainer._metrics["train"].items()}
