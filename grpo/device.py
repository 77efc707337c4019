"""What a command may use of the machine."""

import os
from pathlib import Path

from grpo.config import Common
from grpo.errors import UserError


def use_threads(config: Common) -> None:
    import torch

    torch.set_num_threads(config.threads or min(torch.get_num_threads(), cpu_quota()))


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
