"""Whether this machine has what the settings need: packages, CUDA devices, one process for each device.

Training, sweeps and evaluation call it before they load a policy. It does not know what the devices compute.
"""

from importlib.util import find_spec
from pathlib import Path

from grpo.config.batch import BatchSplit, optimizer_steps
from grpo.config.limits import GSM8K_PROBLEMS
from grpo.config.schema import CommonConfig, Config, ModelConfig
from grpo.core import distributed
from grpo.core.device import cpu_lacks_bfloat16
from grpo.core.errors import UserError
from grpo.core.packages import require_package
from grpo.core.text import format_duration
from grpo.policy.adapters import check_adapter
from grpo.policy.gguf_file import read_gguf
from grpo.policy.hub import resolve_gguf, resolve_model_path, resolve_tokenizer

# Assumed speed of a few CPU cores, for the estimate in the message about a missing GPU.
CPU_FLOP_PER_SECOND = 1e11
# Schulman et al. 2025, "LoRA Without Regret" (thinkingmachines.ai/blog/lora): the best learning rate of LoRA is about
# ten times that of full fine-tuning, which for GRPO is around 1e-6 to 5e-6.
LOW_LORA_LEARNING_RATE = 1e-5


def slow_bfloat16_warning(config: CommonConfig) -> str | None:
    """A warning if a CPU without bfloat16 instructions is to compute in bfloat16, several times slower than float32.

    The setting is not changed, because the numbers of a run must not depend on the CPU.
    """
    if config.device != "cpu" or not config.bf16 or not cpu_lacks_bfloat16():
        return None
    return (
        "Warning: bf16=true, and this CPU has no instructions for bfloat16 (AMX or avx512_bf16): it is several times "
        "slower than bf16=false, which computes in float32."
    )


def check_packages(config: CommonConfig) -> None:
    """Check that the packages that settings need are installed.

    Raises:
        UserError: a package is not installed.
    """
    needed = []
    if config.model.load_in_4bit:
        needed.append(("model.load_in_4bit=true", "bitsandbytes", "qlora"))
    if config.model.adapter is not None:
        needed.append((f"model.adapter={config.model.adapter}", "peft", "lora"))
    if config.model.lora_rank:
        needed.append((f"model.lora_rank={config.model.lora_rank}", "peft", "lora"))
    if config.model.gguf is not None:
        needed.append((config.model.setting, "gguf", "gguf"))
    if isinstance(config, Config) and config.optimizer.name == "adamw_8bit":
        needed.append(("optimizer.name=adamw_8bit", "bitsandbytes", "qlora"))
    for setting, package, extra in needed:
        require_package(setting, package, extra)


def check_model_files(model: ModelConfig) -> None:
    """Check the files of the policy that are on this machine, as far as that takes no torch.

    Raises:
        UserError: a file or folder is missing, a GGUF file cannot be read, or the adapter does not fit the settings.
    """
    if model.gguf is not None:
        file = Path(*resolve_gguf(model))
        if file.is_file():  # otherwise it is on the hub
            header = read_gguf(file, model.setting)
            if model.tokenizer is None and "tokenizer.ggml.model" not in header.metadata:
                raise UserError(f"{model.setting}: the file has no tokenizer; add model.tokenizer=FOLDER.")
    else:
        resolve_model_path(model.path)
    if model.tokenizer is not None:
        resolve_tokenizer(model.tokenizer)
    if model.adapter is not None:
        check_adapter(model)


def lora_learning_rate_warning(config: Config) -> str | None:
    """A warning if LoRA adapters are trained with a learning rate for all weights."""
    if not config.model.lora_rank or config.optimizer.lr >= LOW_LORA_LEARNING_RATE:
        return None
    return (
        f"Warning: optimizer.lr={config.optimizer.lr:g} with LoRA adapters (model.lora_rank={config.model.lora_rank}): "
        f"they need about ten times the learning rate of all weights and hardly learn below "
        f"{LOW_LORA_LEARNING_RATE:g}; type optimizer.lr={10 * config.optimizer.lr:g}."
    )


