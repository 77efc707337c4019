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
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.core.process import guard_streams
from grpo.core.run_log import quiet_libraries
from grpo.planning.architecture import Architecture
from grpo.planning.planned_run import PlannedRun
from grpo.planning.roofline import DeviceRates, step_seconds
from scripts.benchmark_arms import (
    CUDA,
    QWEN,
    SETTINGS,
    WARM_UP,
    Case,
    console,
    measure,
    now,
    peak_memory,
    print_peak_memory,
)
from scripts.benchmark_output import draw, machine, results_table


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
