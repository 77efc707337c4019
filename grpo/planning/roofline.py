"""The least time of an optimizer step: a roofline (Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785).

Called by `grpo.plan` and by `scripts/benchmark.py`. It imports no torch.
"""

from dataclasses import dataclass

from grpo.config.samplers import VLLM_ENGINES
from grpo.planning.memory_parts import Parts
from grpo.planning.planned_run import PlannedRun
from grpo.planning.resident_memory import NF4_BYTES


@dataclass(frozen=True)
class DeviceRates:
    """What a device does per second: floating-point operations, bytes of its memory, bytes to another device."""

    flops_bf16: float
    flops_fp32: float
    bandwidth: float
    link: float = float("inf")


def step_seconds(run: PlannedRun, rates: DeviceRates) -> Parts:
    """The least seconds of each part of an optimizer step, by arithmetic or by memory traffic.

    With n parameters in the layers' matrices, v in the head's, and the device's flops (1/s) and bandwidth bw (bytes/s):

      decode    a token of each of N completions: max(2 (n + v) N / flops, (bytes of n + v and of the cache) / bw)
      prefill   2 n per prompt token / flops
      train     6 n per token / flops, 2 of them for the forward pass; 2 more with checkpointing, 2 fewer with frozen
                weights; and 6 v per completion token for the head, 8 v with TRL's head, which computes logits twice
      others    a forward pass of the reference policy, and one of the policy if completions serve more than one step
      update    weight, gradient and moments read, all except the gradient written / bw
      communication  the traffic of the sharding (Rajbhandari et al. 2020, section 7) / the link

    Attention arithmetic, traffic of activations and kernel launches are left out, so a real step takes longer.
    """
    config, arch, work = run.config, run.architecture, run.workload
    flops = rates.flops_bf16 if run.compute_bytes == 2 else rates.flops_fp32
    n, v = arch.linear_parameters, arch.head_parameters
    # A rollout is shared by the steps that it serves.
    served = config.algorithm.steps_per_generation * config.algorithm.num_iterations
    prompts = work.sampled_prompts if _computes_prompts_once(run) else work.sampled
    frozen = 2 if run.lora else 0
    passes = 6 - frozen + 2 * config.activation_checkpointing
    tokens, predicted = run.forward_tokens * work.micro_batches, run.predicted_tokens * work.micro_batches
    head = (6 if run.plain_head else 8) - frozen
    forwards = (config.algorithm.beta > 0) / config.algorithm.num_iterations + (served > 1)
    return {
        "decode": _decode_seconds(run, rates, flops, prompts) / served,
        "prefill": 2 * n * prompts * work.prompt_tokens / flops / served,
        "train": (passes * n * tokens + head * v * predicted) / flops,
        "other forward passes": forwards * 2 * (n * tokens + v * predicted) / flops,
        "update": _update_traffic(run) / rates.bandwidth / run.shards,
        "communication": _communication_traffic(run, served) / rates.link if run.world_size > 1 else 0.0,
    }


def _computes_prompts_once(run: PlannedRun) -> bool:
    """Whether the sampler computes each distinct prompt once, and stores keys in the dtype of matrix products."""
    return run.prefix_sampler or run.config.rollout.name in VLLM_ENGINES


def _decode_seconds(run: PlannedRun, rates: DeviceRates, flops: float, prompts: int) -> float:
    """Seconds to decode a rollout, by arithmetic or by reading weights and cache for every token."""
    arch, work, c = run.architecture, run.workload, run.compute_bytes
    n, v = arch.linear_parameters, arch.head_parameters
    key_bytes = c if _computes_prompts_once(run) or not run.autocast else (c + 4) / 2
    cached_token = 2 * arch.key_size * arch.num_hidden_layers * key_bytes
    reads_cast_weights = run.fused_decoder or run.config.rollout.name in VLLM_ENGINES or not run.autocast
    weights: float = (n + v) * (c if reads_cast_weights else 4 + 2 * c)  # else cast again for every token
    if run.quantized:  # each matrix is dequantized for every token
        dequantized = 2 * run.dequantized_bytes * n / (arch.hidden_size * arch.intermediate_size)
        weights = n * NF4_BYTES + dequantized + v * run.weight_bytes
    cache = cached_token * (prompts * work.prompt_tokens + work.sampled * work.completion_tokens / 2)
    per_token = max(2 * (n + v) * work.sampled / flops, (weights + cache) / rates.bandwidth)
    return work.completion_tokens * per_token


def _update_traffic(run: PlannedRun) -> float:
    """Bytes that the optimizer reads and writes."""
    states = 2.0 * run.trained_bytes if run.config.optimizer.name == "adamw_torch" else run.optimizer_state_bytes
    return 3 * run.trained_bytes + 2 * states


def _communication_traffic(run: PlannedRun, served: int) -> float:
    """Bytes that a device sends in a step."""
    share, micro_batches = (run.world_size - 1) / run.world_size, run.workload.micro_batches
    if not run.weights_sharded:
        # ddp: an all-reduce per step; zero2: a reduce-scatter per micro-batch and an all-gather per step
        return share * run.trained_bytes * (2 if run.sharding == "ddp" else micro_batches + 1)
    gathered = float(run.architecture.parameters * run.compute_bytes)  # in the dtype of matrix products
    sampler_copy = run.architecture.parameters * run.weight_bytes / served  # in the dtype of storage
    return share * (micro_batches * (2 * gathered + run.trained_bytes) + sampler_copy)
