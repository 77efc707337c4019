"""What we rely on in TRL 1.16 and transformers 5.23 without a promise of theirs; a failure here says what changed.

`CompletionLog` reads `GRPOTrainer._logs`, to which `TrlReward` adds question and gold through `log_extra`. The parts
of `Trainer` override the methods listed below. Other tests show by behaviour what the overrides rely on:
tests/training/test_trainer.py that a step computes what TRL computes, tests/training/test_distributed.py that scores are
gathered, tests/sampling/ what TRL does around vLLM and continuous batching, tests/runs/test_resume.py that
a checkpoint holds the complete state of a run.
"""

import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
import trl
from transformers import ContinuousBatchingConfig
from trl import GRPOConfig, GRPOTrainer, import_utils
from trl.generation.vllm_client import VLLMClient

from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.rewards.stack import RewardStack
from grpo.sampling.build import build_sampler
from grpo.tasks.splits import load_splits
from grpo.tasks.train_set import select_train_examples
from grpo.training.arguments import build_args
from grpo.training.callbacks import OnTrainBegin
from grpo.training.recorder import Recorder
from grpo.training.trackers.interface import NoTracker
from grpo.training.trainer import Trainer, build_trainer
from tests.conftest import SMALL


def test_the_logs_that_the_recorder_reads(tmp_path) -> None:
    config = compose(SMALL)
    tokenizer = build_tokenizer(config.model)
    examples, _ = select_train_examples(load_splits(config.data).train, tokenizer, config)
    rewards = RewardStack(config.rewards)
    recorder = Recorder(config, rewards, NoTracker(), tmp_path)
    batch = derive_batch(4, 2, 4)
    policy = build_policy(config.model, 0)
    rollout = build_sampler(policy, tokenizer, config)
    built = build_trainer(config, batch, policy, tokenizer, examples, rewards, rollout, recorder, tmp_path)
    built.train()
    logs = built._logs
    assert {"prompt", "completion", "rewards", "advantages", "extra"} <= logs.keys()
    assert set(logs["extra"]) == {"row"} and set(logs["rewards"]) == set(config.rewards)
    assert {len(column) for column in (logs["completion"], logs["advantages"], logs["extra"]["row"])} == {8}
    # Groups stand together, in the order of generation.
    rows = list(logs["extra"]["row"])
    assert rows[:4] == [rows[0]] * 4 and rows[4:] == [rows[4]] * 4 != rows[:4]


