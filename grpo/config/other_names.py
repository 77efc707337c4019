"""The table of setting names of TRL, verl, transformers, W&B and Hydra, with the names of this project.

`grpo/config/hints.py` looks names up in it and writes `docs/coming-from.md` from it. It knows no command line.
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


def hint(names: str, setting: str, note: str = "") -> Hint:
    """A row of the table; `names` are separated by spaces."""
    return Hint(tuple(names.split()), setting, note)


# One entry per section of the page.
HINTS: dict[str, list[Hint]] = {
    "The notebook": [
        hint(
            "correctness_reward_func int_reward_func strict_format_reward_func soft_format_reward_func "
            "xmlcount_reward_func",
            "rewards=verbatim",
            "the five functions as published, rewards.verbatim_int=1.0 and so on; rewards=default has them corrected",
        ),
        hint("get_gsm8k_questions", "data=gsm8k"),
        hint("xml_cot_format", "format=tags", "with its system_prompt"),
        hint(
            "extract_xml_answer extract_hash_answer count_xml",
            "",
            "the rewards and data=gsm8k do it; data.answer says what counts as right",
        ),
    ],
    "Batch and length": [
        hint(
            "per_device_train_batch_size ppo_micro_batch_size_per_gpu micro_batch_size_per_gpu mini_batch_size",
            "micro_batch_size",
            f"completions per forward pass on a device; changes only memory and speed; {STEP}",
        ),
        hint(
            "batch_size train_batch_size ppo_mini_batch_size rollout_batch_size global_batch_size",
            "prompts_per_step",
            f"prompts, not completions: {STEP}, computed micro_batch_size completions at a time",
        ),
        hint("generation_batch_size", "prompts_per_step", f"TRL counts completions, this counts prompts: {STEP}"),
        hint(
            "gradient_accumulation_steps accumulate_grad_batches gradient_accumulation",
            "",
            f"it follows from the batch: {STEP}, and is divided into parts of at most micro_batch_size",
        ),
        hint(
            "per_device_eval_batch_size val_batch_size",
            "eval_batch_size",
            "completions generated at once when held-out or validation problems are evaluated",
        ),
        hint("auto_find_batch_size", "micro_batch_size", "python -m grpo.plan names one that fits into memory"),
        hint("num_generations_eval", "eval_samples", "besides one greedy completion for each held-out problem"),
        hint(
            "n k group_size num_return_sequences n_samples n_samples_per_prompt num_samples",
            "num_generations",
            "completions for each prompt",
        ),
        hint(
            "max_new_tokens max_tokens max_response_length response_length max_gen_length max_length",
            "max_completion_length",
            "tokens of a completion, without the prompt",
        ),
        hint("prompt_length max_prompt_len max_prompt_tokens", "max_prompt_length", "tokens of a prompt"),
        hint(
            "epochs num_epochs total_epochs max_epochs n_epochs",
            "num_train_epochs",
            "passes over the training problems; needs max_steps=null",
        ),
        hint(
            "steps num_steps total_steps total_training_steps train_steps max_iters num_iters",
            "max_steps",
            "optimizer steps; data.max_steps is the number of calculation steps of a problem",
        ),
    ],
    "Optimizer": [
        hint("learning_rate actor_lr peak_lr base_lr", "optimizer.lr", "the peak of the schedule"),
        hint("optim optimizer_type optimizer_name", "optimizer.name", "or the group: optimizer=adamw_8bit"),
        hint("adam_beta1 beta_1 b1", "optimizer.beta1"),
        hint("adam_beta2 beta_2 b2", "optimizer.beta2"),
        hint("lr_scheduler_type lr_scheduler scheduler lr_schedule warmup_style", "optimizer.schedule"),
        hint(
            "warmup_ratio warmup_steps lr_warmup_steps lr_warmup_steps_ratio num_warmup_steps",
            "optimizer.warmup",
            "below 1 a fraction of the steps, otherwise a number of steps",
        ),
        hint("grad_clip clip_grad clip_grad_norm gradient_clip_val grad_norm", "optimizer.max_grad_norm"),
        hint("adam_epsilon eps", "", "the optimizer's own default is used"),
        hint(
            "optim_args optim_target_modules lr_scheduler_kwargs",
            "",
            "optimizer and schedule have only the settings of conf/optimizer/",
        ),
    ],
    "GRPO": [
        hint(
            "kl_coef kl_loss_coef kl_beta init_kl_coef kl_coeff kl_weight use_kl_loss use_kl_in_reward",
            "algorithm.beta",
            "weight of the KL term; 0 turns it off",
        ),
        hint(
            "clip_ratio clip_ratio_low cliprange clip_range clip_eps epsilon_low eps_clip",
            "algorithm.epsilon",
            "the probability ratio is clipped to 1 - epsilon .. 1 + epsilon_high",
        ),
        hint("clip_ratio_high clip_high eps_clip_high", "algorithm.epsilon_high"),
        hint("mu ppo_epochs num_ppo_epochs inner_epochs", "algorithm.num_iterations"),
        hint("loss_agg_mode loss loss_mode", "algorithm.loss_type", "as in dapo; docs/algorithms.md"),
        hint("clip_ratio_c dual_clip", "algorithm.delta", "the largest ratio where the advantage is negative"),
        hint("entropy_coeff entropy_loss_coef ent_coef", "algorithm.entropy_coef"),
        hint("use_adaptive_entropy", "algorithm.entropy_target", "a number turns it on"),
        hint(
            "adv_estimator advantage_estimator multi_objective_aggregation",
            "algorithm.estimator",
            "group_std, batch_std, no_scaling, gdpo, rloo, reinforce_pp, maxrl or passk",
        ),
        hint(
            "algo algorithm_name", "algorithm", "a group, as in algorithm=dr_grpo; docs/algorithms.md lists its options"
        ),
        hint(
            "norm_adv_by_std_in_grpo scale_advantages normalize_advantages",
            "algorithm.estimator",
            "group_std, batch_std or no_scaling",
        ),
        hint("overlong_filtering mask_truncated", "algorithm.mask_truncated_completions"),
        hint("use_bias_correction_kl", "algorithm.kl_bias_correction"),
        hint(
            "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps",
            "",
            "the reference of the KL term is the policy at the start, and does not change",
        ),
        hint(
            "sapo_temperature_neg sapo_temperature_pos vespo_k_pos vespo_k_neg vespo_lambda_pos vespo_lambda_neg "
            "entropy_coef_min entropy_coef_max entropy_coef_delta",
            "",
            "TRL's default is used, with algorithm=sapo, vespo or adaptive_entropy",
        ),
        hint("average_tokens_across_devices", "", "always on: the loss is averaged over the tokens of all processes"),
        hint("label_smoothing_factor neftune_noise_alpha", "", "they belong to supervised training"),
        hint("router_aux_loss_coef", "", "the value in the policy's own config.json is used"),
    ],
    "Sampling": [
        hint("temp sampling_temperature", "temperature", "sampling temperature in training; evaluation is greedy"),
        hint("do_sample", "", "training samples, evaluation is greedy; python -m grpo.evaluate takes temperature="),
        hint("use_vllm vllm_mode inference_backend", "rollout=vllm", "rollout=vllm_server for a server"),
        hint("vllm_gpu_memory_utilization gpu_memory_utilization", "rollout.memory", "with rollout=vllm"),
        hint(
            "vllm_tensor_parallel_size tensor_model_parallel_size tensor_parallel_size tp_size",
            "rollout.tensor_parallel",
            "with rollout=vllm",
        ),
        hint("vllm_server_base_url vllm_server_host vllm_server_port", "rollout.server", "rollout=vllm_server"),
        hint("vllm_server_timeout", "rollout.server_timeout", "with rollout=vllm_server"),
        hint("vllm_group_port", "rollout.group_port", "with rollout=vllm_server"),
        hint(
            "vllm_max_model_length vllm_model_impl vllm_structured_outputs_regex",
            "",
            "vLLM's length follows from the limits of prompt and completion, the others have their defaults",
        ),
        hint("vllm_enable_sleep_mode free_cache_engine", "rollout.sleep", "with rollout=vllm"),
        hint(
            "vllm_importance_sampling_mode vllm_importance_sampling_correction rollout_is",
            "rollout.correction",
            "with rollout=vllm",
        ),
        hint(
            "vllm_importance_sampling_clip_max vllm_importance_sampling_cap rollout_is_threshold",
            "rollout.correction_max",
            "with rollout=vllm",
        ),
        hint("vllm_importance_sampling_clip_min", "rollout.correction_min", "with rollout=vllm"),
        hint(
            "use_transformers_paged use_transformers_continuous_batching transformers_continuous_batching_config "
            "cache_implementation",
            "rollout=continuous_batching",
        ),
        hint(
            "generation_kwargs generation_config",
            "",
            "each sampler has the settings of its file in conf/rollout/, as in rollout=generate rollout.top_k=50",
        ),
        hint("use_cache", "", "every sampler has a KV cache"),
        hint("max_tool_calling_iterations tools", "", "a completion is one turn, without tools"),
    ],
    "Policy": [
        hint(
            "model_name_or_path model_name model_id pretrained_model_name_or_path base_model model_path",
            "model.path",
            "a hub id or a folder",
        ),
        hint("model_revision", "model.revision"),
        hint("gguf_file", "model.gguf", "a path, or the name of a file in model.path"),
        hint("tokenizer_name tokenizer_path tokenizer_name_or_path", "model.tokenizer"),
        hint("adapter_path adapter_name_or_path lora_path", "model.adapter", "the folder of a LoRA adapter"),
        hint("torch_dtype param_dtype precision", "model.dtype", "of the weights; bf16=true is for computing"),
        hint("fp16 mixed_precision amp", "bf16=true", "the only mixed precision"),
        hint("use_peft lora_r peft_config use_lora lora", "model.lora_rank", "above 0 trains adapters"),
        hint("lora_target_modules target_modules", "", "adapters are on all linear layers"),
        hint("load_in_8bit", "model.load_in_4bit"),
        hint("gradient_checkpointing enable_gradient_checkpointing activation_checkpoint", "activation_checkpointing"),
        hint(
            "gradient_checkpointing_kwargs activation_checkpointing_kwargs",
            "activation_checkpointing",
            "true or false, without further arguments",
        ),
        hint("bf16_full_eval fp16_full_eval", "", "evaluation computes with the same bf16 as training"),
        hint("model_init_kwargs", "", "the settings of conf/model/ say how the policy is loaded, as in model.dtype"),
        hint("disable_dropout", "model.lora_dropout", "that of adapters; that of the policy is in its config.json"),
        hint(
            "tf32 cast_lm_head_to_fp32 torch_compile torch_compile_backend torch_compile_mode",
            "",
            "PyTorch's and TRL's defaults are used; model.dtype and bf16 say which precision",
        ),
        hint(
            "use_liger_kernel liger_kernel_config torch_empty_cache_steps pad_to_multiple_of",
            "",
            "python -m grpo.plan names the settings that make a run fit into memory",
        ),
        hint(
            "attn_implementation use_flash_attention_2",
            "prefix_attention",
            "sdpa or flex, of the training step; PyTorch's scaled_dot_product_attention everywhere else",
        ),
    ],
    "Data": [
        hint(
            "dataset_name dataset dataset_path data_path data_dir",
            "data.path",
            "data=hub data.path=OWNER/NAME, data=files data.path=FOLDER; docs/data.md",
        ),
        hint("dataset_config dataset_config_name dataset_subset", "data.subset", "with data=hub or data=files"),
        hint("dataset_train_split dataset_split train_split", "data.split", "with data=hub or data=files"),
        hint("train_files", "data.train_file", "a file in data.path, with data=files"),
        hint(
            "val_files test_files dataset_test_split eval_dataset val_file",
            "data.test_file",
            "the held-out problems, in data.path, with data=files; data.validation_file has those for eval_steps",
        ),
        hint("prompt_key prompt_column input_key dataset_prompt_column dataset_text_field", "data.question_column"),
        hint("answer_key label_key reward_model_key response_key", "data.answer_column"),
        hint("answer_match gold", "data.answer", "what counts as right: " + ", ".join(ANSWER_TYPE_NAMES)),
        hint("max_train_samples train_size num_train_samples train_max_samples", "data.train_problems"),
        hint(
            "max_eval_samples eval_size num_eval_samples val_max_samples",
            "data.eval_problems",
            "held-out problems; data.validation_problems is the number for eval_steps",
        ),
        hint("data_seed shuffle_seed", "data.seed"),
        hint(
            "shuffle_dataset train_sampling_strategy length_column_name",
            "data.curriculum",
            "problems are shuffled; a curriculum orders them by difficulty",
        ),
        hint("remove_unused_columns label_names", "", "every column reaches the rewards, as a parameter of its name"),
        hint(
            "dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
            "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order",
            "",
            "a step reads a few texts, which needs no worker process",
        ),
        hint("system prompt_template instruction", "system_prompt"),
        hint(
            "apply_chat_template_kwargs enable_thinking",
            "chat_template_kwargs",
            "as in chat_template_kwargs.enable_thinking=false",
        ),
    ],
    "Rewards": [
        hint(
            "reward_funcs reward_fn reward_function custom_reward_function reward_model",
            "reward_files",
            "Python files with @reward functions; +rewards.NAME=WEIGHT adds a reward",
        ),
        hint(
            "reward_kwargs reward_params reward_parameters",
            "reward_args",
            "one value for each parameter, as in reward_args.brevity.limit=200",
        ),
        hint("reward_weights reward_weight", "rewards.NAME", "one weight for each reward, as in rewards.int=0.5"),
    ],
    "Run": [
        hint(
            "output_dir default_local_dir out_dir save_dir log_dir logging_dir run_dir",
            "hydra.run.dir",
            "hydra.sweep.dir for a sweep",
        ),
        hint(
            "resume_from_checkpoint resume_mode resume_from resume_path checkpoint ckpt",
            "resume",
            "the folder of the run, not of a checkpoint",
        ),
        hint("save_freq save_every save_interval checkpoint_every save_strategy", "save_steps"),
        hint("max_actor_ckpt_to_keep max_ckpt_to_keep keep_checkpoints save_top_k", "save_total_limit", "at least 2"),
        hint(
            "test_freq eval_freq eval_every eval_interval eval_strategy evaluation_strategy val_freq",
            "eval_steps",
            "on validation problems; held-out problems are evaluated before and after training",
        ),
        hint(
            "eval_on_start val_before_train do_eval",
            "",
            "held-out problems are always evaluated before and after training",
        ),
        hint("do_train do_predict", "", "commands: python -m grpo.train, and python -m grpo.evaluate run=FOLDER"),
        hint(
            "eval_delay eval_accumulation_steps eval_do_concat_batches eval_use_gather_object batch_eval_metrics "
            "include_for_metrics prediction_loss_only",
            "",
            "evaluation samples completions and scores them: docs/evaluation.md",
        ),
        hint(
            "load_best_model_at_end metric_for_best_model greater_is_better",
            "",
            "the policy after the last step is saved; the best of several validations would be partly luck",
        ),
        hint(
            "save_only_model save_on_each_node enable_jit_checkpoint ignore_data_skip "
            "restore_callback_states_from_checkpoint",
            "",
            "a signal saves a checkpoint, every checkpoint is complete, and a resumed run is exact: docs/resume.md",
        ),
        hint(
            "push_to_hub hub_model_id hub_token hub_private_repo hub_strategy hub_always_push hub_revision",
            "",
            "nothing is uploaded; from_pretrained loads the folder policy/ of a run, and so does the hub's upload",
        ),
        hint("log_every log_freq log_interval logging_freq", "logging_steps"),
        hint("logging_strategy logging_first_step", "logging_steps", "1 logs every step"),
        hint(
            "log_level log_level_replica log_on_each_node disable_tqdm debug skip_memory_metrics "
            "include_num_input_tokens_seen",
            "",
            "the main process prints, train.log has the messages of libraries, metrics.jsonl the tokens seen",
        ),
        hint("logging_nan_inf_filter", "on_nonfinite"),
        hint("random_seed manual_seed", "seed"),
        hint("full_determinism", "deterministic"),
        hint("use_cpu no_cuda accelerator cuda gpu", "device", "cpu or cuda"),
        hint("num_threads cpu_threads torch_threads", "threads"),
        hint("n_gpus_per_node nnodes num_gpus num_processes devices gpus world_size", "", PROCESSES),
        hint("deepspeed fsdp fsdp_config strategy", "", PROCESSES),
        hint(
            "local_rank accelerator_config parallelism_config ddp_backend ddp_timeout ddp_bucket_cap_mb "
            "ddp_broadcast_buffers ddp_find_unused_parameters ddp_static_graph ds3_gather_for_generation",
            "",
            PROCESSES,
        ),
    ],
    "Tracking": [
        hint("report_to logger tracker", "tracking", "a group: wandb, trackio, tensorboard or none"),
        hint("wandb_project project_name", "tracking.project"),
        hint("wandb_run_name wandb_name experiment_name exp_name", "tracking.run_name"),
        hint("wandb_group run_group", "tracking.group"),
        hint("wandb_mode wandb_tags wandb_notes", "", "W&B reads the environment: WANDB_MODE, WANDB_TAGS"),
        hint(
            "trackio_space_id trackio_bucket_id trackio_static_space_id",
            "",
            "tracking=trackio writes to this machine only",
        ),
        hint(
            "log_completions num_completions_to_print log_val_generations log_unique_prompts log_multimodal "
            "log_completions_hub_repo",
            "tracking.completions_rows",
            "rows of the table of completions, sampled every tracking.completions_every steps",
        ),
    ],
    "Sweeps (Hydra)": [
        hint("n_jobs max_workers num_workers", "hydra.sweeper.parallel", "jobs at once, with hydra/launcher=joblib"),
        hint("n_trials num_trials", "hydra.sweeper.n_trials", "with -m hydra/sweeper=optuna"),
        hint("sweeper", "hydra/sweeper", "grid or optuna"),
        hint("launcher", "hydra/launcher", "basic, joblib, submitit_local or submitit_slurm"),
    ],
}
