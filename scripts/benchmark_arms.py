"""The arms of the benchmark: how each is built, timed step by step, and its peak memory.

`scripts/benchmark.py` explains the arms, and calls `measure` and `peak_memory`. This file knows no tables or figures.
"""

import copy
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState
from greenlet import GreenletExit, getcurrent, greenlet
from rich.console import Console
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback, set_seed
from trl import GRPOConfig

from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.core.progress import progress
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.rewards.stack import build_rewards
from grpo.sampling.build import build_sampler
from grpo.tasks.example import Example
from grpo.tasks.splits import load_splits
from grpo.tasks.train_set import select_train_examples
from grpo.training.alarms import Alarm, Alarms, Metrics
from grpo.training.arguments import build_args
from grpo.training.recorder import Recorder
from grpo.training.trackers.interface import NoTracker
from grpo.training.trainer import Trainer, build_trainer

SCRIPT = Path(__file__).with_name("benchmark.py")
CUDA = torch.cuda.is_available()
REFERENCE = ["rollout=generate", "share_prompts=false"]
# Without a GPU every arm uses fp32: most CPUs emulate bf16, which is many times slower.
SETTINGS = {
    "plain": [*REFERENCE, f"bf16={CUDA}", "activation_checkpointing=true", "micro_batch_size=16"],
    "trl": [*REFERENCE, f"bf16={CUDA}"],
    "trl, micro-batch 16": [*REFERENCE, f"bf16={CUDA}", "micro_batch_size=16"],
    "trl, micro-batch 32": [*REFERENCE, f"bf16={CUDA}", "micro_batch_size=32"],
    "trl, fp32": [*REFERENCE, "bf16=false"],
    "shared": ["rollout.native=false", f"bf16={CUDA}"],
    "fast": [f"bf16={CUDA}"],
    "kernels": [f"bf16={CUDA}", "rollout.kernels=triton"],
    # With max_prompt_length, the engine's cache has room for one rollout; otherwise it takes half of the memory.
    "continuous": ["rollout=continuous_batching", "share_prompts=false", f"bf16={CUDA}", "max_prompt_length=512"],
}
if not CUDA:
    del SETTINGS["trl, fp32"], SETTINGS["kernels"]
elif find_spec("vllm"):
    SETTINGS["vllm"] = SETTINGS["trl"]
# Measured only if named: slow on a CPU, and it does not wait for completions of a given length.
ON_REQUEST = ["continuous"]
WARM_UP = 3
PARTS = ("generation", "training", "other")
# The sizes of Qwen2.5-0.5B. The model qwen-cut has two of its 24 layers.
QWEN: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
}
console = Console(highlight=False)


@dataclass(frozen=True)
class Case:
    """The settings that all arms share."""

    model: str = "tiny"  # tiny, qwen, qwen-cut or real
    num_generations: int = 16
    prompts: int = 4
    limit: int = 64
    forced: bool = False  # every completion has `limit` tokens
    prompt_tokens: int | None = None  # the length of every prompt; None: the prompts of the dataset as they are
    micro_batch_size: int = 1024
    policy: str = ""  # the folder of the policy of tiny or real; the others have random weights
    cpu_time: bool = False  # times are seconds of the CPU, not of the clock

    def __str__(self) -> str:
        ends = "each of" if self.forced else "each of at most"
        prompts = f", prompts of {self.prompt_tokens}" if self.prompt_tokens else ""
        clock = ", CPU time" if self.cpu_time else ""
        completions = f"{self.prompts} x {self.num_generations} completions, {ends} {self.limit} tokens"
        return f"{self.model}: {completions}{prompts}{clock}"

    def now(self) -> float:
        return time.process_time() if self.cpu_time else now()

    @property
    def completions(self) -> int:
        return self.prompts * self.num_generations

    def overrides(self) -> list[str]:
        return [
            *([f"model.path={self.policy}"] if self.policy else []),
            f"device={'cuda' if CUDA else 'cpu'}",
            f"num_generations={self.num_generations}",
            f"prompts_per_step={self.prompts}",
            f"micro_batch_size={self.micro_batch_size}",
            f"max_completion_length={self.limit}",
            "max_prompt_length=null",
            "max_steps=100000",
            "data.train_problems=500",
            "optimizer.lr=1e-12",
            "optimizer.schedule=constant",
            "tracking=none",
        ]


class NoAlarms(Alarms):
    """No alarms: in a benchmark the policy learns nothing and completions are truncated, both on purpose."""

    def check(self, metrics: Metrics, step: int) -> list[Alarm]:
        return []


