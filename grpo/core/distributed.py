"""The processes of one run, started by `accelerate launch` or `torchrun`: ranks, messages between them, their exit.

The main process (rank 0) reads the command line, owns the run directory, prints, and writes files. The other processes
(workers) wait until the main process broadcasts the run directory and the settings, then execute the same run. Commands
and every package above `core` call this module. It does not know the settings or what a run computes.
"""

import ctypes
import json
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from grpo.core.errors import UserError

Gathered = TypeVar("Gathered")
STORE_KEY = "grpo/run"
ACCELERATE_CONFIGS = Path(__file__).parents[2] / "scripts" / "accelerate"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def world_size() -> int:
    """The number of processes of the run, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among all processes of the run, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_world_size() -> int:
    """The number of processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_main_process() -> bool:
    """Whether this process is rank 0, which prints and writes."""
    return rank() == 0


def sharding_engine() -> str | None:
    """`fsdp` or `deepspeed` if the launcher enables one of them; None for DistributedDataParallel or one process."""
    for name in ("fsdp", "deepspeed"):
        if os.environ.get(f"ACCELERATE_USE_{name.upper()}", "false").lower() == "true":
            return name
    return None


def strategy() -> str:
    """How the policy is distributed: ddp, fsdp2, zero2 or zero3, the names of the files in scripts/accelerate/."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    return {None: "ddp", "fsdp": "fsdp2", "deepspeed": f"zero{stage}"}[sharding_engine()]


def weights_are_sharded() -> bool:
    """Whether each process holds only a part of the weights during training (FSDP2, ZeRO-3)."""
    return strategy() in ("fsdp2", "zero3")


# Cached, because without a store of the launcher the store lives in the process of rank 0, as long as this object does.
@cache
def _store() -> Any:
    from torch.distributed import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return store


_broadcast_done = False


def init_process() -> None:
    """Check the variables that the launcher sets, and make this process end when the launcher ends.

    Raises:
        UserError: an environment variable of the launcher is missing, not a number, or out of range.
    """
    for name, minimum in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_WORLD_SIZE", 1), ("LOCAL_RANK", -1)):
        value = os.environ.get(name, str(minimum))
        if not re.fullmatch(r"-?[0-9]+", value) or int(value) < minimum:
            raise UserError(
                f"{name}={value}: must be a whole number, at least {minimum}. A launcher sets it; if you use none, "
                f"unset {name}."
            )
    if rank() >= world_size():
        raise UserError(
            f"RANK={rank()}: must be less than WORLD_SIZE={world_size()}, the number of processes; ranks count from 0. "
            "For one process, unset RANK; for several, use a launcher: accelerate launch or torchrun."
        )
    if world_size() == 1:
        return
    needed = {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    if missing := sorted(needed - os.environ.keys()):
        raise UserError(
            f"WORLD_SIZE={world_size()}: {', '.join(missing)} must be set, too. For several processes, use a launcher: "
            f"{launch_command()}; for one, unset WORLD_SIZE."
        )
    _launcher_arguments()  # cached here, because the launcher may have ended when a message needs its arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def broadcast_run_dir(out: Path, checkpoint: Path | None, settings: dict[str, Any]) -> None:
    """Send the waiting workers the run directory, the checkpoint to resume from, and the settings."""
    _broadcast([str(out.absolute()), checkpoint and str(checkpoint.absolute()), settings])


def release_workers() -> None:
    """Tell the workers, if they wait for a run directory, that there is no run; they exit."""
    _broadcast([None, None, {}])


def _broadcast(message: list[Any]) -> None:
    """Send the workers a message, unless they have received one."""
    global _broadcast_done
    if world_size() > 1 and not _broadcast_done:
        _broadcast_done = True
        _store().set(STORE_KEY, json.dumps(message))


def receive_run_dir() -> tuple[Path | None, Path | None, dict[str, Any]]:
    """Wait for the main process, then return the run directory, the checkpoint and the settings that it sends.

    No run directory: there is no run, because the main process has called `release_workers`.

    Raises:
        UserError: the run directory does not exist on this machine.
    """
    *paths, settings = json.loads(_store().get(STORE_KEY))
    out, checkpoint = (path and Path(path) for path in paths)
    if out and not out.is_dir():
        raise UserError(
            f"{out}: this run directory of rank 0 does not exist on this machine. All machines of a run must share a "
            "file system; choose a folder on it: hydra.run.dir=FOLDER."
        )
    return out, checkpoint, settings


def init_process_group(device: str) -> None:
    """Connect the processes, and assign each its own device. With one process, do nothing."""
    if world_size() > 1:
        from accelerate.state import PartialState

        PartialState(cpu=device == "cpu")


def gather_objects(value: Gathered) -> list[Gathered]:
    """The object of every process, in the order of ranks. All processes must call it together."""
    if world_size() == 1:
        return [value]
    from torch.distributed import all_gather_object

    values: list[Any] = [None] * world_size()
    all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every process has called it."""
    gather_objects(None)


def max_over_processes(value: float) -> float:
    """The maximum of a number over all processes; faster than `gather_objects`. All processes must call it together."""
    if world_size() == 1:
        return value
    import torch

    device = "cuda" if "nccl" in torch.distributed.get_backend() else "cpu"
    reduced = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(reduced, torch.distributed.ReduceOp.MAX)
    return reduced.item()


@contextmanager
def exit_without_teardown() -> Iterator[None]:
    """End the process at the end of this context with `os._exit`, if the run has several processes.

    The interpreter's own shutdown can deadlock: freeing a model in DistributedDataParallel holds the GIL while it waits
    for a thread of gloo, and that thread may wait for the GIL.
    """
    if world_size() == 1:
        yield
        return
    code = 1
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_peer_failure(error: BaseException) -> bool:
    """Whether an exception means that another process of the run has ended."""
    from torch.distributed import DistError

    peer = "closed by peer" in str(error) or "reset by peer" in str(error) or "Broken pipe" in str(error)
    return world_size() > 1 and (isinstance(error, DistError) or (isinstance(error, RuntimeError) and peer))


def launch_command(processes: int | None = None, strategy_name: str | None = None) -> str:
    """The command, without settings, that starts a run with `processes` processes and a strategy (see `strategy`).

    None: the number or strategy of this run.
    """
    words = _launcher_arguments() if processes is None and world_size() > 1 else ()
    if "launch" in words:
        options = words[words.index("launch") + 1 : words.index("grpo.train") + 1]
        return shlex.join(["accelerate", "launch", *options])
    processes = processes or world_size()
    if processes == 1:
        return "python -m grpo.train"
    file = ACCELERATE_CONFIGS / f"{strategy_name or strategy()}.yaml"
    settings = f"--config_file {shlex.quote(str(file))} " if file.is_file() else "--multi_gpu "
    return f"accelerate launch {settings}--num_processes {processes} -m grpo.train"


@cache
def _launcher_arguments() -> tuple[str, ...]:
    """The command line of the parent process, if it can be read and contains `grpo.train`; else nothing."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8").split("\0")
    except (OSError, ValueError):
        return ()
    return tuple(words) if "grpo.train" in words else ()
