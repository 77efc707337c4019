"""What a command may use of the machine."""

import gc
import os
import sys
from pathlib import Path

from grpo.config import Common
from grpo.errors import UserError


def use_determinism(config: Common) -> None:
    """Have torch take deterministic kernels where it has them; what has none, it warns of.

    On a CPU always: it sums some gradients in whichever order threads come to it, and the loss in speed is small.
    """
    import torch

    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(config.deterministic or config.device == "cpu", warn_only=True)
    torch.backends.cudnn.benchmark = False


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what an exception, or the one it arose from, means."""
    from accelerate.utils.memory import should_reduce_batch_size

    chain = (error, error.__context__)  # a CUDA graph's capture fails of its own because memory ran out in it
    return any(isinstance(each, MemoryError) or (each is not None and should_reduce_batch_size(each)) for each in chain)


def free_memory() -> None:
    """Give back what nothing refers to but cycles, as a trainer and its policy are left."""
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


def use_threads(config: Common) -> None:
    import torch

    torch.set_num_threads(config.threads or min(torch.get_num_threads(), cpu_quota()))


def cores() -> int:
    """That this process may use."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, cpu_quota())


def cpu_quota() -> int:
    """The cores that a container lets this process use, which torch does not ask for; without a container, all."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return os.cpu_count() or 1


def require(config: Common) -> None:
    """
    Raises:
        UserError: CUDA is asked for and absent.
    """
    if config.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            plain = " bf16=false" if config.bf16 else ""
            raise UserError(f"device=cuda: no CUDA device is found. To go on without one: device=cpu{plain}")
