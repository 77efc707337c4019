"""Measure the time of an optimizer step of GRPO: this project compared with TRL.

`make bench`, or `python scripts/benchmark.py --help`

The arms train by turns, one step each, in one process, from the same weights, on the same problems, with the same seed.
A slow moment of the machine therefore slows every arm; read the ratios. Each arm runs warm-up steps, then timed steps:

  plain   TRL with the settings of a first script: activation checkpointing, micro-batches of 16 completions
  trl     TRL with its fastest settings on this machine: no checkpointing, and the fastest micro-batch size and dtype
  shared  this project with the modules of transformers only: rollout.native=false
  fast    this project with its default settings
  kernels this project with Triton's kernels in the decode step, on a GPU: rollout.kernels=triton
  vllm    TRL with vLLM on the same GPU, if vLLM is installed

The learning rate is so small that the policy of an arm does not change. For the embedded model it is a trained policy:
without --policy, the script trains one first and stores it for later calls. Random weights earn no reward, so with them
the script sets an advantage for every completion: a group without a learning signal needs no backward pass.

On a GPU (--model qwen) the script also prints the lower bound of the step time that `python -m grpo.plan` computes
(formulas: grpo/planning/roofline.py) from measured rates: FLOP/s of a large bf16 product and B/s of a large copy.
"""

import argparse
import copy
import gc
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from accelerate.state import AcceleratorState
from greenlet import GreenletExit, getcurrent, greenlet
from rich.console import Console
from rich.table import Table
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback, set_seed
from trl import GRPOConfig

from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.core.process import guard_streams
from grpo.core.progress import progress
from grpo.core.run_log import quiet_libraries
from grpo.planning.architecture import Architecture
from grpo.planning.planned_run import PlannedRun
from grpo.planning.roofline import DeviceRates, step_seconds
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.rewards.stack import build_rewards
from grpo.sampling.build import build_sampler
from grpo.tasks.example import Example
from grpo.tasks.splits import load_splits
from grpo.tasks.train_set import select_train_examples
from grpo.training.arguments import build_args
from grpo.training.recorder import Recorder
from grpo.training.trackers.interface import NoTracker
from grpo.training.trainer import Trainer, build_trainer

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
}
if not CUDA:
    del SETTINGS["trl, fp32"], SETTINGS["kernels"]
elif find_spec("vllm"):
    SETTINGS["vllm"] = SETTINGS["trl"]
