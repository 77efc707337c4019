"""Commands of ours as processes of their own, forked from one that has imported what takes seconds.

Reads a JSON line a run, writes its process id, and its exit code when it has ended (minus the signal that killed it).
"""

import importlib
import json
import os
import signal
import sys
import threading
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
    importlib.import_module(f"grpo.{job['module']}").main()


def main() -> None:
    import matplotlib.figure
    import wandb

    import grpo.evaluation.evaluation
    import grpo.sampling.build
    import grpo.training.trainer

    assert matplotlib and wandb and grpo.evaluation.evaluation
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
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        status = os.waitpid(pid, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
