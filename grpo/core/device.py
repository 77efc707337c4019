"""Cores, memory and CPU instructions of this machine, and the settings of torch that depend on them.

Loading, evaluation, training and the launchers of sweeps call it. It does not know the config of a run.
"""

import gc
import os
import platform
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # bf16 is the name on Arm


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or the exception during whose handling it arose, means that memory ran out."""
    from accelerate.utils.memory import should_reduce_batch_size

    # If memory runs out during the capture of a CUDA graph, the end of the capture raises another error.
    errors = [item for item in (error, error.__context__) if item is not None]
    return any(isinstance(item, MemoryError) or should_reduce_batch_size(item) for item in errors)


def free_memory() -> None:
    """Free the memory of objects that only reference cycles keep alive, such as a trainer with its policy."""
    gc.unfreeze()  # `importing` also froze objects of the run, such as its session
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


def peak_process_memory(device: str) -> dict[str, int]:
    """The most memory so far, in bytes: `resident` of this process, and `device`, what torch reserved on its GPU."""
    import resource

    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    memory = {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    return memory | ({"device": torch.cuda.max_memory_reserved()} if device == "cuda" else {})


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, container_cores()
    )


def container_cores() -> int:
    """The number of cores that the container grants, which torch does not read; all cores if there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return os.cpu_count() or 1


def cpu_name() -> str:
    """The model of this CPU as the system names it, or "unknown"."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        return platform.processor() or "unknown"


def cpu_lacks_bfloat16() -> bool:
    """Whether this CPU has no instructions for bfloat16; False if the system does not tell."""
    try:
        words = set(CPUINFO.read_text().split())
    except (OSError, UnicodeDecodeError):  # not Linux
        return False
    return not words & BFLOAT16_FLAGS


def set_threads(threads: int | None) -> None:
    """Set the number of threads of torch; None: its own default, at most the cores that a container grants."""
    import torch

    torch.set_num_threads(threads or min(torch.get_num_threads(), container_cores()))


def set_determinism(device: str, deterministic: bool) -> None:
    """Make torch choose deterministic kernels where it has them, and warn where it has none.

    On a CPU always: it adds up some gradients in the order in which threads finish, and determinism costs little there.
    """
    import torch

    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(deterministic or device == "cpu", warn_only=True)
    # With deterministic kernels torch would also fill the memory of every new tensor, which takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