def check_cuda(config: CommonConfig) -> None:
    """Check that there is a CUDA device if the settings ask for one.

    Raises:
        UserError: `device=cuda`, and there is no CUDA device.
    """
    if config.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            no_bf16 = " bf16=false" if config.bf16 else ""
            raise UserError(f"device=cuda: no CUDA device is found. To run on the CPU: device=cpu{no_bf16}")


def check_device(config: Config, batch: BatchSplit) -> None:
    """Check packages, the distributed strategy and the number of CUDA devices before training.

    The device is never chosen by the hardware: a missing GPU stops the run, and so does a GPU without a process.

    Raises:
        UserError: a package is not installed, a setting does not work with the strategy, or the number of CUDA devices
            does not fit the number of processes.
    """
    check_packages(config)
    check_model_files(config.model)
    if engine := distributed.sharding_engine():
        _check_sharding(config, engine)
    if config.device == "cpu":
        return
    import torch

    count, processes = torch.cuda.device_count(), distributed.local_world_size()
    if count == 0:
        no_bf16 = " bf16=false" * config.bf16
        raise UserError(
            f"device=cuda: no CUDA device is found.{_cpu_estimate(config, batch)} To train on the CPU anyway: "
            f"device=cpu{no_bf16}. The embedded default needs no GPU: python -m grpo.train"
        )
    if count > 1 and batch.world_size == 1:
        raise UserError(
            f"device=cuda: {count} devices are visible, and one process uses one: set CUDA_VISIBLE_DEVICES=0, or "
            f"start one process for each: accelerate launch --config_file scripts/accelerate/ddp.yaml --num_processes "
            f"{count} -m grpo.train"
        )
    if count < processes:
        raise UserError(
            f"device=cuda: {processes} processes on this machine, and {count} CUDA devices; start {count} processes."
        )


def _check_sharding(config: Config, engine: str) -> None:
    if config.device == "cpu":
        raise UserError(f"device=cpu: {engine} is for GPUs. For processes on a CPU use scripts/accelerate/ddp.yaml.")
    if engine == "deepspeed" and find_spec("deepspeed") is None:
        raise UserError('DeepSpeed is not installed: pip install "grpo[deepspeed]"')
    if engine == "deepspeed" and config.on_nonfinite == "skip":
        raise UserError(
            "on_nonfinite=skip: DeepSpeed updates the weights before the gradient can be checked; use stop."
        )
    if not distributed.weights_are_sharded():
        return
    if config.model.load_in_4bit:
        raise UserError("model.load_in_4bit=true: 4-bit weights cannot be sharded; use scripts/accelerate/ddp.yaml.")
    if config.rollout.name in ("generate", "continuous_batching"):
        raise UserError(
            f"rollout={config.rollout.name}: with sharded weights, completions are sampled from a complete copy of the "
            "policy; use rollout=fast."
        )


def _cpu_estimate(config: Config, batch: BatchSplit) -> str:
    """How long training would take on a CPU, if the number of parameters is known: 8 FLOP per parameter and token.

    A forward pass to generate (2), a forward pass (2) and a backward pass (4) to train.
    """
    if config.model.parameters is None:
        return ""
    tokens = batch.completions * ((config.max_prompt_length or 0) + config.max_completion_length)
    seconds = 8 * config.model.parameters * tokens / CPU_FLOP_PER_SECOND
    size = f"{config.model.parameters / 1e6:,.0f} M parameters (model.parameters)"
    speed = f"{CPU_FLOP_PER_SECOND / 1e12} TFLOP/s"
    estimate = f" On a CPU, at {speed}, a step with {size} would take about {format_duration(seconds)}"
    if config.max_steps is None and config.data.name != "gsm8k":
        return f"{estimate}."
    steps = optimizer_steps(config, min(GSM8K_PROBLEMS, config.data.train_problems or GSM8K_PROBLEMS))
    return f"{estimate}, all {steps:,} steps about {format_duration(steps * seconds)}." if steps else f"{estimate}."
