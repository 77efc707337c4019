"""The memory that a run needs on each device, part by part, at the peak of each phase.

Called by `grpo.plan` and by the checks that compare it with measurements. Tensors are counted one by one as the code
allocates them. docs/memory-planning.md explains the formulas and compares them with measurements. It imports no torch.
"""

from grpo.planning.memory_parts import GRADIENTS, OPTIMIZER, PARTS, Parts
from grpo.planning.planned_run import PlannedRun
from grpo.planning.resident_memory import resident_memory
from grpo.planning.sampling_memory import sampling_moments
from grpo.planning.training_memory import training_moments


def memory_by_phase(run: PlannedRun) -> dict[str, Parts]:
    """Bytes of each part at the peak of sampling, training and the update."""
    phases = {"sampling": sampling_moments(run), "training": training_moments(run), "update": [update_memory(run)]}
    peaks = {name: max(moments, key=sum_of_parts) for name, moments in phases.items()}
    return {name: {part: parts[part] for part in PARTS if parts.get(part)} for name, parts in peaks.items()}


def sum_of_parts(parts: Parts) -> float:
    """The sum of the parts, in bytes or in seconds."""
    return sum(parts.values())


def peak_memory(phases: dict[str, Parts]) -> float:
    """Bytes of the phase with the highest peak."""
    return max(map(sum_of_parts, phases.values()))


def update_memory(run: PlannedRun) -> Parts:
    """Bytes while the optimizer updates the weights."""
    resident, name, arch = resident_memory(run), run.config.optimizer.name, run.architecture
    adapter = run.config.model.lora_rank * max(map(max, arch.projections)) * run.adapter_bytes
    matrix = max(arch.head_parameters, arch.hidden_size * arch.intermediate_size) * run.weight_bytes
    largest = adapter if run.lora else matrix
    if name == "adamw_torch":  # a square root of each second moment; on CUDA of all of them together
        temporary = run.trained_bytes / run.shards if run.on_cuda else 2.0 * largest
    else:
        temporary = 2.0 * largest if name == "adafactor" else 0.0
    return resident | {GRADIENTS: run.trained_bytes / run.shards, OPTIMIZER: resident[OPTIMIZER] + temporary}
