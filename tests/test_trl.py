"""What we rely on inside TRL 1.16 without it being promised; a failure here says what moved.

grpo/trainer.py reads `GRPOTrainer._logs` (trl 1.16.0, trl/trainer/grpo_trainer.py, lines 1063 and 2833) for the
completions of the last batch, and has `log_extra` (line 1593) carry question and gold there. `Trainer` overrides the
methods below, of lines 1309 to 3384 and of transformers 5.23 (transformers/trainer.py, lines 2781 and 3363), and
tests/test_trainer.py holds what it computes to what TRL computes. What a run is in the middle of, its checkpoints take
from attributes of both; tests/test_resume.py shows that it is all.
"""

import inspect

import torch
import transformers
import trl
from transformers import ContinuousBatchingConfig
from transformers.generation.continuous_batching.continuous_api import ContinuousMixin
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from trl import GRPOTrainer, import_utils
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

from grpo.batching import derive_batch
from grpo.config import compose
from grpo.data import build_train_set, load_splits
from grpo.model import build_policy, build_tokenizer
from grpo.recorder import Recorder
from grpo.rewards import RewardStack
from grpo.rollout import build_rollout
from grpo.tracking import NoTracker
from grpo.trainer import build_trainer
from tests.conftest import SMALL
from tests.test_trainer import trainer  # noqa: F401


def test_the_logs_that_the_recorder_reads(tmp_path) -> None:
    config = compose(SMALL)
    tokenizer = build_tokenizer(config.model)
    train_rows, _ = build_train_set(load_splits(config.data).train, tokenizer, config)
    rewards = RewardStack(config.rewards)
    recorder = Recorder(config, rewards, NoTracker(), tmp_path, lambda steps: lambda count, beside: None)
    batch = derive_batch(4, 2, 4)
    policy = build_policy(config.model, 0)
    rollout = build_rollout(policy, tokenizer, config)
    built = build_trainer(config, batch, policy, tokenizer, train_rows, rewards, rollout, recorder, tmp_path)
    built.train()
    logs = built._logs
    assert {"prompt", "completion", "rewards", "advantages", "extra"} <= logs.keys()
    assert set(logs["extra"]) == {"question", "gold"} and set(logs["rewards"]) == set(config.rewards)
    assert {len(column) for column in (logs["completion"], logs["advantages"], logs["extra"]["gold"])} == {8}
    # Groups stand together, in the order of generation.
    questions = list(logs["extra"]["question"])
    assert questions[:4] == [questions[0]] * 4 and questions[4:] == [questions[4]] * 4 != questions[:4]


