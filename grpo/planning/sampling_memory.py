"""The memory of sampling: a dict of parts for each moment that can be the peak.

Called by `grpo.planning.memory`. It counts the tensors of the samplers in `grpo/sampling/`, which it does not import.
"""

from grpo.config.samplers import VLLM_ENGINES
from grpo.planning.kv_cache_memory import completion_cache, decode_step_memory, prompt_cache
from grpo.planning.memory_parts import ACTIVATIONS, CACHE, COMMUNICATION, COPIES, GRAPHS, LOGITS, SAMPLER, Parts
from grpo.planning.planned_run import PlannedRun
from grpo.planning.resident_memory import resident_memory


def sampling_moments(run: PlannedRun) -> list[Parts]:
    """Bytes at each moment of sampling that can be its peak."""
    resident = resident_memory(run)
    if run.config.rollout.name in VLLM_ENGINES:  # vLLM has a fixed share of the memory, or a server of its own
        return [resident]
    if run.weights_sharded:  # the largest matrix is gathered to be copied
        gathered = run.architecture.head_parameters * run.weight_bytes
        resident[COMMUNICATION] = resident.get(COMMUNICATION, 0.0) + gathered
    return _prefix_sampler_moments(run, resident) if run.prefix_sampler else _generate_moments(run, resident)


def _generate_moments(run: PlannedRun, resident: Parts) -> list[Parts]:
    """transformers' `generate`: the prefill, and the last decode step."""
    work, arch, c = run.workload, run.architecture, run.compute_bytes
    copies = _sampling_weight_copies(run)
    # Each completion has its own copy of the prompt. Under autocast, rotary embeddings leave keys in float32; appending
    # a token copies a layer's cache.
    rows, width = work.sampled, work.prompt_tokens + work.completion_tokens
    token = arch.key_size * (2 * c + 2 * run.autocast)
    cache = rows * width * token * arch.num_hidden_layers
    heads = rows * width * (arch.query_size * 2 * c + token)
    prefill = _forward_activations(run, rows * work.prompt_tokens) + rows * work.prompt_tokens**2
    return [
        resident | {COPIES: copies, CACHE: cache * work.prompt_tokens / width, ACTIVATIONS: prefill},
        resident | {COPIES: copies, CACHE: cache, ACTIVATIONS: heads, LOGITS: rows * arch.vocab_size * 4.0 * 5},
    ]


def _prefix_sampler_moments(run: PlannedRun, resident: Parts) -> list[Parts]:
    """The project's own sampler: fusing the weights, the prefill, and the last decode step."""
    work, arch, c = run.workload, run.architecture, run.compute_bytes
    h, i = arch.hidden_size, arch.intermediate_size
    copies, prompts = _sampling_weight_copies(run), prompt_cache(run)
    prefill_tokens = work.sampled_prompts * (work.prompt_tokens - 1)
    prefill = resident | {COPIES: copies, ACTIVATIONS: _forward_activations(run, prefill_tokens)}
    prefill[CACHE] = resident.get(CACHE, 0.0) + prompts
    decode = resident | ({} if GRAPHS in resident else decode_step_memory(run))
    # Beside the keys and values of the prefill: with CUDA graphs `KVCache`, else `SlotCache`, at most a slot per row.
    slots = prompts * work.sampled / work.sampled_prompts + completion_cache(run)
    decode[CACHE] = prompts + resident.get(CACHE, slots)
    if not run.fused_decoder:
        return [prefill, decode | {COPIES: copies}]
    fusing = 2 * (run.weight_bytes * 2 * h * i) + (arch.linear_parameters / arch.num_hidden_layers) * c
    return [resident | {SAMPLER: resident[SAMPLER] + fusing}, prefill, decode]


def _sampling_weight_copies(run: PlannedRun) -> float:
    """Bytes of the copies of weights that autocast or dequantization makes while sampling."""
    arch = run.architecture
    if run.quantized:
        return run.dequantized_bytes + 2.0 * arch.head_parameters * run.autocast
    if not run.autocast:
        return 0.0
    if run.prefix_sampler or run.lora:  # autocast caches no copies in inference mode, nor of frozen weights
        return 2.0 * (arch.hidden_size * arch.intermediate_size if run.fused_decoder else arch.head_parameters)
    return 2.0 * (arch.linear_parameters + arch.head_parameters)


def _forward_activations(run: PlannedRun, tokens: int) -> float:
    """Bytes of a layer's forward pass without gradient: gate, up, their product, and the residual stream."""
    arch = run.architecture
    return tokens * (3 * arch.intermediate_size * run.linear_output_bytes + 3 * arch.hidden_size * 4.0)
