"""The check of the memory plan, for `scripts/check_gpu.py`: planned bytes beside those of two real steps.

`check_plan` measures; tests build the same trainers on a CPU (`build_longest_trainer`).
"""

import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from grpo.config.batch import BatchSplit, derive_batch
from grpo.config.composition import compose
from grpo.config.schema import Config
from grpo.core.console import quiet
from grpo.core.device import free_memory
from grpo.planning.architecture import read_architecture
from grpo.planning.memory import memory_by_phase
from grpo.planning.memory_parts import Parts
from grpo.planning.planned_run import PlannedRun
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.hub import ASSETS
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.rewards.stack import build_rewards
from grpo.sampling.build import build_sampler
from grpo.tasks.splits import load_splits
from grpo.tasks.train_set import select_train_examples
from grpo.training.recorder import Recorder
from grpo.training.trackers.interface import NoTracker
from grpo.training.trainer import Trainer, build_trainer

GSM8K, QWEN = (os.environ.get(name, "") for name in ("GRPO_GSM8K_DIR", "GRPO_QWEN_DIR"))


class Skipped(Exception):
    """A check cannot run on this machine; the text is the reason."""


# The settings to measure, the policy's size first.
PLANNED = [
    "0.5B micro_batch_size=16",
    "0.5B micro_batch_size=64",
    "0.5B micro_batch_size=16 activation_checkpointing=true",
    "0.5B micro_batch_size=16 model.lora_rank=16 model.dtype=bfloat16",
    "1.5B micro_batch_size=16",
    "3B micro_batch_size=8 model.lora_rank=16 model.dtype=bfloat16",
    "0.5B micro_batch_size=16 algorithm=grpo_kl",
    "0.5B micro_batch_size=8 share_prompts=false rollout=generate max_completion_length=100",
]
PLAN_SECONDS = 65  # no measurement starts after this time


def build_longest_trainer(config: Config, out: Path, phase: Callable[[str], None]) -> tuple[Trainer, BatchSplit]:
    """A trainer whose prompts and completions are at their limits, and whose groups all have a learning signal.

    It calls `phase` with a name when sampling, training and the update begin.
    """
    tokenizer = build_tokenizer(config.model)
    rewards = build_rewards(config.rewards, [])
    examples = load_splits(config.data).train
    chat = ChatTemplate.of(tokenizer, config)
    lengths = [len(ids) for ids in chat.prompt_ids([example.question for example in examples])]
    assert config.max_prompt_length
    lengths_near_limit = range(config.max_prompt_length - 3, config.max_prompt_length + 1)
    longest = [example for example, length in zip(examples, lengths, strict=True) if length in lengths_near_limit]
    train_examples, _ = select_train_examples(longest, tokenizer, config)
    with torch.device(config.device):
        policy: Any = build_policy(config.model, config.seed)
    policy.to(config.device)
    rollout: Any = build_sampler(policy, tokenizer, config)
    batch = derive_batch(config.num_generations, config.prompts_per_step, config.micro_batch_size)
    recorder = Recorder(config, rewards, NoTracker(), out)
    trainer: Any = build_trainer(config, batch, policy, tokenizer, train_examples, rewards, rollout, recorder, out)
    if hasattr(rollout, "is_end_token"):
        rollout.is_end_token.fill_(False)
    sample, score, create = (
        trainer._generate_single_turn,
        trainer._generate_and_score_completions,
        trainer.create_optimizer,
    )

    def sample_in_phase(*args: Any, **kwargs: Any) -> Any:
        phase("sampling")
        try:
            return sample(*args, **kwargs)
        finally:
            phase("training")

    def score_with_signal(inputs: Any) -> dict[str, Any]:
        scored = score(inputs)
        rows = torch.arange(len(scored["advantages"]), device=scored["advantages"].device)
        return scored | {"advantages": 1.0 - 2.0 * (rows % 2)}

    def create_watched_optimizer(*args: Any, **kwargs: Any) -> Any:
        optimizer = create(*args, **kwargs)
        step = optimizer.step

        def step_in_phase(*args: Any, **kwargs: Any) -> Any:
            phase("update")
            try:
                return step(*args, **kwargs)
            finally:
                phase("training")

        optimizer.step = step_in_phase
        return optimizer

    trainer._generate_single_turn, trainer._generate_and_score_completions = sample_in_phase, score_with_signal
    trainer.create_optimizer = create_watched_optimizer
    return trainer, batch