def test_a_trainer_sends_no_request_about_itself(trainer, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    started: list[bool] = []
    monkeypatch.setattr("huggingface_hub.utils._telemetry._start_telemetry_thread", lambda: started.append(True))
    trainer()
    assert not started


# The parameters of the methods that `Trainer` overrides, in trl 1.16.0 and transformers 5.23.0.
OVERRIDDEN = {
    "_get_train_sampler": ["self", "dataset"],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    "_send_telemetry": ["self"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "log": ["self", "logs", "start_time"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_issue_warnings_after_load": ["self", "load_result"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_load_scaler": ["self", "checkpoint"],
    "_load_rng_state": ["self", "checkpoint"],
    "_clip_grad_norm": ["self", "model"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_prepare_inputs": ["self", "generation_batch"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_per_token_logps_and_entropies": [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    ],
}


def test_the_methods_that_are_overridden() -> None:
    installed = (
        f"written for trl 1.16.0 and transformers 5.23.0; installed: {trl.__version__}, {transformers.__version__}"
    )
    for name, parameters in OVERRIDDEN.items():
        method = inspect.unwrap(getattr(GRPOTrainer, name))
        assert list(inspect.signature(method).parameters) == parameters, f"{name}: {installed}"


def numbered_rollouts(built: Trainer) -> list[int]:
    """Replace sampling: rollout n consists of rows n * 100, n * 100 + 1, ...; gives the list of rollouts so far."""
    rollouts: list[int] = []

    def generate(batch: list[Any]) -> dict[str, torch.Tensor]:
        rollouts.append(len(rollouts))
        return {"rows": rollouts[-1] * 100 + torch.arange(len(batch))}

    built._generate_and_score_completions = generate  # type: ignore[method-assign]
    built.model.train()
    return rollouts


def test_inputs_are_prepared_as_in_trl_but_for_the_order_of_rows(trainer) -> None:
    built = trainer("micro_batch_size=6", "algorithm.num_iterations=2")
    batch, seen = list(range(24)), {}
    for shared in (False, True):
        built.shares_prompts, built._step, built._buffered_inputs = shared, 0, None
        rollouts, steps = numbered_rollouts(built), []
        for built._step in range(16):
            inputs = built._prepare_inputs(batch)
            steps.append((len(rollouts), inputs["rows"].tolist()))
        seen[shared] = steps
    # Each rollout of 4 micro-batches is used twice, by TRL in another order of its rows.
    assert [count for count, _ in seen[True]] == [count for count, _ in seen[False]] == [1] * 8 + [2] * 8
    for first in (0, 8):
        rows = [row for _, rows in seen[True][first : first + 4] for row in rows]
        assert rows == sorted(row for _, rows in seen[False][first : first + 4] for row in rows)
        assert seen[True][first : first + 4] == seen[True][first + 4 : first + 8]


def test_the_order_of_calls_in_training(trainer) -> None:
    """A gradient is checked before the optimizer uses it; a checkpoint is written where `_get_output_dir` says; what is
    restored when training begins is not reset after that."""
    built = trainer("max_steps=2", "save_steps=2", "logging_steps=1")
    calls: list[str] = []
    clip, save = built._clip_grad_norm, built.save_model

    def recorded_clip(model: Any) -> torch.Tensor:
        if not calls:
            built.optimizer.optimizer.register_step_pre_hook(lambda *_: calls.append("step"))
        calls.append("clip")
        return clip(model)

    def recorded_save(folder: str, *args: Any, **kwargs: Any) -> None:
        calls.append(Path(folder).relative_to(built.args.output_dir).as_posix())
        save(folder, *args, **kwargs)

    def restore() -> None:
        built._tr_loss.fill_(64.0)
        built._globalstep_last_logged = -3

    built._clip_grad_norm, built.save_model = recorded_clip, recorded_save
    built.add_callback(OnTrainBegin(restore))
    built.train()
    assert calls == ["clip", "step", "clip", "step", "partial/checkpoint-2"]
    assert built.state.log_history[0]["loss"] == pytest.approx(64 / 4, abs=0.5)


def test_what_is_relied_on_of_a_vllm_server(monkeypatch) -> None:
    """No server runs here, so its client is asked with answers made up (trl 1.16.0, generation/vllm_client.py)."""
    asked: list[tuple[str, Any]] = []

    def answer(code: int, content: Any) -> Any:
        def get(url: str, **kwargs: Any) -> Any:
            asked.append((url, kwargs.get("params")))
            return SimpleNamespace(status_code=code, text="no", json=lambda: content)

        return SimpleNamespace(base_url="http://a", session=SimpleNamespace(get=get, post=get))

    assert VLLMClient.get_server_info(answer(200, {"vllm_config": {"x": 1}})) == {"x": 1}
    assert asked == [("http://a/server_info", {"config_format": "json"})]
    with pytest.raises(Exception, match="^Request failed: 500"):  # `SamplingMixin` recognizes it by this
        VLLMClient._post(answer(500, None), "http://a/generate")
    assert list(inspect.signature(VLLMClient.close_communicator).parameters) == ["self"]


@pytest.mark.parametrize(
    ("version", "taken"), [("0.21.0", False), ("0.22.0", True), ("0.31.0", True), ("0.32.0", False)]
)
def test_versions_of_vllm_that_trl_takes(monkeypatch, version: str, taken: bool) -> None:
    """TRL warns about others. `grpo.sampling.engines` refuses them, and those without what it needs."""
    warned: list[str] = []
    monkeypatch.setattr(import_utils, "_is_package_available", lambda *_, **__: (True, version))
    monkeypatch.setattr(import_utils.warnings, "warn", lambda message, *_, **__: warned.append(message))
    import_utils.is_vllm_available()
    assert bool(warned) is not taken


def test_arguments_of_continuous_batching() -> None:
    ContinuousBatchingConfig(page_size=256, num_blocks=9, max_memory_percent=0.9, auto_switch_to_flash=False)


def test_trl_itself_leaves_a_policy_in_bfloat16(trainer) -> None:
    """The fault that `cast_for_engine` is for; when this fails it is gone."""
    built = trainer("rollout=continuous_batching", "bf16=true", "share_prompts=false")
    GRPOTrainer._generate_single_turn(built, [[1, 2, 3]], None, {}, 1)
    assert {each.dtype for each in built.model.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in built.model.buffers()} == {torch.bfloat16}  # rotary frequencies


# The fields of TRL's arguments that are left alone, with the default that is relied on. A field that TRL adds, and a default
# that it changes, is looked at before it is entered here.
LEFT = {
    # The optimizer and its schedule: nothing beside what conf/optimizer/ sets.
    "lr_scheduler_kwargs": None,
    "optim_args": None,
    "optim_target_modules": None,
    "adam_epsilon": 1e-08,
    "label_smoothing_factor": 0.0,
    "neftune_noise_alpha": None,
    # The loss. Only what published GRPO has; an MoE policy keeps the load-balancing loss of its own config, and a policy with
    # dropout its dropout.
    "entropy_coef_min": 0.0,
    "entropy_coef_max": 1.0,
    "entropy_coef_delta": 0.005,
    "router_aux_loss_coef": None,
    "disable_dropout": False,
    "cast_lm_head_to_fp32": False,
    "sync_ref_model": False,
    "ref_model_mixup_alpha": 0.6,
    "ref_model_sync_steps": 512,
    # The constants of losses, as published.
    "sapo_temperature_neg": 1.05,
    "sapo_temperature_pos": 1.0,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
    # Batches and data: every column reaches the rewards, rows come shuffled by the seed, and none is left out.
    "remove_unused_columns": False,
    "shuffle_dataset": True,
    "data_seed": None,
    "train_sampling_strategy": "random",
    "dataloader_drop_last": False,
    "dataloader_in_order": True,
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
    "dataloader_multiprocessing_context": None,
    "length_column_name": "length",
    "label_names": None,
    "pad_to_multiple_of": "auto",
    "generation_batch_size": None,
    "auto_find_batch_size": False,
    "average_tokens_across_devices": True,
    "include_num_input_tokens_seen": "no",
    # Sampling: the policy's own distribution.
    "generation_kwargs": None,
    "cache_implementation": None,
    "max_tool_calling_iterations": None,
    "use_cache": False,
    "ds3_gather_for_generation": True,
    "vllm_model_impl": "vllm",
    "vllm_structured_outputs_regex": None,
    "vllm_server_host": "0.0.0.0",
    "vllm_server_port": 8000,
    "use_transformers_paged": False,
    "vllm_importance_sampling_cap": None,
    # Precision and speed.
    "fp16": False,
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "tf32": None,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "use_liger_kernel": False,
    "liger_kernel_config": None,
    "torch_empty_cache_steps": None,
    "full_determinism": False,
    "activation_checkpointing_kwargs": None,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": None,
    # Evaluation is grpo/evaluation's, not the trainer's.
    "do_train": False,
    "do_eval": False,
    "do_predict": False,
    "eval_strategy": "no",
    "eval_steps": None,
    "eval_delay": 0,
    "eval_on_start": False,
    "eval_do_concat_batches": True,
    "eval_use_gather_object": False,
    "eval_accumulation_steps": None,
    "per_device_eval_batch_size": 8,
    "num_generations_eval": None,
    "prediction_loss_only": False,
    "include_for_metrics": [],
    "batch_eval_metrics": False,
    # Logs and trackers are grpo/training/recorder.py's and grpo/training/trackers/.
    "logging_strategy": "steps",
    "logging_first_step": False,
    "log_on_each_node": True,
    "log_level": "passive",
    "log_level_replica": "warning",
    "run_name": None,
    "project": "huggingface",
    "trackio_space_id": None,
    "trackio_bucket_id": None,
    "trackio_static_space_id": None,
    "log_completions": False,
    "log_multimodal": True,
    "num_completions_to_print": None,
    "log_unique_prompts": False,
    "log_completions_hub_repo": None,
    "debug": "",
    "skip_memory_metrics": True,
    # Checkpoints hold all that a run resumes from; nothing goes to the hub.
    "save_only_model": False,
    "save_on_each_node": False,
    "enable_jit_checkpoint": False,
    "ignore_data_skip": False,
    "restore_callback_states_from_checkpoint": False,
    "resume_from_checkpoint": None,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
    "greater_is_better": None,
    "push_to_hub": False,
    "hub_token": None,
    "hub_private_repo": None,
    "hub_model_id": None,
    "hub_strategy": "every_save",
    "hub_always_push": False,
    "hub_revision": None,
    # Several processes: what `accelerate launch` says.
    "accelerator_config": None,
    "parallelism_config": None,
    "ddp_bucket_cap_mb": None,
    "ddp_static_graph": None,
    "ddp_backend": None,
    "ddp_timeout": 1800,
    "fsdp": None,
    "fsdp_config": None,
    "deepspeed": None,
    "local_rank": -1,
}


def test_every_argument_of_trl_is_set_or_left_on_purpose(monkeypatch) -> None:
    monkeypatch.setattr("grpo.training.arguments.GRPOConfig", dict)  # what it is called with
    engines = [["rollout=vllm", "device=cuda", "rollout.correction=token_mask"], ["rollout=vllm_server", "device=cuda"]]
    given: set[str] = set()
    for overrides in ([], ["algorithm=gdpo"], ["rollout=continuous_batching"], *engines):
        config = compose(overrides)
        given |= set(build_args(config, derive_batch(16, 4, 64), RewardStack(config.rewards), Path("run")))
    defaults = {
        field.name: field.default_factory() if field.default is MISSING else field.default
        for field in fields(GRPOConfig)
        if field.name not in given
    }
    assert given <= {field.name for field in fields(GRPOConfig)}
    assert defaults == LEFT


def test_trl_takes_the_arguments_as_they_are_set(tmp_path, monkeypatch) -> None:
    config = compose(SMALL)
    batch, rewards = derive_batch(4, 2, 4), RewardStack(config.rewards)
    args = build_args(config, batch, rewards, tmp_path)
    monkeypatch.setattr("grpo.training.arguments.GRPOConfig", dict)
    for name, value in build_args(config, batch, rewards, tmp_path).items():
        assert getattr(args, name) == value, name
    # TRL's own default of this alias of activation_checkpointing is True.
    assert args.gradient_checkpointing is False
