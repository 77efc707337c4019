"""`Trainer`, composed of its parts, and `build_trainer`, which builds one for a run.

`grpo.training.session` calls `build_trainer`. Each part is in a file that opens with the methods of TRL's `GRPOTrainer`
(TRL 1.16) that it replaces, and why.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from grpo.config.batch import BatchSplit
from grpo.config.samplers import ENGINES, VLLM_ENGINES
from grpo.config.schema import Config
from grpo.policy.chat_template import ChatTemplate
from grpo.rewards.stack import RewardStack
from grpo.runs.run_dir import RunDir
from grpo.sampling.sampler import Sampler
from grpo.tasks.curriculum import Curriculum
from grpo.tasks.example import Example
from grpo.tasks.train_set import trl_rows
from grpo.training.arguments import build_args
from grpo.training.checkpointing import CheckpointingMixin, safe_reward_states
from grpo.training.recorder import Recorder
from grpo.training.resampling import ResamplingMixin
from grpo.training.reward_adapter import ScoringMixin, TrlReward
from grpo.training.sampling_adapter import SamplingMixin
from grpo.training.shared_log_probs import PrefixSharingMixin


class Trainer(PrefixSharingMixin, ResamplingMixin, SamplingMixin, ScoringMixin, CheckpointingMixin):
    """TRL's trainer with shared prompts, our samplers, resampling, attributed advantages, a guard, exact checkpoints.

    It computes what TRL computes: tests/training/test_trainer.py compares losses, log-probabilities and gradients.
    """


def build_trainer(
    config: Config,
    batch: BatchSplit,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    rewards: RewardStack,
    sampler: Sampler,
    recorder: Recorder,
    out: Path,
) -> Trainer:
    """The trainer of a run in the directory `out`, which trains on the problems `examples`."""
    model = config.model
    has_no_folder = model.init == "random" or model.gguf is not None or model.merge_adapter
    if has_no_folder and not model.lora_rank and (config.algorithm.beta > 0 or config.rollout.name == "vllm"):
        # TRL loads the reference policy, and vLLM its copy, from the policy's folder, so other weights need one.
        reference = RunDir(out).reference
        policy.save_pretrained(reference)
        tokenizer.save_pretrained(reference)
        policy.config._name_or_path = policy.name_or_path = str(reference)
    safe_reward_states(rewards.weights)  # a state that cannot be saved is reported before the first step
    args = build_args(config, batch, rewards, out)
    if config.rollout.name in VLLM_ENGINES:  # vLLM reads end tokens only from the policy's folder
        args.generation_kwargs = {"stop_token_ids": sampler.end_token_ids}
    chat = ChatTemplate.of(tokenizer, config)
    trainer = Trainer(
        chat=chat,
        curriculum=Curriculum.of(examples, config.data),
        sampler=None if config.rollout.name in ENGINES else sampler,
        share_prompts=config.share_prompts,
        prefix_attention=config.prefix_attention,
        recorder=recorder,
        model=policy,
        reward_funcs=[
            TrlReward(name, rewards, examples, sampler.end_token_ids, log_rows=i == 0)
            for i, name in enumerate(rewards.weights)
        ],
        args=args,
        train_dataset=Dataset.from_list(trl_rows(examples, chat)),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    recorder.completion_log.trl_logs, recorder.completion_log.examples = trainer._logs, examples
    return trainer
