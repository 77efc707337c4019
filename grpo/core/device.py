"""What this machine has: cores, memory, instructions of the CPU.

Loading, sampling, training and the sweep's launchers call it. It does not know the settings of a run.
"""

import gc
import os
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # the last is Arm's


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an exception, or the one it arose from, means."""
    from accelerate.utils.memory import should_reduce_batch_size

    chain = (error, error.__context__)  # a CUDA graph's capture fails of its own because memory ran out in it
    return any(isinstance(each, MemoryError) or (each is not None and should_reduce_batch_size(each)) for each in chain)


def free_memory() -> None:
    """Give back what nothing refers to but cycles, as a trainer and its policy are left."""
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


def usable_cores() -> int:
    """That this process may use."""
    return min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, container_cores()
    )


def container_cores() -> int:
    """The cores that a container lets this process use, which torch does not ask for; without a container, all."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return os.cpu_count() or 1


def cpu_lacks_bfloat16() -> bool:
    """Whether this CPU has no instructions for bfloat16; False if that cannot be found out, as on a Mac."""
    try:
        known = set(CPUINFO.read_text().split())
    except (OSError, UnicodeDecodeError):  # not Linux
        return False
    return not known & BFLOAT16_FLAGS


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
    torch.backends.cudnn.benchmark = False
