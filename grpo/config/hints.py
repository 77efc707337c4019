"""Setting names of TRL, verl, transformers, W&B and Hydra, with the names of this project.

`grpo/config/unknown_settings.py` looks up unknown settings here; `docs/coming-from.md` is generated from the table:
`python -m grpo.config.hints > docs/coming-from.md`.
"""

from dataclasses import dataclass

from grpo.config.rules import ANSWER_TYPE_NAMES


@dataclass(frozen=True)
class Hint:
    """Names of one setting in other projects, and its name here.

    Args:
        names: full names, or the last part of longer names, as `lr` for `actor.optim.lr`.
        setting: the setting or the group here, with a value if the other name implies one; empty if there is none.
        note: the difference: another unit, or what determines the value here.
    """

    names: tuple[str, ...]
    setting: str
    note: str = ""


STEP = "a step has prompts_per_step x num_generations completions"
PROCESSES = "set by the launcher, torchrun or accelerate: docs/multi-gpu.md"

# One entry per section of the page.
HINTS: dict[str, list[Hint]] = {
    "Batch and length": [
        Hint(
            (
                "per_device_train_batch_size",
                "ppo_micro_batch_size_per_gpu",
                "micro_batch_size_per_gpu",
                "mini_batch_size",
            ),
            "micro_batch_size",
            f"completions per forward pass on a device; changes only memory and speed; {STEP}",
        ),
        Hint(
            ("batch_size", "train_batch_size", "ppo_mini_batch_size", "rollout_batch_size", "global_batch_size"),
            "prompts_per_step",
            f"prompts, not completions: {STEP}, computed micro_batch_size completions at a time",
        ),
        Hint(
            ("generation_batch_size",),
            "prompts_per_step",
            f"TRL counts completions, this counts prompts: {STEP}",
        ),
        Hint(
            ("gradient_accumulation_steps", "accumulate_grad_batches", "gradient_accumulation"),
            "",
            f"it follows from the batch: {STEP}, and is divided into parts of at most micro_batch_size",
        ),
        Hint(
            ("per_device_eval_batch_size", "val_batch_size"),
            "eval_batch_size",
            "completions generated at once when held-out or validation problems are evaluated",
        ),
        Hint(
            ("n", "k", "group_size", "num_return_sequences", "n_samples", "n_samples_per_prompt", "num_samples"),
            "num_generations",
            "completions for each prompt",
        ),
        Hint(
            ("max_new_tokens", "max_tokens", "max_response_length", "response_length", "max_gen_length", "max_length"),
            "max_completion_length",
            "tokens of a completion, without the prompt",
        ),
        Hint(("prompt_length", "max_prompt_len", "max_prompt_tokens"), "max_prompt_length", "tokens of a prompt"),
        Hint(
            ("epochs", "num_epochs", "total_epochs", "max_epochs", "n_epochs"),
            "num_train_epochs",
            "passes over the training problems; needs max_steps=null",
        ),
        Hint(
            ("steps", "num_steps", "total_steps", "total_training_steps", "train_steps", "max_iters", "num_iters"),
            "max_steps",
            "optimizer steps; data.max_steps is the number of calculation steps of a problem",
        ),
    ],
    "Optimizer": [
        Hint(("learning_rate", "actor_lr", "peak_lr", "base_lr"), "optimizer.lr", "the peak of the schedule"),
        Hint(("optim", "optimizer_type", "optimizer_name"), "optimizer.name", "or the group: optimizer=adamw_8bit"),
        Hint(("adam_beta1", "beta_1", "b1"), "optimizer.beta1"),
        Hint(("adam_beta2", "beta_2", "b2"), "optimizer.beta2"),
        Hint(("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule", "warmup_style"), "optimizer.schedule"),
        Hint(
            ("warmup_ratio", "warmup_steps", "lr_warmup_steps", "lr_warmup_steps_ratio", "num_warmup_steps"),
            "optimizer.warmup",
            "below 1 a fraction of the steps, otherwise a number of steps",
        ),
        Hint(("grad_clip", "clip_grad", "clip_grad_norm", "gradient_clip_val", "grad_norm"), "optimizer.max_grad_norm"),
        Hint(("adam_epsilon", "eps"), "", "the optimizer's own default is used"),
    ],
    "GRPO": [
        Hint(
            (
                "kl_coef",
                "kl_loss_coef",
                "kl_beta",
                "init_kl_coef",
                "kl_coeff",
                "kl_weight",
                "use_kl_loss",
                "use_kl_in_reward",
            ),
            "algorithm.beta",
            "weight of the KL term; 0 turns it off",
        ),
        Hint(
            ("clip_ratio", "clip_ratio_low", "cliprange", "clip_range", "clip_eps", "epsilon_low", "eps_clip"),
            "algorithm.epsilon",
            "the probability ratio is clipped to 1 - epsilon .. 1 + epsilon_high",
        ),
        Hint(("clip_ratio_high", "clip_high", "eps_clip_high"), "algorithm.epsilon_high"),
        Hint(("mu", "ppo_epochs", "num_ppo_epochs", "inner_epochs"), "algorithm.num_iterations"),
        Hint(("loss_agg_mode", "loss", "loss_mode"), "algorithm.loss_type", "as in dapo; docs/algorithms.md"),
        Hint(("clip_ratio_c", "dual_clip"), "algorithm.delta", "the largest ratio where the advantage is negative"),
        Hint(("entropy_coeff", "entropy_loss_coef", "ent_coef"), "algorithm.entropy_coef"),
        Hint(("use_adaptive_entropy",), "algorithm.entropy_target", "a number turns it on"),
        Hint(
            ("adv_estimator", "advantage_estimator", "multi_objective_aggregation"),
            "algorithm.estimator",
            "group_std, batch_std, no_scaling, gdpo, rloo, reinforce_pp, maxrl or passk",
        ),
        Hint(
            ("algo", "algorithm_name"),
            "algorithm",
            "a group, as in algorithm=dr_grpo; docs/algorithms.md lists its options",
        ),
        Hint(
            ("norm_adv_by_std_in_grpo", "scale_advantages", "normalize_advantages"),
            "algorithm.estimator",
            "group_std, batch_std or no_scaling",
        ),
        Hint(("overlong_filtering", "mask_truncated"), "algorithm.mask_truncated_completions"),
    ],
    "Sampling": [
        Hint(("temp", "sampling_temperature"), "temperature", "sampling temperature in training; evaluation is greedy"),
        Hint(("do_sample",), "", "training samples, evaluation is greedy; python -m grpo.evaluate takes temperature="),
        Hint(("use_vllm", "vllm_mode", "inference_backend"), "rollout=vllm", "rollout=vllm_server for a server"),
        Hint(("vllm_gpu_memory_utilization", "gpu_memory_utilization"), "rollout.memory", "with rollout=vllm"),
        Hint(
            ("vllm_tensor_parallel_size", "tensor_model_parallel_size", "tensor_parallel_size", "tp_size"),
            "rollout.tensor_parallel",
            "with rollout=vllm",
        ),
        Hint(("vllm_server_base_url", "vllm_server_host", "vllm_server_port"), "rollout.server", "rollout=vllm_server"),
        Hint(("vllm_server_timeout",), "rollout.server_timeout", "with rollout=vllm_server"),
        Hint(("vllm_enable_sleep_mode", "free_cache_engine"), "rollout.sleep", "with rollout=vllm"),
        Hint(
            ("vllm_importance_sampling_mode", "vllm_importance_sampling_correction", "rollout_is"),
            "rollout.correction",
            "with rollout=vllm",
        ),
        Hint(("use_transformers_paged", "cache_implementation"), "rollout=continuous_batching"),
    ],
    "Policy": [
        Hint(
            (
                "model_name_or_path",
                "model_name",
                "model_id",
                "pretrained_model_name_or_path",
                "base_model",
                "model_path",
            ),
            "model.path",
            "a hub id or a folder",
        ),
        Hint(("model_revision",), "model.revision"),
        Hint(("gguf_file",), "model.gguf", "a path, or the name of a file in model.path"),
        Hint(("tokenizer_name", "tokenizer_path", "tokenizer_name_or_path"), "model.tokenizer"),
        Hint(("adapter_path", "adapter_name_or_path", "lora_path"), "model.adapter", "the folder of a LoRA adapter"),
        Hint(("torch_dtype", "param_dtype", "precision"), "model.dtype", "of the weights; bf16=true is for computing"),
        Hint(("fp16", "mixed_precision", "amp"), "bf16=true", "the only mixed precision"),
        Hint(("use_peft", "lora_r", "peft_config", "use_lora", "lora"), "model.lora_rank", "above 0 trains adapters"),
        Hint(("lora_target_modules", "target_modules"), "", "adapters are on all linear layers"),
        Hint(("load_in_8bit",), "model.load_in_4bit"),
        Hint(
            ("gradient_checkpointing", "enable_gradient_checkpointing", "activation_checkpoint"),
            "activation_checkpointing",
        ),
        Hint(
            ("attn_implementation", "use_flash_attention_2"),
            "prefix_attention",
            "sdpa or flex, of the training step; PyTorch's scaled_dot_product_attention everywhere else",
        ),
    ],
    "Data": [
        Hint(
            ("dataset_name", "dataset", "dataset_path", "data_path", "data_dir"),
            "data.path",
            "data=hub data.path=OWNER/NAME, data=files data.path=FOLDER; docs/data.md",
        ),
        Hint(("dataset_config", "dataset_config_name", "dataset_subset"), "data.subset", "with data=hub or data=files"),
        Hint(("dataset_train_split", "dataset_split", "train_split"), "data.split", "with data=hub or data=files"),
        Hint(("train_files",), "data.train_file", "a file in data.path, with data=files"),
        Hint(
            ("val_files", "test_files", "dataset_test_split", "eval_dataset", "val_file"),
            "data.test_file",
            "the held-out problems, in data.path, with data=files; data.validation_file has those for eval_steps",
        ),
        Hint(
            ("prompt_key", "prompt_column", "input_key", "dataset_prompt_column", "dataset_text_field"),
            "data.question_column",
        ),
        Hint(("answer_key", "label_key", "reward_model_key", "response_key"), "data.answer_column"),
        Hint(("answer_match", "gold"), "data.answer", "what counts as right: " + ", ".join(ANSWER_TYPE_NAMES)),
        Hint(("max_train_samples", "train_size", "num_train_samples", "train_max_samples"), "data.train_problems"),
        Hint(
            ("max_eval_samples", "eval_size", "num_eval_samples", "val_max_samples"),
            "data.eval_problems",
            "held-out problems; data.validation_problems is the number for eval_steps",
        ),
        Hint(("data_seed", "shuffle_seed"), "data.seed"),
        Hint(("system", "prompt_template", "instruction"), "system_prompt"),
        Hint(
            ("apply_chat_template_kwargs", "enable_thinking"),
            "chat_template_kwargs",
            "as in chat_template_kwargs.enable_thinking=false",
        ),
    ],
    "Rewards": [
        Hint(
            ("reward_funcs", "reward_fn", "reward_function", "custom_reward_function", "reward_model"),
            "reward_files",
            "Python files with @reward functions; +rewards.NAME=WEIGHT adds a reward",
        ),
        Hint(
            ("reward_kwargs", "reward_params", "reward_parameters"),
            "reward_args",
            "one value for each parameter, as in reward_args.brevity.limit=200",
        ),
        Hint(("reward_weights", "reward_weight"), "rewards.NAME", "one weight for each reward, as in rewards.int=0.5"),
    ],
    "Run": [
        Hint(
            ("output_dir", "default_local_dir", "out_dir", "save_dir", "log_dir", "logging_dir", "run_dir"),
            "hydra.run.dir",
            "hydra.sweep.dir for a sweep",
        ),
        Hint(
            ("resume_from_checkpoint", "resume_mode", "resume_from", "resume_path", "checkpoint", "ckpt"),
            "resume",
            "the folder of the run, not of a checkpoint",
        ),
        Hint(("save_freq", "save_every", "save_interval", "checkpoint_every", "save_strategy"), "save_steps"),
        Hint(
            ("max_actor_ckpt_to_keep", "max_ckpt_to_keep", "keep_checkpoints", "save_top_k"),
            "save_total_limit",
            "at least 2",
        ),
        Hint(
            (
                "test_freq",
                "eval_freq",
                "eval_every",
                "eval_interval",
                "eval_strategy",
                "evaluation_strategy",
                "val_freq",
            ),
            "eval_steps",
            "on validation problems; held-out problems are evaluated before and after training",
        ),
        Hint(
            ("eval_on_start", "val_before_train", "do_eval"),
            "",
            "held-out problems are always evaluated before and after training",
        ),
        Hint(("log_every", "log_freq", "log_interval", "logging_freq"), "logging_steps"),
        Hint(("random_seed", "manual_seed"), "seed"),
        Hint(("full_determinism",), "deterministic"),
        Hint(("use_cpu", "no_cuda", "accelerator", "cuda", "gpu"), "device", "cpu or cuda"),
        Hint(("num_threads", "cpu_threads", "torch_threads"), "threads"),
        Hint(
            ("n_gpus_per_node", "nnodes", "num_gpus", "num_processes", "devices", "gpus", "world_size"), "", PROCESSES
        ),
        Hint(("deepspeed", "fsdp", "fsdp_config", "strategy"), "", PROCESSES),
    ],
    "Tracking": [
        Hint(("report_to", "logger", "tracker"), "tracking", "a group: wandb, trackio, tensorboard or none"),
        Hint(("wandb_project", "project_name"), "tracking.project"),
        Hint(("wandb_run_name", "wandb_name", "experiment_name", "exp_name"), "tracking.run_name"),
        Hint(("wandb_group", "run_group"), "tracking.group"),
        Hint(("wandb_mode", "wandb_tags", "wandb_notes"), "", "W&B reads the environment: WANDB_MODE, WANDB_TAGS"),
        Hint(
            ("log_completions", "num_completions_to_print", "log_val_generations"),
            "tracking.completions_rows",
            "rows of the table of completions, sampled every tracking.completions_every steps",
        ),
    ],
    "Sweeps (Hydra)": [
        Hint(
            ("n_jobs", "max_workers", "num_workers"),
            "hydra.sweeper.parallel",
            "jobs at once, with hydra/launcher=joblib",
        ),
        Hint(("n_trials", "num_trials"), "hydra.sweeper.n_trials", "with -m hydra/sweeper=optuna"),
        Hint(("sweeper",), "hydra/sweeper", "grid or optuna"),
        Hint(("launcher",), "hydra/launcher", "basic, joblib, submitit_local or submitit_slurm"),
    ],
}


def find_hint(name: str) -> Hint | None:
    """The hint for a name of another project; for a dotted name, its last part is looked up as well."""
    normalized = name.lower().lstrip("~+").replace("-", "_")
    for candidate in (normalized, normalized.rpartition(".")[2]):
        for hints in HINTS.values():
            for hint in hints:
                if candidate in hint.names:
                    return hint
    return None


def hints_page() -> str:
    """The text of docs/coming-from.md."""
    lines = [
        "# Coming from TRL, verl, transformers",
        "",
        "Setting names of other projects, and their names here. If you type one, the message has the name here.",
        "For a dotted name, the last part is looked up: `lr` for `actor_rollout_ref.actor.optim.lr`. Equal names are",
        "not listed. Generated by `python -m grpo.config.hints > docs/coming-from.md`.",
    ]
    for head, hints in HINTS.items():
        lines += ["", f"## {head}", "", "| other project | here | |", "|---|---|---|"]
        for hint in hints:
            names = ", ".join(f"`{name}`" for name in hint.names)
            lines.append(f"| {names} | {f'`{hint.setting}`' if hint.setting else 'none'} | {hint.note} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(hints_page(), end="")
