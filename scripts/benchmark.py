"""Measure the time of an optimizer step of GRPO: this project compared with TRL.

`make bench`, or `python scripts/benchmark.py --help`

The arms take turns, one step each, in one process, from the same weights, on the same problems, with the same seed.
A slow moment of the machine therefore slows every arm; read the ratios. Each arm runs warm-up steps, then timed steps:

  plain       TRL with the settings of a first script: activation checkpointing, micro-batches of 16 completions
  trl         TRL with its fastest settings on this machine: no checkpointing, the fastest micro-batch size and dtype
  shared      this project with the modules of transformers only: rollout.native=false
  fast        this project with its default settings
  kernels     this project with Triton's kernels in the decode step, on a GPU: rollout.kernels=triton
  vllm        TRL with vLLM on the same GPU, if vLLM is installed
  continuous  TRL with transformers' continuous batching: at natural ends, and only if --arms names it

The learning rate is so small that the policy of an arm does not change. For the embedded model it is a trained policy:
without --policy, the script trains one first and stores it for later calls. Random weights earn no reward, so with them
the script sets an advantage for every completion: a group without a learning signal needs no backward pass.

On a GPU (--model qwen) the script also prints the lower bound of the step time that `python -m grpo.plan` computes
(formulas: grpo/planning/roofline.py) from measured rates: FLOP/s of a large bf16 product and B/s of a large copy.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import grpo  # noqa: F401  # before torch: it limits for how long OpenMP threads spin

# isort: split
import torch

from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.core.files import write_json
from grpo.core.process import guard_streams
from grpo.core.run_log import quiet_libraries
from grpo.planning.architecture import Architecture
from grpo.planning.planned_run import PlannedRun
from grpo.planning.roofline import DeviceRates, step_seconds
from scripts.benchmark_arms import (
    CUDA,
    ON_REQUEST,
    QWEN,
    SETTINGS,
    WARM_UP,
    Case,
    console,
    group,
    measure,
    now,
    peak_memory,
    print_peak_memory,
)
from scripts.benchmark_grid import GRIDS, draw_grid, grid_tables, measure_grid
from scripts.benchmark_output import draw, machine, results_table

STEPS = 15


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
    """The folder of the embedded policy; if it does not exist, the policy is trained with the default settings."""
    if not (folder / "results.json").is_file():
        console.print("First, the embedded policy is trained with the default settings and stored.")
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run
        run = [sys.executable, "-m", "grpo.train", "tracking=none", f"hydra.run.dir={folder}"]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    return str(folder / "policy")


def cases(model: str, policy: str) -> list[Case]:
    """The cases to measure without --grid; `policy` is the folder of the policy of tiny or real."""
    if model == "qwen":
        return [Case("qwen", limit=200, forced=True, prompt_tokens=256)]
    if model == "real":
        return [Case("real", limit=200, policy=policy)]
    policy = policy if model == "tiny" else ""
    return [Case(model, policy=policy), Case(model, forced=True, policy=policy)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--grid",
        action="store_true",
        help="measure K = 4 to 64 and limits of 64 to 512 tokens instead, with the arms trl and fast: about half an "
        "hour on two cores. If it is interrupted, the same command measures the missing cases",
    )
    parser.add_argument(
        "--model",
        nargs="+",
        choices=("tiny", "qwen-cut", "qwen", "real"),
        help="tiny: the embedded policy; qwen: Qwen2.5-0.5B with random weights; qwen-cut: two layers of it; real: the "
        "pretrained policy in the folder --policy, at natural ends. By default qwen on a GPU, otherwise tiny, and with "
        "--grid also qwen-cut",
    )
    parser.add_argument("--steps", type=int, help=f"timed steps per arm; by default {STEPS}, with --grid 3 to 7")
    parser.add_argument(
        "--arms", nargs="+", choices=list(SETTINGS), help="by default all but continuous; with --grid trl and fast"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="do not measure peak memory, which needs a process per arm"
    )
    parser.add_argument(
        "--policy", help="folder of the policy of tiny or real; for tiny, the script trains one without it"
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="without a GPU: time the CPU instead of the clock, for a machine that other processes use as well; with "
        "OMP_NUM_THREADS=1, or waiting threads are counted",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps is None and not arguments.grid:
        arguments.steps = STEPS
    if arguments.model is None:
        arguments.model = ["qwen"] if CUDA else ["tiny", "qwen-cut"] if arguments.grid else ["tiny"]
    if arguments.arms is None:
        usual = [name for name in SETTINGS if name not in ON_REQUEST]
        arguments.arms = [name for name in usual if not arguments.grid or group(name) in ("trl", "fast")]
    check(parser, arguments)
    return arguments


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exit with a message if the options contradict one another."""
    if "qwen" in arguments.model and not CUDA:
        parser.error("--model qwen needs a GPU; use --model qwen-cut on a CPU")
    if "real" in arguments.model:
        if arguments.grid:
            parser.error("--model real has no grid; use --model tiny, qwen-cut or qwen")
        if not arguments.policy:
            parser.error("--model real needs the folder of a pretrained policy: --policy FOLDER")
        if "tiny" in arguments.model:
            parser.error(
                "--policy is the folder of one policy: measure --model tiny and --model real one after the other"
            )
    if arguments.policy and not Path(arguments.policy, "config.json").is_file():
        parser.error(f"--policy {arguments.policy}: must be a folder with config.json and the weights of a policy")
    if arguments.cpu_time and CUDA:
        parser.error("--cpu-time does not count what a GPU computes")
    if arguments.steps is not None and arguments.steps < 2 and not arguments.memory_of:
        parser.error(f"--steps {arguments.steps}: quartiles need at least 2")


