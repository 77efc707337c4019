"""The tables and sentences of a plan about memory and time.

Called by `grpo.plan`, which prints them. It neither prints nor computes memory or time.
"""

from copy import deepcopy
from math import ceil

from rich.table import Table
from rich.text import Text

from grpo.config.batch import optimizer_steps
from grpo.config.limits import GSM8K_PROBLEMS
from grpo.config.schema import HardwareConfig, PlanConfig
from grpo.core.tables import empty_table
from grpo.core.text import format_bytes
from grpo.planning.fit import CUDA_CONTEXT_GIB, FRAGMENTATION, GIB, usable_memory
from grpo.planning.memory import peak_memory, sum_of_parts
from grpo.planning.memory_parts import PARTS, Parts
from grpo.planning.planned_run import PlannedRun


def plan_facts(run: PlannedRun, config: PlanConfig, hardware: HardwareConfig, origin: str) -> dict[str, str]:
    """The policy, the batch, the limits and the hardware of a plan."""
    adapters = f", {run.trained_parameters / 1e6:,.1f} M of adapters are trained"
    trained = adapters if run.lora else ", all trained"
    count = f"{config.world_size} x " * (config.world_size > 1)
    sharding = f" each, sharding={config.sharding}" * (config.world_size > 1)
    return {
        "policy": f"{run.architecture.parameters / 1e6:,.0f} M parameters{trained}; sizes: {origin}",
        "batch": str(run.batch),
        "tokens": f"at most {config.max_prompt_length} per prompt, {config.max_completion_length} per completion",
        "hardware": f"{count}{hardware.name}, {hardware.memory:g} GiB{sharding}",
    }


def memory_table(phases: dict[str, Parts]) -> Table:
    """One column for each phase, one row for each part."""
    highest = peak_memory(phases)
    unit, size = ("GiB", GIB) if highest >= GIB else ("MiB", 2**20)
    table = empty_table(*phases)
    table.columns[0].header = f"{unit} on each device"
    for part in PARTS:
        if any(part in parts for parts in phases.values()):
            table.add_row(part, *(f"{parts[part] / size:.2f}" if part in parts else "" for parts in phases.values()))
    sums = (
        Text(f"{sum_of_parts(parts) / size:.2f}", style="bold" * (sum_of_parts(parts) == highest))
        for parts in phases.values()
    )
    table.add_row(Text("total", style="bold"), *sums)
    return table


def fit_facts(config: PlanConfig, hardware: HardwareConfig, phases: dict[str, Parts]) -> dict[str, str]:
    """The phase with the highest peak, and whether it fits."""
    name, parts = max(phases.items(), key=lambda phase: sum_of_parts(phase[1]))
    largest, needed = max(parts, key=lambda part: parts[part]), sum_of_parts(parts)
    usable = usable_memory(hardware, config.rollout)
    reserve = f"{hardware.memory:g} GiB"
    if hardware.device == "cuda":
        reserve += f" less {CUDA_CONTEXT_GIB:g} for CUDA and {FRAGMENTATION:.0%} for fragmentation"
        if config.rollout.memory and not config.rollout.sleep:
            reserve += f", and {config.rollout.memory:.0%} for vLLM"
    facts = {"peak": f"in {name}; {parts[largest] / needed:.0%} of it is {largest}"}
    if needed <= usable:
        return facts | {"it fits": f"{format_bytes(needed)} of {format_bytes(usable)} ({reserve})"}
    return facts | {"does not fit": f"{format_bytes(needed)} needed, {format_bytes(usable)} available ({reserve})"}


def proposals_text(fitting: list[tuple[list[str], float]]) -> str:
    """The settings that make a run fit, or advice if no settings do."""
    if not fitting:
        changes = "micro-batch, checkpointing, sharding, 8-bit AdamW, adapters"
        return f"No combination of these makes it fit: {changes}. Use a smaller policy or batch."
    lines = [f"  {' '.join(overrides)}  ({format_bytes(size)})" for overrides, size in fitting]
    return "\n".join(["\nNearest settings that fit:", *lines])


def time_table(parts: Parts) -> Table:
    """The least seconds of each part of a step, and their shares."""
    step = sum_of_parts(parts)
    table = empty_table("seconds", "share")
    table.columns[0].header = "least time per step"
    for name, seconds in parts.items():
        table.add_row(name, f"{seconds:.3f}", f"{seconds / step:.0%}")
    table.add_row(Text("total", style="bold"), Text(f"{step:.3f}", style="bold"), "")
    return table


def time_facts(config: PlanConfig, parts: Parts) -> dict[str, str]:
    """The largest part of a step, and the least time of an epoch and of the run."""
    step = sum_of_parts(parts)
    problems = GSM8K_PROBLEMS if config.data.name == "gsm8k" else None
    problems = min(filter(None, (problems, config.data.train_problems)), default=None)
    facts = {"largest part": max(parts, key=lambda name: parts[name])}
    if problems:
        epoch = deepcopy(config)
        epoch.max_steps, epoch.num_train_epochs = None, 1
        steps = optimizer_steps(epoch, problems)
        at_most = "at most " if config.data.filter or config.data.difficulty else ""  # a plan reads no data
        facts["an epoch"] = f"{at_most}{problems:,} problems, {steps:,} steps: {seconds_as_text(steps * step)}"
    if config.max_steps:
        facts["max_steps"] = f"{config.max_steps:,} steps: {seconds_as_text(config.max_steps * step)}"
    if rounds := config.algorithm.resample:
        steps = config.algorithm.steps_per_generation
        most = rounds * config.prompts_per_step * config.num_generations * steps
        sampling = (parts.get("decode", 0) + parts.get("prefill", 0)) * steps * config.algorithm.num_iterations
        facts["resampling"] = (
            f"at most {most:,} further completions per rollout, to sample and to score: "
            f"{seconds_as_text(rounds * sampling)} more of sampling; not part of the times above"
        )
    facts["note"] = (
        "this is a lower bound, not a forecast: it assumes every text is at its limit, and leaves out kernel launches, "
        "attention and waiting, so real steps of such texts take longer"
    )
    return facts


def reward_facts(run: PlannedRun, seconds: dict[str, float], faults: dict[str, str]) -> dict[str, str]:
    """The time of the rewards, which is not part of the lower bound.

    Args:
        seconds: reward -> seconds per completion on this machine; with `reward_seconds`, one entry for all rewards.
        faults: reward -> why it is not measured.
    """
    config = run.config
    completions = ceil(config.prompts_per_step * config.num_generations / run.world_size)
    each = sum(seconds.values())
    process = " on each process" * (run.world_size > 1)
    slowest = f"; the slowest is {max(seconds, key=lambda name: seconds[name])}" * (len(seconds) > 1)
    facts = {
        "rewards": f"{seconds_as_text(completions * each)} per step{process}: {completions:,} completions x "
        f"{seconds_as_text(each)}{slowest}"
    }
    for name, fault in faults.items():
        facts[f"reward {name}"] = f"not measured: {fault}. For a time of your own, reward_seconds=VALUE"
    return facts


def seconds_as_text(seconds: float) -> str:
    """A duration in hours, minutes, seconds, milliseconds or microseconds, with one decimal."""
    for size, unit in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1e6:.1f} µs"
