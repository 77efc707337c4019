"""The memory that a device needs at every moment: weights, optimizer states, buffers.

The peaks of sampling, training and the update each add to this. Weights, gradients and optimizer states, and how they
are sharded: Rajbhandari et al. 2020 (arXiv:1910.02054), sections 3.1 and 5. Adapters: Hu et al. 2021
(arXiv:2106.09685). NF4 and its constants: Dettmers et al. 2023 (arXiv:2305.14314), section 3.
"""

from grpo.planning.kv_cache_memory import completion_cache, decode_step_memory, prompt_cache
from grpo.planning.memory_parts import (
    ADAPTERS,
    CACHE,
    COMMUNICATION,
    GRAPHS,
    OPTIMIZER,
    REFERENCE,
    SAMPLER,
    WEIGHTS,
    Parts,
)
from grpo.planning.planned_run import PlannedRun
from grpo.policy.buffer_sizes import PACKED_WEIGHT_ELEMENTS

# Bytes of a weight in NF4: 4 bits, a constant of 8 bits per 64 weights, and one of 32 bits per 256 of those constants.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


def resident_memory(run: PlannedRun) -> Parts:
    """Bytes that a device stores at every moment once the first step is done."""
    arch, weight_shards = run.architecture, run.world_size if run.weights_sharded else 1
    weights = float(arch.parameters * run.weight_bytes)
    if run.quantized:
        weights += arch.linear_parameters * (NF4_BYTES - run.weight_bytes)
    states = run.optimizer_state_bytes
    if run.sharding.startswith("zero") and run.autocast and not run.quantized:
        # DeepSpeed stores the weights in bfloat16, and in float32 with the moments.
        weights, states = weights / 2, states + run.trained_bytes
    parts = {WEIGHTS: weights / weight_shards, OPTIMIZER: states / run.shards}
    if run.lora:
        parts[ADAPTERS] = run.adapter_parameters * run.adapter_bytes / weight_shards
    if run.config.algorithm.beta > 0 and not run.lora:
        parts[REFERENCE] = arch.parameters * run.weight_bytes / weight_shards
    if run.world_size > 1 and run.sharding == "ddp":
        parts[COMMUNICATION] = run.trained_bytes  # DDP's buckets
    if run.fused_decoder:
        parts[SAMPLER] = fused_weights(run)
    if run.weights_sharded and run.prefix_sampler:  # grpo/policy/sharding.py samples from a complete copy
        parts[SAMPLER] = parts.get(SAMPLER, 0.0) + arch.parameters * run.compute_bytes
    if run.fused_decoder and run.on_cuda:  # CUDA graphs keep their storage between rollouts
        parts[CACHE] = completion_cache(run) + prompt_cache(run)
        parts[GRAPHS] = sum(decode_step_memory(run).values())
    return parts


def fused_weights(run: PlannedRun) -> float:
    """Bytes of the decoder of `grpo/sampling/qwen2.py`; others than fused, cast or packed weights are the policy's."""
    arch, h, i = run.architecture, run.architecture.hidden_size, run.architecture.intermediate_size
    packed = not run.on_cuda and h * i >= PACKED_WEIGHT_ELEMENTS  # assumed: the sampler measures which is faster
    if packed or (run.compute_bytes != run.weight_bytes and not run.weights_sharded):
        return float(run.compute_bytes * (arch.linear_parameters + arch.head_parameters))
    if run.lora:
        return float(run.compute_bytes * arch.linear_parameters)
    fused = h * (arch.query_size + 2 * arch.key_size) + 2 * h * i
    return float(run.compute_bytes * arch.num_hidden_layers * fused)
