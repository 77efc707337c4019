"""What a training run would need, and take at the least, before it is started.

python -m grpo.plan experiment=gsm8k
python -m grpo.plan experiment=gsm8k model=qwen2.5-3b world_size=4 hardware=rtx3090
"""

import sys
from collections.abc import Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path

import hydra
from hydra import compose as hydra_compose
from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from grpo.config.application import Command, hydra_job, is_multirun, job_overrides, run_command
from grpo.config.batch import BatchSplit, derive_batch, optimizer_steps, smaller_micro_batch
from grpo.config.composition import config_search_path, load_config
from grpo.config.groups import CONF
from grpo.config.limits import GSM8K_PROBLEMS
from grpo.config.messages import translate_errors
from grpo.config.schema import HardwareConfig, PlanConfig, RolloutConfig
from grpo.core.console import error_message, say
from grpo.core.errors import UserError
from grpo.core.tables import empty_table, key_value_table
from grpo.planning.costs import PARTS, SHARDINGS, Architecture, Costs, Parts, Rates, architecture
from grpo.runs.lock import removed_if_unused

Settings = dict[str, int | bool | str]  # by their full keys

GIB = 2**30
DEFAULT_HARDWARE = {"cuda": "rtx3090", "cpu": "cpu"}
# What CUDA and its libraries take for themselves, and what falls between the allocator's blocks.
CONTEXT, FRAGMENTS = 1.0, 0.05


def compose(overrides: Sequence[str] = ()) -> PlanConfig:
    """The plan that `python -m grpo.plan <overrides>` would compose.

    Raises:
        UserError: an override that names no setting, or a value that the schema refuses.
    """
    with config_search_path(), translate_errors(PlanConfig):
        return load_config(hydra_compose("plan", list(overrides)), PlanConfig)


def run(config: PlanConfig) -> None:
    """Say what the run needs.

    Raises:
        UserError: anything that the user can mend.
    """
    if config.resume is not None:
        raise UserError(
            f"resume={config.resume}: a plan is made from settings; type those of the run, without resume=."
        )
    hardware = hardware_of(config)
    batch = batch_of(config)
    of, origin = architecture(config.model)
    costs = Costs(config, batch, of, config.sharding)
    trained = f", {costs.trained / 1e6:,.1f} M of adapters are trained" if costs.lora else ", all trained"
    many = f"{config.world_size} x " * (config.world_size > 1)
    say(
        key_value_table(
            {
                "policy": f"{of.total / 1e6:,.0f} M parameters{trained}; sizes: {origin}",
                "batch": str(batch),
                "tokens": f"{config.max_prompt_length} a prompt, {config.max_completion_length} a completion, at most",
                "hardware": f"{many}{hardware.name}, {hardware.memory:g} GiB"
                + f" each, sharding={config.sharding}" * (config.world_size > 1),
            }
        )
    )
    phases = costs.memory()
    say(memory_table(phases))
    say_fit(config, hardware, of, phases)
    say_time(config, hardware, costs)


def hardware_of(config: PlanConfig) -> HardwareConfig:
    """
    Raises:
        UserError: it is not the device that the run is composed for.
    """
    if config.hardware is None:
        suiting = compose([f"hardware={DEFAULT_HARDWARE[config.device]}"]).hardware
        assert suiting
        return suiting
    if config.hardware.device != config.device:
        raise UserError(
            f"device={config.device}: {config.hardware.name} is another one; add device={config.hardware.device}, or "
            f"take hardware={DEFAULT_HARDWARE[config.device]}."
        )
    return config.hardware


def batch_of(config: PlanConfig) -> BatchSplit:
    return derive_batch(config.num_generations, config.prompts_per_step, config.micro_batch_size, config.world_size)


def usable(hardware: HardwareConfig, rollout: RolloutConfig) -> float:
    """Bytes, less the reserve and what vLLM keeps for itself."""
    reserve = CONTEXT + FRAGMENTS * hardware.memory if hardware.device == "cuda" else 0.0
    engine = 0.0 if rollout.sleep else (rollout.memory or 0.0) * hardware.memory
    return (hardware.memory - reserve - engine) * GIB


def total(parts: Parts) -> float:
    return sum(parts.values())


def peak(phases: dict[str, Parts]) -> float:
    return max(map(total, phases.values()))