class Arm(TrainerCallback):
    """A trainer that does one optimizer step per call of `step`, and records its times.

    The trainer runs in a greenlet, not in a thread: each thread would create its own pool of OpenMP threads, and OpenMP
    is slow with more threads than cores.
    """

    def __init__(self, name: str, trainer: Trainer, now: Callable[[], float]) -> None:
        self.name, self.trainer, self.now = name, trainer, now
        self.spent: dict[str, float] = {}
        self.tokens = 0
        self.steps: list[dict[str, float]] = []
        self._time("_generate_single_turn", "generation")
        self._time("_prepare_inputs", "preparing")
        self._time("training_step", "training")
        trainer.add_callback(self)
        self.turn = greenlet(trainer.train)
        self.turn.switch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        getcurrent().parent.switch()

    def _time(self, method: str, part: str) -> None:
        original = getattr(self.trainer, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = self.now()
            result = original(*args, **kwargs)
            self.spent[part] = self.spent.get(part, 0.0) + self.now() - began
            if part == "generation":
                self.tokens += sum(map(len, result[0]))
            return result

        setattr(self.trainer, method, timed)

    def step(self) -> None:
        """Run and time one optimizer step: from its beginning to the beginning of the next, including logging."""
        self.spent, self.tokens, began = {}, 0, self.now()
        self.turn.switch()
        step, generation = self.now() - began, self.spent["generation"]
        training = self.spent["training"] - self.spent["preparing"]
        other = step - generation - training
        self.steps.append(
            {"step": step, "generation": generation, "training": training, "other": other, "tokens": self.tokens}
        )

    def stop(self) -> None:
        self.turn.throw(GreenletExit)

    def figures(self, warm_up: int) -> dict[str, Any]:
        """Median seconds of a step and its parts, quartiles of the step, and completion tokens per second."""
        measured = self.steps[warm_up:]
        figures: dict[str, Any] = {part: median(step[part] for step in measured) for part in ("step", *PARTS)}
        low, _, high = quantiles((step["step"] for step in measured), n=4)
        return figures | {
            "quartiles": [low, high],
            "tokens_per_second": median(step["tokens"] / step["step"] for step in measured),
            "mean_tokens": sum(step["tokens"] for step in measured) / len(measured),
            "steps": [step["step"] for step in measured],
        }


def now() -> float:
    """The time in seconds, after all GPU work has finished."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def lengthen_questions(examples: list[Example], chat: ChatTemplate, tokens: int) -> list[Example]:
    """The problems with filler words before each question, so that each prompt has at least `tokens` tokens."""
    longer = []
    for example in examples:
        question = example.question
        while (missing := tokens - len(chat.prompt_ids([question])[0])) > 0:
            question = f"{'pens ' * max(1, missing // 2)}{question}"
        longer.append(Example(question, example.gold))
    return longer


def build_base(case: Case) -> Any:
    """The policy that every arm copies."""
    if case.policy:
        return build_policy(compose([f"model.path={case.policy}"]).model, 0)
    set_seed(0)
    config = Qwen2Config(**QWEN | ({"num_hidden_layers": 2} if case.model == "qwen-cut" else {}))
    policy = Qwen2ForCausalLM(config)
    policy.generation_config.eos_token_id = None
    return policy


def build_arm(name: str, case: Case, base: Any, folder: Path, *overrides: str) -> Arm:
    """An arm with its settings, a copy of the policy and a folder below `folder`; `overrides` come last."""
    config = compose([*case.overrides(), *SETTINGS[name], *overrides])
    tokenizer = build_tokenizer(config.model)
    policy = copy.deepcopy(base).to(config.device)
    # Accelerate stores the dtype of autocast in a state that all trainers share, and only bf16 arms read it.
    if config.bf16:
        AcceleratorState._reset_state()
    rewards = build_rewards(config.rewards)
    examples = load_splits(config.data).train
    if case.prompt_tokens:
        examples = lengthen_questions(examples[:64], ChatTemplate.of(tokenizer, config), case.prompt_tokens)
    train_examples, _ = select_train_examples(examples, tokenizer, config)
    batch = derive_batch(case.num_generations, case.prompts, config.micro_batch_size)
    out = folder / name.replace(" ", "_")
    out.mkdir()
    rollout = build_sampler(policy, tokenizer, config)
    recorder = Recorder(config, rewards, NoTracker(), out)
    recorder.alarms = NoAlarms(config, rewards)
    if name == "vllm":  # vLLM loads the policy from a folder
        for saved in (policy, tokenizer):
            saved.save_pretrained(out / "policy")
        policy.config._name_or_path = str(out / "policy")
    arguments = partial(build_vllm_args, case) if name == "vllm" else build_args
    with patch("grpo.training.trainer.build_args", arguments):
        trainer: Any = build_trainer(config, batch, policy, tokenizer, train_examples, rewards, rollout, recorder, out)
    if case.forced and name != "vllm":
        if hasattr(rollout, "is_end_token"):
            rollout.is_end_token.fill_(False)
        else:
            trainer.generation_config.min_new_tokens = case.limit
    if not case.policy:
        score = trainer._generate_and_score_completions

        def score_with_signal(inputs: Any) -> dict[str, Any]:
            batch = score(inputs)
            rows = torch.arange(len(batch["advantages"]), device=batch["advantages"].device)
            return batch | {"advantages": 1.0 - 2.0 * (rows % 2)}

        trainer._generate_and_score_completions = score_with_signal
    return Arm(name, trainer, case.now)


def build_vllm_args(case: Case, *args: Any) -> GRPOConfig:
    """The arguments of TRL for generation by vLLM in the same process."""
    config = build_args(*args)
    config.use_vllm, config.vllm_mode, config.vllm_gpu_memory_utilization = True, "colocate", 0.2
    if case.forced:
        config.generation_kwargs = {"min_tokens": case.limit}
    return config


def measure(case: Case, names: Sequence[str], steps: int, warm_up: int = WARM_UP) -> dict[str, dict[str, Any]]:
    """Time the arms in turn; returns the figures of each. Only the fastest `trl` arm continues after the warm-up."""
    base = build_base(case)
    with tempfile.TemporaryDirectory() as folder:
        # bf16 arms are built last: see build_arm.
        ordered = sorted(names, key=lambda name: "bf16=True" in SETTINGS[name])
        arms = [build_arm(name, case, base, Path(folder)) for name in ordered]
        with progress(str(case), (warm_up + steps) * len(arms)) as advance:
            for number in range(warm_up + steps):
                for arm in list(arms):
                    try:
                        arm.step()
                    except torch.OutOfMemoryError:
                        console.print(f"{arm.name}: out of memory; this arm is skipped")
                        arms.remove(arm)
                    advance(1, arm.name)
                if number == warm_up - 1:
                    trl_arms = [arm for arm in arms if arm.name.startswith("trl")]
                    trl_arms.sort(key=lambda arm: min(step["step"] for step in arm.steps))
                    for slower in trl_arms[1:]:
                        arms.remove(slower)
                        slower.stop()
                        advance(steps, "")
        figures = {group(arm.name): arm.figures(warm_up) | arm_notes(arm) for arm in arms}
        for arm in arms:
            arm.stop()
    return {name: figures[name] for name in dict.fromkeys(map(group, SETTINGS)) if name in figures}


def group(name: str) -> str:
    """The name of an arm in results: the variants of `trl` are one arm, and the fastest of them counts."""
    return name.split(",")[0]


def arm_notes(arm: Arm) -> dict[str, Any]:
    args = arm.trainer.args
    return {"settings": arm.name, "bf16": args.bf16, "micro_batch": args.per_device_train_batch_size}


def peak_memory(settings: str, case: Case, steps: int = 3) -> float:
    """Peak bytes of one arm in a separate process: reserved on the GPU, or resident without a GPU; nan if it fails."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()  # the process needs the memory
    command = [sys.executable, str(SCRIPT), "--steps", str(steps), "--memory-of", settings, json.dumps(asdict(case))]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return float(process.stdout.split()[-1]) if process.returncode == 0 else float("nan")


def print_peak_memory(settings: str, case: Case, steps: int) -> None:
    """Run `steps` steps of one arm and print the peak memory in bytes; `peak_memory` starts a process for it."""
    with tempfile.TemporaryDirectory() as folder:
        size = f"micro_batch_size={case.micro_batch_size}"
        arm = build_arm(settings, case, build_base(case), Path(folder), size)
        for _ in range(steps):
            arm.step()
        arm.stop()
    print(torch.cuda.max_memory_reserved() if CUDA else peak_resident_bytes())


def peak_resident_bytes() -> int:
    """The most memory that this process has had in RAM."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, getrusage counts the process that started this one as well
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, in bytes
