"""What a command may use of the machine."""

import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from grpo.config.batch import Batch, optimizer_steps
from grpo.config.limits import GSM8K_TRAIN
from grpo.config.schema import Common, Config
from grpo.core import distributed
from grpo.core.console import duration
from grpo.core.errors import UserError

# What a few CPU cores reach, for saying what a GPU's run would cost on them.
CPU_FLOP_PER_SECOND = 1e11
CPUINFO = Path("/proc/cpuinfo")
NATIVE_BFLOAT16 = {"amx_bf16", "avx512_bf16", "bf16"}  # the last is Arm's


def use_determinism(config: Common) -> None:
    """Have torch take deterministic kernels where it has them; what has none, it warns of.

    On a CPU always: it sums some gradients in whichever order threads come to it, and the loss in speed is small.
    """
    import torch

    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(config.deterministic or config.device == "cpu", warn_only=True)
    torch.backends.cudnn.benchmark = False


def slow_bfloat16(config: Common) -> str | None:
    """A warning if the CPU computes in bfloat16 without instructions for it, several times slower than in float32.

    The setting stays as it is: the numbers of a run must not depend on the CPU.
    """
    try:
        known = set(CPUINFO.read_text().split())
    except (OSError, UnicodeDecodeError):  # not Linux
        return None
    if config.device != "cpu" or not config.bf16 or known & NATIVE_BFLOAT16:
        return None
    return (
        "Warning: bf16=true, and this CPU has no instructions for bfloat16 (AMX or avx512_bf16): it is several times "
        "slower than bf16=false, which computes in float32."
    )


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


def check_packages(config: Common) -> None:
    """
    Raises:
        UserError: a setting needs a package that is not installed.
    """
    needed = []
    if config.model.load_in_4bit:
        needed.append(("model.load_in_4bit=true", "bitsandbytes", "qlora"))
    if config.model.lora_rank:
        needed.append((f"model.lora_rank={config.model.lora_rank}", "peft", "lora"))
    if isinstance(config, Config) and config.optimizer.name == "adamw_8bit":
        needed.append(("optimizer.name=adamw_8bit", "bitsandbytes", "qlora"))
    for setting, package, extra in needed:
        if find_spec(package) is None:
            raise UserError(f"{setting}: needs the {package} package: pip install {package}, or 'grpo[{extra}]'.")


def require(config: Common) -> None:
    """
    Raises:
        UserError: CUDA is asked for and absent, or a package that a setting needs.
    """
    check_packages(config)
    if config.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            plain = " bf16=false" if config.bf16 else ""
            raise UserError(f"device=cuda: no CUDA device is found. To go on without one: device=cpu{plain}")


def check_device(config: Config, batch: Batch) -> None:
    """Nothing is chosen by hardware: a GPU that is missing stops the run, and so does one too many.

    Raises:
        UserError: CUDA is asked for and absent, or a package that a setting needs, or there are not as many devices as
            processes.
    """
    check_packages(config)
    if engine := distributed.sharding_engine():
        if config.device == "cpu":
            raise UserError(f"device=cpu: {engine} is for GPUs. Processes on a CPU take scripts/accelerate/ddp.yaml.")
        if engine == "deepspeed" and find_spec("deepspeed") is None:
            raise UserError('DeepSpeed is not installed: pip install "grpo[deepspeed]"')
        if engine == "deepspeed" and config.on_nonfinite == "skip":
            raise UserError("on_nonfinite=skip: DeepSpeed steps before its gradient can be looked at; take stop.")
        if distributed.weights_are_sharded() and config.model.load_in_4bit:
            raise UserError(
                "model.load_in_4bit=true: weights of 4 bits are not spread; take scripts/accelerate/ddp.yaml."
            )
        if distributed.weights_are_sharded() and config.rollout.name in ("generate", "continuous_batching"):
            raise UserError(
                f"rollout={config.rollout.name}: where the weights are spread over the processes, sampling is from a "
                "whole copy of them; take rollout=fast."
            )
    if config.device == "cpu":
        return
    import torch

    count, processes = torch.cuda.device_count(), distributed.local_world_size()
    if count > 1 and batch.world_size == 1:
        raise UserError(
            f"device=cuda: {count} devices are visible, and one process takes one: set CUDA_VISIBLE_DEVICES=0, or "
            f"start a process for each: accelerate launch --config_file scripts/accelerate/ddp.yaml --num_processes "
            f"{count} -m grpo.train"
        )
    if 0 < count < processes:
        raise UserError(f"device=cuda: {processes} processes on this machine, and {count} CUDA devices; start {count}.")
    if count:
        return
    message = "device=cuda: no CUDA device is found."
    if config.model.parameters is not None:
        # A forward pass to generate, a forward and a backward pass to train: 2 + 2 + 4 FLOP a parameter and token.
        tokens = batch.completions * ((config.max_prompt_length or 0) + config.max_completion_length)
        steps = None
        seconds = 8 * config.model.parameters * tokens / CPU_FLOP_PER_SECOND
        size = f"{config.model.parameters / 1e6:,.0f} M parameters (model.parameters)"
        speed = f"{CPU_FLOP_PER_SECOND / 1e12} TFLOP/s"
        message += f" On a CPU, at {speed}, a step with {size} would take about {duration(seconds)}"
        if config.max_steps is not None or config.data.name == "gsm8k":
            steps = optimizer_steps(config, min(GSM8K_TRAIN, config.data.train_problems or GSM8K_TRAIN))
        message += f", all {steps:,} steps about {duration(steps * seconds)}." if steps else "."
    plain = " bf16=false" * config.bf16
    raise UserError(
        f"{message} To train on the CPU anyway: device=cpu{plain}. The embedded default needs no GPU: python -m "
        "grpo.train"
    )
