"""Whether a run fits into the memory of its devices, and the nearest settings that do.

Called by `grpo.plan`. It knows the settings that save memory; the formulas are in `grpo.planning.memory`.
"""

from copy import deepcopy
from itertools import product

from grpo.config.batch import BatchSplit, derive_batch, smaller_micro_batch
from grpo.config.schema import HardwareConfig, PlanConfig, RolloutConfig
from grpo.planning.architecture import Architecture
from grpo.planning.memory import memory_by_phase, peak_memory
from grpo.planning.planned_run import SHARDINGS, PlannedRun

Settings = dict[str, int | bool | str]  # full key -> value

GIB = 2**30
# Memory on a GPU that a run cannot use: GiB for the CUDA context and its libraries, and the share of the memory that is
# lost between the allocator's blocks.
CUDA_CONTEXT_GIB, FRAGMENTATION = 1.0, 0.05


def batch_of(config: PlanConfig) -> BatchSplit:
    """The division of a step of the plan into devices and micro-batches."""
    return derive_batch(config.num_generations, config.prompts_per_step, config.micro_batch_size, config.world_size)


def usable_memory(hardware: HardwareConfig, rollout: RolloutConfig) -> float:
    """Bytes of a device without the reserve and without vLLM's share."""
    reserve = CUDA_CONTEXT_GIB + FRAGMENTATION * hardware.memory if hardware.device == "cuda" else 0.0
    engine = 0.0 if rollout.sleep else (rollout.memory or 0.0) * hardware.memory
    return (hardware.memory - reserve - engine) * GIB


def nearest_fitting(
    config: PlanConfig, architecture: Architecture, usable: float, limit: int = 5
) -> list[tuple[list[str], float]]:
    """At most `limit` proposals with the fewest changes that make the run fit into `usable` bytes.

    Each is a list of overrides and the bytes that the run then needs; smaller changes come first.
    """
    fitting = []
    for changes in product(*_changes_by_kind(config)):
        settings: Settings = {key: value for change in changes for key, value in change.items()}
        changed = deepcopy(config)
        for key, value in settings.items():
            group, _, name = key.rpartition(".")
            setattr(getattr(changed, group) if group else changed, name, value)
        run = PlannedRun(changed, batch_of(changed), architecture, changed.sharding)
        needed = peak_memory(memory_by_phase(run))
        if needed <= usable:
            fitting.append(([not change for change in changes], settings, needed))
    fitting.sort(key=lambda candidate: candidate[0])  # stable: within a kind, the smallest change comes first
    most_unchanged = max((sum(unchanged) for unchanged, *_ in fitting), default=0)
    proposals: dict[tuple[str, ...], tuple[list[str], float]] = {}
    for unchanged, settings, needed in fitting:
        if sum(unchanged) == most_unchanged:
            overrides = [_override(key, value) for key, value in settings.items()]
            proposals.setdefault(tuple(settings), (overrides, needed))
    return list(proposals.values())[:limit]


def _changes_by_kind(config: PlanConfig) -> list[list[Settings]]:
    """For each kind of change that saves memory: no change, then the changes, the cheapest in time first."""
    sizes, smaller_batch = [], smaller_micro_batch(batch_of(config))
    while smaller_batch:
        sizes.append(smaller_batch.per_device)
        smaller_batch = smaller_micro_batch(smaller_batch)
    shardings = SHARDINGS[SHARDINGS.index(config.sharding) + 1 :] if config.world_size > 1 else ()
    # Weights that are not trained need not be in float32.
    adapters: Settings = {} if config.model.lora_rank else {"model.lora_rank": 16, "model.dtype": "bfloat16"}
    kinds: list[list[Settings]] = [
        [{"micro_batch_size": size} for size in sizes],
        [] if config.activation_checkpointing else [{"activation_checkpointing": True}],
        [{"sharding": sharding} for sharding in shardings],
        [{"optimizer.name": "adamw_8bit"}] if config.optimizer.name == "adamw_torch" else [],
        [*([adapters] if adapters else []), {"model.load_in_4bit": True} | adapters],
    ]
    return [[{}, *kind] for kind in kinds]


def _override(key: str, value: int | bool | str) -> str:
    return "optimizer=adamw_8bit" if key == "optimizer.name" else f"{key}={str(value).lower()}"
