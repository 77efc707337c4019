"""The memory of the prefix-sharing sampler while it decodes: its KV cache, and the tensors of one decode step.

Called by `resident_memory` for CUDA graphs, which retain this memory between rollouts, and by `sampling_memory`. It
counts the tensors of `grpo/sampling/kv_cache.py`, which it does not import. The cache of `rollout=generate` is in
`sampling_memory.py`.
"""

from grpo.planning.memory_parts import ACTIVATIONS, LOGITS, Parts
from grpo.planning.planned_run import PlannedRun
from grpo.policy.buffer_sizes import GRAPH_TOKEN_MULTIPLE


def completion_cache(run: PlannedRun) -> float:
    """Bytes of the KV cache (keys and values) of all sampled completions."""
    arch, work = run.architecture, run.workload
    per_token = run.compute_bytes * arch.num_hidden_layers
    return 2.0 * work.sampled * work.completion_tokens * arch.key_size * per_token


def prompt_cache(run: PlannedRun) -> float:
    """Bytes of the KV cache of the distinct prompts of a rollout, at the width that the sampler pads them to."""
    arch, work = run.architecture, run.workload
    width = work.prompt_tokens - 1
    width += -width % GRAPH_TOKEN_MULTIPLE if run.on_cuda and run.fused_decoder else 0
    return 2.0 * work.sampled_prompts * width * arch.key_size * run.compute_bytes * arch.num_hidden_layers


def decode_step_memory(run: PlannedRun) -> Parts:
    """Bytes of one decode step of every sampled completion, without the KV cache."""
    arch, work = run.architecture, run.workload
    scores = arch.num_attention_heads * (work.prompt_tokens + work.completion_tokens) * 4.0 * 3
    layer = 3 * arch.intermediate_size * run.linear_output_bytes + 2 * arch.hidden_size * 4
    # Logits, their softmax, the softmax in float64, and its cumulative sums.
    return {LOGITS: work.sampled * arch.vocab_size * 24.0, ACTIVATIONS: work.sampled * (scores + layer)}