def peak_allocated() -> int:
    """Peak bytes since the last call, including CUDA graphs, whose memory no allocation shows after the capture."""
    torch.cuda.synchronize()
    graphs = sum(
        segment["total_size"]
        for segment in torch.cuda.memory_snapshot()
        if tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0)
    )
    peak = torch.cuda.max_memory_allocated() + graphs
    torch.cuda.reset_peak_memory_stats()
    return peak


def measure_plan(size: str, settings: list[str], folder: Path) -> tuple[dict[str, Parts], dict[str, int], int]:
    """The planned bytes of each phase, the bytes measured in the second step, and all reserved bytes."""
    model = folder / size
    if not model.exists():
        shutil.copytree(QWEN, model, ignore=shutil.ignore_patterns("*.safetensors"))
        sizes = json.loads((ASSETS / "architectures.json").read_text())[f"Qwen/Qwen2.5-{size}-Instruct"]
        (model / "config.json").write_text(json.dumps(json.loads((model / "config.json").read_text()) | sizes))
    out = Path(tempfile.mkdtemp(dir=folder))
    paths = [f"model.path={model}", "model.init=random", f"data.path={GSM8K}", "data.train_problems=2000"]
    short = ["max_prompt_length=128", "max_completion_length=200", "max_steps=2", "save_steps=null", "tracking=none"]
    config = compose(["experiment=gsm8k", *paths, *short, *settings])
    peaks: dict[str, int] = {}
    now = "building"

    def phase(name: str) -> None:
        nonlocal now
        peaks[now] = max(peak_allocated(), peaks.get(now, 0))
        now = name
        if name == "sampling":
            peaks.clear()  # only the last step counts: in the first, the optimizer has no moments yet

    AcceleratorState._reset_state()
    free_memory()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    trainer, batch = build_longest_trainer(config, out, phase)
    with quiet():
        trainer.train()
    phase("ended")
    reserved = torch.cuda.memory_reserved()
    expected = memory_by_phase(PlannedRun(config, batch, read_architecture(config.model)[0]))
    return expected, {name: peaks[name] - before for name in expected}, reserved


def check_plan() -> str:
    if not (GSM8K and QWEN):
        raise Skipped("GRPO_GSM8K_DIR and GRPO_QWEN_DIR do not name GSM8K and Qwen2.5's tokenizer")
    began, ratios = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for line in PLANNED:
            if time.monotonic() - began > PLAN_SECONDS:
                print(f"  {line}: skipped, because the time is over", flush=True)
                continue
            started = time.monotonic()
            size, *settings = line.split()
            try:
                expected, measured, reserved = measure_plan(size, settings, Path(folder))
            except Exception:
                print(f"  {line}: {traceback.format_exc(limit=-3)}", flush=True)
                ratios.append(float("nan"))
                continue
            print(f"  {line}: {time.monotonic() - started:.0f} s, {reserved / 2**30:.2f} GiB reserved", flush=True)
            for name, parts in expected.items():
                planned = sum(parts.values())
                ratios.append(planned / measured[name])
                print(
                    f"    {name:9} planned {planned / 2**30:6.2f} GiB, measured {measured[name] / 2**30:6.2f}, "
                    f"ratio {ratios[-1]:.2f}; "
                    + ", ".join(f"{part} {size / 2**30:.2f}" for part, size in parts.items()),
                    flush=True,
                )
    assert all(0.85 <= ratio <= 1.15 for ratio in ratios), f"not within 15%: {[f'{ratio:.2f}' for ratio in ratios]}"
    return f"planned / measured from {min(ratios):.2f} to {max(ratios):.2f}"
