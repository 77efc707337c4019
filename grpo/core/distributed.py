"""The processes of one run, as `accelerate launch` or `torchrun` starts them.

Rank 0 leads: it reads the command line, owns the run's folder, prints, tracks and writes. The others follow: they wait
until it announces the folder, and do the same run with the settings that lie there.
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

T = TypeVar("T")
STORE_KEY = "grpo/run"
ACCELERATE_CONFIGS = Path(__file__).parents[2] / "scripts" / "accelerate"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def local_world_size() -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_main_process() -> bool:
    return rank() == 0


def sharding_engine() -> str | None:
    """What the launcher asks for beyond DistributedDataParallel: fsdp or deepspeed."""
    for name in ("fsdp", "deepspeed"):
        if os.environ.get(f"ACCELERATE_USE_{name.upper()}", "false").lower() == "true":
            return name
    return None


def strategy() -> str:
    """How the processes share the policy: ddp, fsdp2, zero2 or zero3, as scripts/accelerate/ has them."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    return {None: "ddp", "fsdp": "fsdp2", "deepspeed": f"zero{stage}"}[sharding_engine()]


def weights_are_sharded() -> bool:
    """Whether training spreads the weights themselves over the processes."""
    return strategy() in ("fsdp2", "zero3")


@cache  # without a launcher's own store, rank 0's lives in its process, and as long as this object does
def _store() -> Any:
    from torch.distributed import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return store


_broadcast_done = False


def init_process() -> None:
    """As one of several processes, end with the launcher, whatever ends that.

    Raises:
        UserError: an environment variable of the launcher is missing, not a number, or out of range.
    """
    for name, least in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_WORLD_SIZE", 1), ("LOCAL_RANK", -1)):
        value = os.environ.get(name, str(least))
        if not re.fullmatch(r"-?[0-9]+", value) or int(value) < least:
            raise UserError(
                f"{name}={value}: must be a whole number, at least {least}, as a launcher sets it; without one, unset "
                f"{name}."
            )
    if rank() >= world_size():
        raise UserError(
            f"RANK={rank()}: WORLD_SIZE={world_size()} is the number of processes, and their ranks count from 0. For "
            "one process, unset RANK; several are started by a launcher, accelerate launch or torchrun."
        )
    if world_size() == 1:
        return
    needed = {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    if missing := sorted(needed - os.environ.keys()):
        raise UserError(
            f"WORLD_SIZE={world_size()}: {', '.join(missing)} missing beside it. Several processes are started by a "
            f"launcher: {launch_command()}; for one, unset WORLD_SIZE."
        )
    _launcher_arguments()  # which may have ended when it is asked for
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def broadcast_run_dir(out: Path | None, checkpoint: Path | None = None, settings: dict[str, Any] | None = None) -> None:
    """Tell the others where the run is, from which checkpoint it resumes, and its settings; None: nothing to do.

    Whatever is said after the first time is not heard.
    """
    global _broadcast_done
    if world_size() > 1 and not _broadcast_done:
        _broadcast_done = True
        places = [out and str(out.absolute()), checkpoint and str(checkpoint.absolute())]
        _store().set(STORE_KEY, json.dumps([*places, settings or {}]))


def receive_run_dir() -> tuple[Path | None, Path | None, dict[str, Any]]:
    """What rank 0 announces, once it does.

    Raises:
        UserError: its folder is not to be seen from here.
    """
    *places, settings = json.loads(_store().get(STORE_KEY))
    out, checkpoint = (each and Path(each) for each in places)
    if out and not out.is_dir():
        raise UserError(
            f"{out}: rank 0 writes there, and on this machine there is no such folder. The machines of a run share "
            "a file system; give a folder on it, hydra.run.dir=FOLDER."
        )
    return out, checkpoint, settings


def init_process_group(device: str) -> None:
    """Connect the processes, and give each its own device."""
    if world_size() > 1:
        from accelerate.state import PartialState

        PartialState(cpu=device == "cpu")


def gather_objects(mine: T) -> list[T]:
    """What each of the processes has, in the order of their ranks."""
    if world_size() == 1:
        return [mine]
    from torch.distributed import all_gather_object

    every: list[Any] = [None] * world_size()
    all_gather_object(every, mine)
    return every


def max_over_processes(value: float) -> float:
    """Among the processes; a number is quicker than `gather_objects`."""
    if world_size() == 1:
        return value
    import torch

    device = "cuda" if "nccl" in torch.distributed.get_backend() else "cpu"
    reduced = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(reduced, torch.distributed.ReduceOp.MAX)
    return reduced.item()


@contextmanager
def exit_without_teardown() -> Iterator[None]:
    """Around all that one of several processes does: it ends here, not by way of the interpreter's own end.

    There a model in DistributedDataParallel is freed, which holds the GIL while it waits for gloo's thread, and that
    may be waiting for the GIL.
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
    """Whether an exception means that another process has ended."""
    from torch.distributed import DistError

    peer = "closed by peer" in str(error) or "reset by peer" in str(error) or "Broken pipe" in str(error)
    return world_size() > 1 and (isinstance(error, DistError) or (isinstance(error, RuntimeError) and peer))


def launch_command(processes: int | None = None, way: str | None = None) -> str:
    """What is typed before the settings to start a run of as many processes, sharing the policy in that way.

    None: as this one was started.
    """
    words = _launcher_arguments() if processes is None and world_size() > 1 else ()
    if "launch" in words:
        options = words[words.index("launch") + 1 : words.index("grpo.train") + 1]
        return shlex.join(["accelerate", "launch", *options])
    processes = processes or world_size()
    if processes == 1:
        return "python -m grpo.train"
    file = ACCELERATE_CONFIGS / f"{way or strategy()}.yaml"
    settings = f"--config_file {shlex.quote(str(file))} " if file.is_file() else "--multi_gpu "
    return f"accelerate launch {settings}--num_processes {processes} -m grpo.train"


@cache
def _launcher_arguments() -> tuple[str, ...]:
    """The command line of the process that started this one, where it can be read and names this program."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8").split("\0")
    except (OSError, ValueError):
        return ()
    return tuple(words) if "grpo.train" in words else ()
