"""The parts of memory, and the parts that a device stores at every moment: weights, optimizer states, buffers.

The peaks of sampling, training and the update each add to this. Weights, gradients and optimizer states, and how they
are sharded: Rajbhandari et al. 2020 (arXiv:1910.02054), sections 3.1 and 5. Adapters: Hu et al. 2021
(arXiv:2106.09685). NF4 and its constants: Dettmers et al. 2023 (arXiv:2305.14314), section 3.
"""

from grpo.planning.planned_run import PlannedRun
from grpo.policy.buffer_sizes import GRAPH_TOKEN_MULTIPLE

Parts = dict[str, float]  # part -> bytes, or seconds

WEIGHTS, ADAPTERS, REFERENCE = "weights", "LoRA adapters", "reference policy"
GRADIENTS, OPTIMIZER, COMMUNICATION = "gradients", "optimizer states", "communication"
COPIES, SAMPLER = "bf16 copies of weights", "sampler's weights"
CACHE, GRAPHS = "keys and values", "CUDA graphs' memory"
LOGITS, ACTIVATIONS = "logits, log-probs", "activations"
PARTS = (
    WEIGHTS,
    ADAPTERS,
    REFERENCE,
    GRADIENTS,
    OPTIMIZER,
    COMMUNICATION,
    COPIES,
    SAMPLER,
    CACHE,
    GRAPHS,
    LOGITS,
    ACTIVATIONS,
)
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
        parts[GRAPHS] = sum(decode_step(run).values())
    return parts


def fused_weights(run: PlannedRun) -> float:
    """Bytes of the decoder of `grpo/sampling/qwen2.py`, which shares with the policy what it does not fuse or cast."""
    arch, h, i = run.architecture, run.architecture.hidden_size, run.architecture.intermediate_size
    if run.compute_bytes != run.weight_bytes and not run.weights_sharded:
        return float(run.compute_bytes * (arch.linear_parameters + arch.head_parameters))
    if run.lora:
        return float(run.compute_bytes * arch.linear_parameters)
    fused = h * (arch.query_size + 2 * arch.key_size) + 2 * h * i
    return float(run.compute_bytes * arch.num_hidden_layers * fused)


def completion_cache(run: PlannedRun) -> float:
    """Bytes of the keys and values of all sampled completions."""
    arch, work = run.architecture, run.workload
    per_token = run.compute_bytes * arch.num_hidden_layers
    return 2.0 * work.sampled * work.completion_tokens * arch.key_size * per_token


def prompt_cache(run: PlannedRun) -> float:
    """Bytes of the keys and values of the distinct prompts of a rollout, at the width that the sampler pads them to."""
    arch, work = run.architecture, run.workload
    width = work.prompt_tokens - 1
    width += -width % GRAPH_TOKEN_MULTIPLE if run.on_cuda and run.fused_decoder else 0
    return 2.0 * work.sampled_prompts * width * arch.key_size * run.compute_bytes * arch.num_hidden_layers


def decode_step(run: PlannedRun) -> Parts:
    """Bytes of one decode step of every sampled completion, without the cache."""
    arch, work = run.architecture, run.workload
    scores = arch.num_attention_heads * (work.prompt_tokens + work.completion_tokens) * 4.0 * 3
    layer = 3 * arch.intermediate_size * run.linear_output_bytes + 2 * arch.hidden_size * 4
    # Logits, their softmax, the softmax in float64, and its cumulative sums.
    return {LOGITS: work.sampled * arch.vocab_size * 24.0, ACTIVATIONS: work.sampled * (scores + layer)}
