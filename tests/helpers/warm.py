"""Commands of ours as processes of their own, forked from one that has imported what takes seconds.

Reads a JSON line a run, writes its process id, and its exit code when it has ended (minus the signal that killed it). With
the argument `light` it imports no torch, so that a command shows by its modules whether it needs torch.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any


def killed_after(delay: float) -> None:
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def kill_in(point: str, call: int, delay: float) -> None:
    """Have this process killed `delay` seconds into the call number `call` of what `point` names."""
    from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
    from grpo.training.metrics_file import MetricsFile
    from grpo.training.trainer import Trainer

    if point == "anywhere":
        return killed_after(delay)
    owner, name = {
        "generation": (PrefixSharingSampler, "complete"),
        "backward": (Trainer, "_compute_loss"),  # the backward pass follows at once
        "checkpoint": (Trainer, "_save_checkpoint"),
        "logging": (MetricsFile, "append"),
    }[point]
    function, calls = getattr(owner, name), 0

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            if point == "logging":
                with self.path.open("a") as file:  # half a line, as it may lie on the disk
                    file.write(json.dumps(args[0])[: 1 + int(delay * 1000)])
                os.kill(os.getpid(), signal.SIGKILL)
            killed_after(delay)
        return function(self, *args, **kwargs)

    setattr(owner, name, counted)


def child(job: dict[str, Any]) -> None:
    os.setsid()  # a signal to its group reaches what it starts, and not us
    os.chdir(job["cwd"])
    os.environ.update(job["environment"])
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [f"grpo/{job['module']}.py", *job["arguments"]]
    if job["kill"]:
        kill_in(*job["kill"])
    module = importlib.import_module(job["module"] if "." in job["module"] else f"grpo.{job['module']}")
    if job["processes"] == 1 or is_rank(job["processes"]):
        module.main()


def is_rank(count: int) -> bool:
    """Fork `count` ranks, as a launcher starts them: true in each of them.

    In this process it waits for them, and exits as the first one that fails does; the others get SIGTERM then.
    """
    from torch.distributed import TCPStore

    signal.alarm(180)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    running = set()
    for rank in map(str, range(count)):
        pid = os.fork()
        if not pid:
            os.environ.update(shared, RANK=rank, LOCAL_RANK=rank)
            return True
        running.add(pid)
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    failed = 0
    while running:
        pid, status = os.wait()
        running.remove(pid)
        code = os.waitstatus_to_exitcode(status)
        if code and not failed:
            failed = code
            for other in running:
                os.kill(other, signal.SIGTERM)
    del store
    if failed:
        sys.exit(failed)
    return False


HEAVY = ("matplotlib.figure", "wandb", "grpo.evaluation.evaluation", "grpo.sampling.build", "grpo.training.trainer")
LIGHT = ("wandb", "grpo.train", "grpo.evaluate", "grpo.audit", "grpo.calculator", "grpo.plan", "grpo.sweeps.runner")
# A command imports these itself if it needs them, with the environment of its job.
ABSENT = {"torch", "transformers", "datasets", "huggingface_hub", "pandas", "scipy"}


def main() -> None:
    light = "light" in sys.argv
    for name in LIGHT if light else HEAVY:
        importlib.import_module(name)
    assert not light or not ABSENT & sys.modules.keys()
    # Each command runs the garbage collector, which then leaves out what exists already.
    gc.collect()
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            code = 0
            try:
                child(job)
            except SystemExit as ended:
                if isinstance(ended.code, str):
                    print(ended.code, file=sys.stderr)
                code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
            except BaseException:
                traceback.print_exc()
                code = 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                Path(job["modules"]).write_text("\n".join(sys.modules))
                os._exit(code)
        print(pid, flush=True)
        status = os.waitpid(pid, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