WARM_UP = 3
PARTS = ("generation", "training", "other")
COLOURS = ("#0072B2", "#E69F00", "#BBBBBB")
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

    model: str = "tiny"  # tiny, qwen or qwen-cut
    num_generations: int = 16
    prompts: int = 4
    limit: int = 64
    forced: bool = False  # every completion has `limit` tokens
    prompt_tokens: int | None = None  # the length of every prompt; None: the prompts of the dataset as they are
    micro_batch_size: int = 1024

    def __str__(self) -> str:
        ends = "each of" if self.forced else "each of at most"
        prompts = f", prompts of {self.prompt_tokens}" if self.prompt_tokens else ""
        return f"{self.model}: {self.prompts} x {self.num_generations} completions, {ends} {self.limit} tokens{prompts}"

    def overrides(self) -> list[str]:
        return [
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


class Arm(TrainerCallback):
    """A trainer that does one optimizer step per call of `step`, and records its times.

    The trainer runs in a greenlet, not in a thread: each thread would create its own pool of OpenMP threads, and OpenMP
    is slow with more threads than cores.
    """

    def __init__(self, name: str, trainer: Trainer) -> None:
        self.name, self.trainer = name, trainer
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
            began = now()
            result = original(*args, **kwargs)
            self.spent[part] = self.spent.get(part, 0.0) + now() - began
            if part == "generation":
                self.tokens += sum(map(len, result[0]))
            return result

        setattr(self.trainer, method, timed)

    def step(self) -> None:
        """Run and time one optimizer step: from its beginning to the beginning of the next, including logging."""
        self.spent, self.tokens, began = {}, 0, now()
        self.turn.switch()
        step, generation = now() - began, self.spent["generation"]
        training = self.spent["training"] - self.spent["preparing"]
        other = step - generation - training
        self.steps.append(
            {"step": step, "generation": generation, "training": training, "other": other, "tokens": self.tokens}
        )

    def stop(self) -> None:
        self.turn.throw(GreenletExit)

    def figures(self) -> dict[str, Any]:
        """Median seconds of a step and its parts, quartiles of the step, and completion tokens per second."""
        measured = self.steps[WARM_UP:]
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


def build_base(case: Case, policy_folder: str) -> Any:
    """The policy that every arm copies."""
    if case.model == "tiny":
        return build_policy(compose([f"model.path={policy_folder}"]).model, 0)
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
    if case.model != "tiny":
        score = trainer._generate_and_score_completions

        def score_with_signal(inputs: Any) -> dict[str, Any]:
            batch = score(inputs)
            rows = torch.arange(len(batch["advantages"]), device=batch["advantages"].device)
            return batch | {"advantages": 1.0 - 2.0 * (rows % 2)}

        trainer._generate_and_score_completions = score_with_signal
    return Arm(name, trainer)


def build_vllm_args(case: Case, *args: Any) -> GRPOConfig:
    """The arguments of TRL for generation by vLLM in the same process."""
    config = build_args(*args)
    config.use_vllm, config.vllm_mode, config.vllm_gpu_memory_utilization = True, "colocate", 0.2
    if case.forced:
        config.generation_kwargs = {"min_tokens": case.limit}
    return config


def measure(case: Case, names: Sequence[str], steps: int, policy_folder: str) -> dict[str, dict[str, Any]]:
    """Time the arms by turns; returns the figures of each. Only the fastest `trl` arm continues after the warm-up."""
    base = build_base(case, policy_folder)
    with tempfile.TemporaryDirectory() as folder:
        # bf16 arms are built last: see build_arm.
        ordered = sorted(names, key=lambda name: "bf16=True" in SETTINGS[name])
        arms = [build_arm(name, case, base, Path(folder)) for name in ordered]
        with progress(str(case), (WARM_UP + steps) * len(arms)) as advance:
            for number in range(WARM_UP + steps):
                for arm in list(arms):
                    try:
                        arm.step()
                    except torch.OutOfMemoryError:
                        console.print(f"{arm.name}: out of memory; this arm is skipped")
                        arms.remove(arm)
                    advance(1, arm.name)
                if number == WARM_UP - 1:
                    trl_arms = [arm for arm in arms if arm.name.startswith("trl")]
                    trl_arms.sort(key=lambda arm: min(step["step"] for step in arm.steps))
                    for slower in trl_arms[1:]:
                        arms.remove(slower)
                        slower.stop()
                        advance(steps, "")
        figures = {("trl" if arm.name.startswith("trl") else arm.name): arm.figures() | arm_notes(arm) for arm in arms}
        for arm in arms:
            arm.stop()
    return {name: figures[name] for name in ("plain", "trl", "shared", "fast", "kernels", "vllm") if name in figures}


def arm_notes(arm: Arm) -> dict[str, Any]:
    args = arm.trainer.args
    return {"settings": arm.name, "bf16": args.bf16, "micro_batch": args.per_device_train_batch_size}


def peak_memory(settings: str, case: Case, policy_folder: str) -> float:
    """Peak bytes in three steps of one arm in a separate process: reserved on the GPU, or resident without a GPU."""
    command = [sys.executable, __file__, "--policy", policy_folder, "--memory-of", settings, json.dumps(asdict(case))]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return float(process.stdout.split()[-1]) if process.returncode == 0 else float("nan")


def print_peak_memory(settings: str, case: Case, policy_folder: str) -> None:
    """Run three steps of one arm and print the peak memory in bytes; `peak_memory` starts a process for it."""
    with tempfile.TemporaryDirectory() as folder:
        size = f"micro_batch_size={case.micro_batch_size}"
        arm = build_arm(settings, case, build_base(case, policy_folder), Path(folder), size)
        for _ in range(3):
            arm.step()
        arm.stop()
    print(torch.cuda.max_memory_reserved() if CUDA else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure_rates() -> tuple[float, float]:
    """The rates of this GPU: FLOP/s of a large bf16 product and B/s of a large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)

    def seconds(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(13):
            began = now()
            run()
            times.append(now() - began)
        return median(times[3:])

    return 2 * 8192**3 / seconds(lambda: a @ b), 2 * source.nbytes / seconds(lambda: target.copy_(source))


def least_seconds(case: Case, flops: float, bandwidth: float) -> dict[str, float]:
    """The lower bound of a step and of its parts in seconds, from measured rates."""
    config = compose([*case.overrides(), "bf16=true", f"max_prompt_length={case.prompt_tokens}"])
    batch = derive_batch(case.num_generations, case.prompts, config.micro_batch_size)
    run = PlannedRun(config, batch, Architecture.from_settings({"model_type": "qwen2", **QWEN}))
    parts = step_seconds(run, DeviceRates(flops, flops, bandwidth))
    return parts | {"step": sum(parts.values())}


def results_table(case: Case, figures: dict[str, dict[str, Any]]) -> Table:
    """The times of the arms of a case, and the speed of each relative to `trl`."""
    table = Table("arm", "step, ms", *PARTS, "tokens/s", "speed", title=str(case), title_justify="left")
    reference = figures["trl"]["step"] if "trl" in figures else None
    for name, arm in figures.items():
        low, high = arm["quartiles"]
        table.add_row(
            name,
            f"{arm['step'] * 1e3:.0f} ({low * 1e3:.0f}-{high * 1e3:.0f})",
            *(f"{arm[part] * 1e3:.0f}" for part in PARTS),
            f"{arm['tokens_per_second']:,.0f}",
            f"{reference / arm['step']:.2f}x" if reference else "",
        )
    if "trl" in figures:
        table.caption = (
            f"the fastest settings of TRL: bf16={figures['trl']['bf16']}, micro-batch {figures['trl']['micro_batch']}"
        )
    return table


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw the median step of every arm as a bar of its parts."""
    bars = [(entry["title"], name, arm) for entry in results for name, arm in entry["arms"].items()]
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.34 * (len(bars) + 1.6 * len(results))), layout="constrained")
    y = 0.0
    ticks: list[float] = []
    labels: list[str] = []
    for entry in results:
        y += 1.0
        axes.text(0, y - 0.1, entry["title"], va="bottom", fontsize=9)
        for name, arm in entry["arms"].items():
            y += 0.8
            left = 0.0
            for part, colour in zip(PARTS, COLOURS, strict=True):
                axes.barh(y, arm[part], 0.6, left=left, color=colour, label=part if not ticks else None)
                left += arm[part]
            axes.text(left, y, f" {arm['step'] * 1e3:.0f} ms", va="center", fontsize=8)
            ticks.append(y)
            labels.append(name)
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.set_xlabel("median seconds per optimizer step")
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def machine() -> dict[str, Any]:
    """The hardware and the versions that a result depends on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if CUDA else None,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "trl", "accelerate")},
    }


def trained_policy(folder: Path) -> str:
    """The folder of the embedded policy, trained with the default settings if it is not there yet."""
    if not (folder / "results.json").is_file():
        console.print("First, the embedded policy is trained with the default settings and stored.")
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run
        run = [sys.executable, "-m", "grpo.train", "tracking=none", f"hydra.run.dir={folder}"]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    return str(folder / "policy")


def cases(grid: bool, model: str) -> list[Case]:
    """The cases to measure; `grid` varies K and the completion length."""
    if model == "qwen":
        return [Case("qwen", limit=200, forced=True, prompt_tokens=256)]
    if not grid:
        return [Case(model), Case(model, forced=True)]
    return [
        *(Case(model, num_generations=k) for k in (4, 8, 16, 32)),
        *(Case(model, limit=limit, forced=True) for limit in (64, 128, 256)),
    ]


def write_results(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--grid", action="store_true", help="also measure K = 4 to 32 and limits of 64 to 256 tokens; takes hours"
    )
    parser.add_argument(
        "--model",
        choices=("tiny", "qwen-cut", "qwen"),
        default="qwen" if CUDA else "tiny",
        help="tiny: the embedded policy; qwen: Qwen2.5-0.5B with random weights; qwen-cut: two layers of it",
    )
    parser.add_argument("--steps", type=int, default=15, help="timed steps per arm")
    parser.add_argument("--arms", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        "--no-memory", action="store_true", help="do not measure peak memory, which needs a process per arm"
    )
    parser.add_argument("--policy", help="folder of a trained embedded policy; by default the script trains one")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model == "qwen" and not CUDA:
        parser.error("--model qwen needs a GPU; use --model qwen-cut on a CPU")
    if arguments.steps < 2:
        parser.error(f"--steps {arguments.steps}: quartiles need at least 2")
    return arguments


def measure_cases(arguments: argparse.Namespace, policy: str) -> list[dict[str, Any]]:
    """Time the arms of every case, and print a table for each."""
    results: list[dict[str, Any]] = []
    names = arguments.arms
    for case in cases(arguments.grid, arguments.model):
        figures = measure(case, names, arguments.steps, policy)
        if "trl" in figures and not arguments.grid:  # later cases use the fastest settings of the first
            names = [name for name in names if not name.startswith("trl") or name == figures["trl"]["settings"]]
        entry: dict[str, Any] = {"title": str(case), "case": asdict(case), "arms": figures}
        console.print(results_table(case, figures))
        if arguments.model == "qwen":
            entry["ceilings"] = measure_rates()
            entry["floor"] = least_seconds(case, *entry["ceilings"])
            for name, arm in figures.items():
                console.print(f"{name}: {arm['step'] / entry['floor']['step']:.2f} times the lower bound")
            console.print({part: f"{seconds * 1e3:.1f} ms" for part, seconds in entry["floor"].items()})
        results.append(entry)
    return results


def measure_memory(arguments: argparse.Namespace, policy: str, arms: dict[str, Any]) -> dict[str, float]:
    """The peak memory in bytes of the arms of the last case, each in a separate process."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()  # the processes need the memory
    case = cases(False, arguments.model)[-1]
    memory: dict[str, float] = {}
    for name, arm in arms.items():
        if not (CUDA or arguments.grid or name in ("trl", "fast")):
            continue
        for size in (1, 16, 64) if CUDA else (arm["micro_batch"],):
            key = f"{name}, micro-batch {size}"
            sized = Case(**asdict(case) | {"micro_batch_size": size})
            memory[key] = peak_memory(arm["settings"], sized, policy)
            console.print(f"peak memory, {key}: {memory[key] / 1e9:.2f} GB")
    return memory


def main() -> None:
    guard_streams()
    arguments = parse_arguments()
    quiet_libraries()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if arguments.memory_of:
        name, case = arguments.memory_of
        return print_peak_memory(name, Case(**json.loads(case)), arguments.policy)
    arguments.out.mkdir(parents=True, exist_ok=True)
    policy = arguments.policy or ""
    if arguments.model == "tiny" and not policy:
        policy = trained_policy(arguments.out / "policy")
    results = measure_cases(arguments, policy)
    report = {"machine": machine(), "command": sys.argv, "warm_up": WARM_UP, "cases": results}
    write_results(report, arguments.out / "benchmark.json")
    if not arguments.no_memory:
        results[-1]["peak_memory_bytes"] = measure_memory(arguments, policy, results[-1]["arms"])
        write_results(report, arguments.out / "benchmark.json")
    draw(results, arguments.out / "benchmark.png")
    console.print(f"{arguments.out}/benchmark.json, benchmark.png")


if __name__ == "__main__":
    main()