def measure_cases(arguments: argparse.Namespace, model: str) -> list[dict[str, Any]]:
    """Time the arms of every case of a model, and print a table for each."""
    results: list[dict[str, Any]] = []
    names = arguments.arms
    for case in cases(model, arguments.policy):
        case = replace(case, cpu_time=arguments.cpu_time)
        names = [name for name in names if not (case.forced and name == "continuous")]  # it ignores min_new_tokens
        figures = measure(case, names, arguments.steps)
        if "trl" in figures:  # later cases use the fastest settings of the first
            names = [name for name in names if not name.startswith("trl") or name == figures["trl"]["settings"]]
        entry: dict[str, Any] = {"title": str(case), "case": asdict(case), "arms": figures}
        console.print(results_table(case, figures))
        if model == "qwen":
            entry["ceilings"] = measure_rates()
            entry["floor"] = least_seconds(case, *entry["ceilings"])
            for name, arm in figures.items():
                console.print(f"{name}: {arm['step'] / entry['floor']['step']:.2f} times the lower bound")
            console.print({part: f"{seconds * 1e3:.1f} ms" for part, seconds in entry["floor"].items()})
        results.append(entry)
    return results


def measure_memory(case: Case, arms: dict[str, Any]) -> dict[str, float]:
    """The peak memory in bytes of the arms of a case, each in a separate process."""
    memory: dict[str, float] = {}
    for name, arm in arms.items():
        if not (CUDA or name in ("trl", "fast")):
            continue
        for size in (1, 16, 64) if CUDA else (arm["micro_batch"],):
            key = f"{name}, micro-batch {size}"
            memory[key] = peak_memory(arm["settings"], replace(case, micro_batch_size=size))
            console.print(f"peak memory, {key}: {memory[key] / 1e9:.2f} GB")
    return memory


def run_cases(arguments: argparse.Namespace) -> None:
    """Measure, print, store and draw the cases of every model."""
    path = arguments.out / "benchmark.json"
    results: list[dict[str, Any]] = []
    report = {"machine": machine(), "command": sys.argv, "warm_up": WARM_UP, "cases": results}
    for model in arguments.model:
        results += measure_cases(arguments, model)
        write_json(path, report)
        if not arguments.no_memory:
            last = results[-1]
            last["peak_memory_bytes"] = measure_memory(Case(**last["case"]), last["arms"])
            write_json(path, report)
    draw(results, path.with_suffix(".png"))
    console.print(f"{path}, {path.stem}.png")


def run_grid(arguments: argparse.Namespace) -> None:
    """Measure, print, store and draw the grid of every model."""
    path = arguments.out / "grid.json"
    every = [case for model in arguments.model for case in GRIDS[model].cases()]
    every = [
        replace(case, policy=arguments.policy if case.model == "tiny" else "", cpu_time=arguments.cpu_time)
        for case in every
    ]
    entries = measure_grid(every, arguments.arms, arguments.steps, not arguments.no_memory, path)
    for model in arguments.model:
        for table in grid_tables(model, entries):
            console.print(table)
    draw_grid(entries, path.with_suffix(".png"))
    console.print(f"{path}, {path.stem}.png")


def main() -> None:
    guard_streams()
    arguments = parse_arguments()
    quiet_libraries()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if arguments.memory_of:
        name, case = arguments.memory_of
        return print_peak_memory(name, Case(**json.loads(case)), arguments.steps)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if "tiny" in arguments.model and not arguments.policy:
        arguments.policy = trained_policy(arguments.out / "policy")
    if arguments.grid:
        run_grid(arguments)
    else:
        run_cases(arguments)


if __name__ == "__main__":
    main()
