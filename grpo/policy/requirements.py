"""Whether this machine has what the settings need: packages, CUDA devices, one process for each device.

Commands call it before they load a policy. It does not know what the devices are used for.
"""

from importlib.util import find_spec

from grpo.config.batch import BatchSplit, optimizer_steps
from grpo.config.limits import GSM8K_PROBLEMS
from grpo.config.schema import CommonConfig, Config
from grpo.core import distributed
from grpo.core.device import cpu_lacks_bfloat16
from grpo.core.errors import UserError
from grpo.core.text import format_duration

# What a few CPU cores reach, for saying what a GPU's run would cost on them.
CPU_FLOP_PER_SECOND = 1e11


def slow_bfloat16_warning(config: CommonConfig) -> str | None:
    """A warning if the CPU computes in bfloat16 without instructions for it, several times slower than in float32.

    The setting stays as it is: the numbers of a run must not depend on the CPU.
    """
    if config.device != "cpu" or not config.bf16 or not cpu_lacks_bfloat16():
        return None
    return (
        "Warning: bf16=true, and this CPU has no instructions for bfloat16 (AMX or avx512_bf16): it is several times "
        "slower than bf16=false, which computes in float32."
    )


def check_packages(config: CommonConfig) -> None:
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


def check_cuda(config: CommonConfig) -> None:
    """
    Raises:
        UserError: `device=cuda`, and there is no CUDA device.
    """
    if config.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            plain = " bf16=false" if config.bf16 else ""
            raise UserError(f"device=cuda: no CUDA device is found. To go on without one: device=cpu{plain}")


def check_device(config: Config, batch: BatchSplit) -> None:
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
        message += f" On a CPU, at {speed}, a step with {size} would take about {format_duration(seconds)}"
        if config.max_steps is not None or config.data.name == "gsm8k":
            steps = optimizer_steps(config, min(GSM8K_PROBLEMS, config.data.train_problems or GSM8K_PROBLEMS))
        message += f", all {steps:,} steps about {format_duration(steps * seconds)}." if steps else "."
    plain = " bf16=false" * config.bf16
    raise UserError(
        f"{message} To train on the CPU anyway: device=cpu{plain}. The embedded default needs no GPU: python -m "
        "grpo.train"
    )
