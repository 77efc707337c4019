"""TRL's arguments (`GRPOConfig`, TRL 1.16) from our config, batch and rewards.

`build_trainer` calls it once for each run. It knows no policy, no data and no process group.
"""

from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from trl import GRPOConfig

from grpo.config.batch import BatchSplit
from grpo.config.schema import Config
from grpo.policy.loading import from_pretrained_options
from grpo.rewards.stack import RewardStack
from grpo.runs.run_dir import RunDir
from grpo.sampling.engines import trl_engine_arguments

# The advantage estimators that TRL has, and its arguments for them.
TRL_ESTIMATORS: dict[str, dict[str, Any]] = {
    "group_std": {"scale_rewards": "group"},
    "batch_std": {"scale_rewards": "batch"},
    "no_scaling": {"scale_rewards": "none"},
    "gdpo": {"multi_objective_aggregation": "normalize_then_sum"},
}


def build_args(config: Config, batch: BatchSplit, rewards: RewardStack, out: Path) -> GRPOConfig:
    """TRL's arguments. A comment gives the reason for each value that is not a setting of ours."""
    # transformers 5.23 renames `gradient_checkpointing`; TRL 1.16 takes the name that the installed version has.
    renamed = hasattr(TrainingArguments, "activation_checkpointing")
    checkpointing: dict[str, Any] = {
        "activation_checkpointing" if renamed else "gradient_checkpointing": config.activation_checkpointing
    }
    return GRPOConfig(
        output_dir=str(RunDir(out).checkpoints),
        seed=config.seed,
        use_cpu=config.device == "cpu",
        num_generations=batch.num_generations,
        per_device_train_batch_size=batch.per_device,
        gradient_accumulation_steps=batch.accumulation,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        chat_template_kwargs=dict(config.chat_template_kwargs),
        # Without such a setting, the neutral value: the policy's own distribution.
        top_p=1.0 if config.rollout.top_p is None else config.rollout.top_p,
        top_k=config.rollout.top_k or 0,
        min_p=config.rollout.min_p,
        repetition_penalty=config.rollout.repetition_penalty or 1.0,
        **trl_engine_arguments(config),
        max_steps=-1 if config.max_steps is None else config.max_steps,
        num_train_epochs=config.num_train_epochs,
        bf16=config.bf16,
        ddp_find_unused_parameters=False,  # every parameter is used
        ddp_broadcast_buffers=False,  # buffers never change, and processes differ in the number of forwards
        **checkpointing,
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
        **TRL_ESTIMATORS.get(config.algorithm.advantage_estimator, {}),
        epsilon=config.algorithm.epsilon,
        epsilon_high=config.algorithm.epsilon_high,
        delta=config.algorithm.delta,
        top_entropy_quantile=config.algorithm.top_entropy_quantile,
        entropy_coef=config.algorithm.entropy_coef,
        use_adaptive_entropy=config.algorithm.entropy_target is not None,
        entropy_target=config.algorithm.entropy_target or 0.0,
        off_policy_mask_threshold=config.algorithm.off_policy_mask_threshold,
        importance_sampling_level=config.algorithm.importance_sampling_level,
        num_iterations=config.algorithm.num_iterations,
        steps_per_generation=batch.accumulation * config.algorithm.steps_per_generation,
        mask_truncated_completions=config.algorithm.mask_truncated_completions,
        reward_weights=list(rewards.weights.values()),
        logging_steps=config.logging_steps,
        save_strategy="no" if config.save_steps is None else "steps",
        save_steps=config.save_steps or 500,
        save_total_limit=config.save_total_limit,
        # `NonFiniteMixin` handles such losses; transformers would replace one by the mean of the others.
        logging_nan_inf_filter=False,
        trust_remote_code=config.model.trust_remote_code,
        # Ours are in grpo/training/trackers/; transformers' trackers never end a run and log hundreds of keys.
        report_to=[],
        # TRL loads the reference policy of the KL term itself; with adapters it is the policy without them.
        model_init_kwargs=from_pretrained_options(config.model)
        if config.algorithm.beta > 0 and not config.model.lora_rank
        else None,
        disable_tqdm=True,
        # Rows are a few strings, which a worker process would only slow down.
        dataloader_num_workers=0,
        dataloader_pin_memory=config.device == "cuda",
    )