def amount(size: float) -> str:
    """Bytes as a person reads them."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def memory_table(phases: dict[str, Parts]) -> Table:
    """A column a phase, at its highest moment."""
    unit, size = ("GiB", GIB) if peak(phases) >= GIB else ("MiB", 2**20)
    table = empty_table(*phases)
    table.columns[0].header = f"{unit} on each device"
    for part in PARTS:
        if any(part in parts for parts in phases.values()):
            table.add_row(part, *(f"{parts[part] / size:.2f}" if part in parts else "" for parts in phases.values()))
    highest = peak(phases)
    sums = (Text(f"{total(parts) / size:.2f}", style="bold" * (total(parts) == highest)) for parts in phases.values())
    table.add_row(Text("in all", style="bold"), *sums)
    return table


def say_fit(config: PlanConfig, hardware: HardwareConfig, of: Architecture, phases: dict[str, Parts]) -> None:
    name, parts = max(phases.items(), key=lambda phase: total(phase[1]))
    largest, needed, room = max(parts, key=lambda part: parts[part]), total(parts), usable(hardware, config.rollout)
    reserve = f"{hardware.memory:g} GiB"
    if hardware.device == "cuda":
        reserve += f" less {CONTEXT:g} for CUDA and {FRAGMENTS:.0%} between blocks"
        if config.rollout.memory and not config.rollout.sleep:
            reserve += f", and {config.rollout.memory:.0%} for vLLM"
    said = {"peak": f"in {name}; {parts[largest] / needed:.0%} of it are {largest}"}
    if needed <= room:
        said["it fits"] = f"{amount(needed)} of {amount(room)} ({reserve})"
        return say(key_value_table(said))
    said["too much"] = f"{amount(needed)}, and there are {amount(room)} ({reserve})"
    say(key_value_table(said))
    if fitting := nearest(config, of, room):
        say("\nNearest settings that fit:")
        for overrides, size in fitting:
            say(f"  {' '.join(overrides)}  ({amount(size)})")
    else:
        ways = "micro-batch, checkpointing, sharding, 8-bit AdamW, adapters"
        say(f"Nothing of these makes it fit: {ways}. Take a smaller policy or batch.")


def nearest(config: PlanConfig, of: Architecture, room: float, most: int = 5) -> list[tuple[list[str], float]]:
    """The fewest changes that make the run fit, each with the bytes it then takes; those that change least first."""
    fitting = []
    for changes in product(*_choices(config)):
        settings: Settings = {key: value for change in changes for key, value in change.items()}
        changed = deepcopy(config)
        for key, value in settings.items():
            group, _, name = key.rpartition(".")
            setattr(getattr(changed, group) if group else changed, name, value)
        needed = peak(Costs(changed, batch_of(changed), of, changed.sharding).memory())
        if needed <= room:
            fitting.append(([not change for change in changes], settings, needed))
    fitting.sort(key=lambda each: each[0])  # stable: of each kind, what changes least comes first
    most_unchanged = max((sum(unchanged) for unchanged, *_ in fitting), default=0)
    kept: dict[tuple[str, ...], tuple[list[str], float]] = {}
    for unchanged, settings, needed in fitting:
        if sum(unchanged) == most_unchanged:
            kept.setdefault(tuple(settings), (list(map(_override, settings, settings.values())), needed))
    return list(kept.values())[:most]


def _choices(config: PlanConfig) -> list[list[Settings]]:
    """Ways to need less, of each kind none or one; what costs least first."""
    sizes, smaller_batch = [], smaller_micro_batch(batch_of(config))
    while smaller_batch:
        sizes.append(smaller_batch.per_device)
        smaller_batch = smaller_micro_batch(smaller_batch)
    sharding = SHARDINGS[SHARDINGS.index(config.sharding) + 1 :] if config.world_size > 1 else ()
    # What is not trained need not be in float32.
    adapters: Settings = {} if config.model.lora_rank else {"model.lora_rank": 16, "model.dtype": "bfloat16"}
    ways: list[list[Settings]] = [
        [{"micro_batch_size": size} for size in sizes],
        [] if config.activation_checkpointing else [{"activation_checkpointing": True}],
        [{"sharding": way} for way in sharding],
        [{"optimizer.name": "adamw_8bit"}] if config.optimizer.name == "adamw_torch" else [],
        [*([adapters] if adapters else []), {"model.load_in_4bit": True} | adapters],
    ]
    return [[{}, *kind] for kind in ways]


def _override(key: str, value: int | bool | str) -> str:
    return "optimizer=adamw_8bit" if key == "optimizer.name" else f"{key}={str(value).lower()}"


def say_time(config: PlanConfig, hardware: HardwareConfig, costs: Costs) -> None:
    rates = Rates(hardware.flops_bf16, hardware.flops_fp32, hardware.bandwidth, hardware.link)
    parts = {name: seconds for name, seconds in costs.seconds(rates).items() if seconds}
    step = total(parts)
    table = empty_table("seconds", "share")
    table.columns[0].header = "a step, at the least"
    for name, seconds in parts.items():
        table.add_row(name, f"{seconds:.3f}", f"{seconds / step:.0%}")
    table.add_row(Text("in all", style="bold"), Text(f"{step:.3f}", style="bold"), "")
    say(table)
    problems = GSM8K_PROBLEMS if config.data.name == "gsm8k" else None
    problems = min(filter(None, (problems, config.data.train_problems)), default=None)
    said = {"most of it": max(parts, key=lambda name: parts[name])}
    if problems:
        epoch = deepcopy(config)
        epoch.max_steps, epoch.num_train_epochs = None, 1
        steps = optimizer_steps(epoch, problems)
        said["an epoch"] = f"{problems:,} problems, {steps:,} steps: {span(steps * step)}"
    if config.max_steps:
        said["max_steps"] = f"{config.max_steps:,} steps: {span(config.max_steps * step)}"
    said["but"] = (
        "a floor is not a forecast: it takes every text to be at its limit, and leaves out launches, attention and "
        "waiting, so real steps of such texts take longer"
    )
    say(key_value_table(said))


def span(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="plan")
def app(composed: DictConfig) -> None:
    with hydra_job():
        if is_multirun():
            say(f"\n{' '.join(job_overrides())}")
        run(load_config(composed, PlanConfig))


def main() -> None:
    changed = [each for each in sys.argv[1:] if each.startswith("hardware.")]
    if changed and not any(each.startswith("hardware=") for each in sys.argv):
        sys.exit(error_message(f"error: {changed[0]}: of which hardware? Add one, hardware=rtx3090."))
    try:
        with removed_if_unused(Path("outputs/plans"), "multirun.yaml"):
            run_command(app, PlanConfig, "Interrupted.")
    except OSError as error:  # what Hydra itself writes for a multirun
        if Command.current.started:
            raise
        sys.exit(error_message(f"error: {error.filename or 'outputs/plans'}: {error.strerror or error}."))


if __name__ == "__main__":
    main()