# With trl 1.16.0 and transformers 5.23.0, which are known to work together.
OVERRIDDEN = {
    "_get_train_sampler": ["self", "dataset"],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "log": ["self", "logs", "start_time"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
    "_clip_grad_norm": ["self", "model"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_prepare_inputs": ["self", "generation_batch"],
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
        f"written for trl 1.16.0 and transformers 5.23.0, here are {trl.__version__}, {transformers.__version__}"
    )
    for name, parameters in OVERRIDDEN.items():
        method = inspect.unwrap(getattr(GRPOTrainer, name))
        assert list(inspect.signature(method).parameters) == parameters, f"{name}: {installed}"
    # What `Trainer` calls in TRL's place, and what it reads there.
    prepare = inspect.getsource(GRPOTrainer._prepare_inputs)
    for used in ("_buffered_inputs", "_step %", "steps_per_generation * self.num_iterations", "split_tensor_dict"):
        assert used in prepare, f"_prepare_inputs: {installed}"
    # A step's gradient is looked at once, before the optimizer takes it, and a checkpoint lies where it is asked to.
    loop = inspect.getsource(transformers.Trainer._run_epoch)
    assert loop.index("self._clip_grad_norm(model)") < loop.index("self.optimizer.step()"), installed
    assert "run_dir = self._get_output_dir(trial=trial)" in inspect.getsource(transformers.Trainer._save_checkpoint)
    # What `Trainer._run_state` keeps and `_restore` sets, after transformers has set it and before the first step.
    begin = inspect.getsource(transformers.Trainer._inner_training_loop)
    for used in ("self._tr_loss =", "self._globalstep_last_logged ="):
        assert begin.index(used) < begin.index("self.callback_handler.on_train_begin("), f"{used} {installed}"
    # The scores of all ranks (line 1681), as their advantages are made of them, and the guard of a zero deviation.
    assert "rewards_per_func = gather(rewards_per_func)" in inspect.getsource(GRPOTrainer._calculate_rewards), installed
    advantages = inspect.getsource(inspect.unwrap(GRPOTrainer._generate_and_score_completions))
    assert advantages.count("+ 1e-4") == 3, installed
    head = inspect.getsource(trl.trainer.utils.add_fused_lm_head)
    assert "fused_lm_head=False" in head and "shift_labels=None" in head, installed
    # A layer hands what the policy is called with on to its attention.
    assert "**kwargs" in inspect.getsource(Qwen2Attention.forward).split("attention_interface(")[1], installed


def test_what_is_relied_on_around_engines() -> None:
    """trl 1.16.0, grpo_trainer.py lines 1105 and 1764 to 1815, generation/vllm_generation.py lines 301 to 370 and 470,
    vllm_client.py lines 303 and 805; transformers 5.24.0, generation/continuous_batching/continuous_api.py line 1375."""
    installed = (
        f"written for trl 1.16.0 and transformers 5.24.0, here are {trl.__version__}, {transformers.__version__}"
    )
    turn = inspect.getsource(inspect.unwrap(GRPOTrainer._generate_single_turn))
    # A policy that is cast for good where args.bf16 says so: `lent` keeps it from that.
    cast = turn.index("if self.args.bf16:\n                    unwrapped_model.to(torch.bfloat16)")
    assert turn.index("elif self.use_transformers_continuous_batching:") < cast < turn.index(".generate_batch("), (
        installed
    )
    # Weights are synced by a call of what `Trainer` wraps, and the log-probabilities come back beside the completions.
    assert "self.vllm_generation.sync_weights()" in turn and turn.rstrip().endswith("return completion_ids, logprobs")
    assert "model.merge_adapter()" in inspect.getsource(VLLMGeneration._iter_named_params), installed
    start = inspect.getsource(VLLMGeneration._init_vllm)
    assert "model=model.name_or_path" in start, installed
    assert "seed=accelerator.process_index // self.tensor_parallel_size" in start, installed
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # `Trainer.dismiss_engine` takes them away
        assert f'os.environ["{name}"]' in start, installed
    assert '/server_info", params={"config_format": "json"}' in inspect.getsource(VLLMClient.get_server_info), installed
    assert "Request failed: " in inspect.getsource(VLLMClient._post) and VLLMClient.close_communicator, installed
    assert 'Version("0.22.0") <= _vllm_base_version <= Version("0.31.0")' in inspect.getsource(import_utils), installed
    # It gives back what it has when it fails: `Trainer._require_whole` looks at that.
    assert "except Exception as e:" in inspect.getsource(ContinuousMixin.generate_batch), installed
    ContinuousBatchingConfig(page_size=256, num_blocks=9, max_memory_percent=0.9, auto_switch_to_flash=False)


def test_trl_itself_leaves_a_policy_in_bfloat16(trainer) -> None:  # noqa: F811
    """The fault that `lent` is for; when this fails it is gone."""
    built = trainer("rollout=continuous_batching", "bf16=true", "share_prompts=false")
    GRPOTrainer._generate_single_turn(built, [[1, 2, 3]], None, {}, 1)
    assert {each.dtype for each in built.model.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in built.model.buffers()} == {torch.bfloat16}  # rotary frequencies
