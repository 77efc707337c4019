"""The memory of a training micro-batch: a dict of parts for each moment that can be the peak.

Called by `grpo.planning.memory`. Activations are counted in the way of Korthikanti et al. 2022 (arXiv:2205.05198),
section 4, for the layers of Qwen2 instead of GPT's.
"""

from grpo.planning.memory_parts import ACTIVATIONS, COMMUNICATION, COPIES, GRADIENTS, LOGITS, Parts
from grpo.planning.planned_run import PlannedRun
from grpo.planning.resident_memory import resident_memory

# Tokens and columns of logits that TRL's fused head stores at a time (trl/kernels/chunked_logprob.py).
TILE_TOKENS, TILE_WIDTH = 4096, 32768
# Further float32 tiles that the head stores without Triton, in its forward and its backward pass.
TILES_FORWARD, TILES_BACKWARD = 3, 7.25


def training_moments(run: PlannedRun) -> list[Parts]:
    """Bytes at four moments: the head's forward and backward pass, the last layer's backward pass, the embedding's."""
    arch, tokens, resident = run.architecture, run.forward_tokens, resident_memory(run)
    h, i, layers = arch.hidden_size, arch.intermediate_size, arch.num_hidden_layers
    checkpointing = run.config.activation_checkpointing
    if run.weights_sharded:  # two layers and the head are gathered at a time
        gathered = (2 * arch.layer_parameters / layers + arch.head_parameters) * run.weight_bytes
        gradients = 0 if run.lora else arch.layer_parameters / layers * run.weight_bytes
        resident[COMMUNICATION] = gathered + gradients
    accumulated = run.trained_bytes / run.shards if run.workload.micro_batches > 1 else 0.0
    stored = _stored_activations(run)
    forward_copies, backward_copies = _training_weight_copies(run)
    head_gradient = _head_gradient(run)
    forward_logits, backward_logits = _head_buffers(run)
    moment = resident | {GRADIENTS: accumulated, ACTIVATIONS: stored}
    # The last layer is the first in the backward pass: its gradients come on top of what all layers still store.
    recomputed = _layer_activations(run) if checkpointing else 0.0
    matrix_gradient = 0.0 if run.lora else h * i * (run.weight_bytes + (run.compute_bytes if run.autocast else 0))
    # A recomputed layer frees nothing during its backward pass.
    held = 3 if checkpointing else 2
    backward = stored + recomputed + tokens * held * (i * run.compute_bytes + h * 4)
    layer_backward = {LOGITS: head_gradient, ACTIVATIONS: backward, GRADIENTS: accumulated + matrix_gradient}
    embedding_backward = {GRADIENTS: _final_gradients(run), ACTIVATIONS: tokens * h * 4.0}
    return [
        moment | {COPIES: forward_copies, LOGITS: forward_logits},
        moment | {COPIES: backward_copies, LOGITS: backward_logits},
        moment | {COPIES: backward_copies} | layer_backward,
        resident | embedding_backward,
    ]


def _training_weight_copies(run: PlannedRun) -> tuple[float, float]:
    """Bytes of the bfloat16 copies of weights at the end of the forward pass and in the backward pass."""
    arch, checkpointing = run.architecture, run.config.activation_checkpointing
    # Cast in the forward pass and stored until the backward pass; with checkpointing cast again, one layer at a time.
    forward = 2.0 * arch.linear_parameters if run.autocast and run.sharding == "ddp" else 0.0
    backward = forward / arch.num_hidden_layers if checkpointing else forward
    if run.lora and checkpointing:
        forward = backward  # autocast caches no copies of frozen weights
    if run.quantized:
        forward = backward = run.dequantized_bytes
    if run.plain_head:
        head = 2.0 * arch.vocab_size * arch.hidden_size * run.autocast
        forward, backward = forward + head, backward + head
    return forward, backward


def _head_gradient(run: PlannedRun) -> float:
    """Bytes of the head's gradient in float32."""
    return 0.0 if run.lora else 4.0 * run.architecture.vocab_size * run.architecture.hidden_size


def _head_buffers(run: PlannedRun) -> tuple[float, float]:
    """Bytes that the head stores in its forward and its backward pass."""
    arch, gradient = run.architecture, _head_gradient(run)
    if run.plain_head:
        logits = run.predicted_tokens * arch.vocab_size * 4.0
        return 3 * logits, 3 * logits + gradient
    scored = run.predicted_tokens if run.on_cuda else run.forward_tokens
    tile = min(scored, TILE_TOKENS)
    buffer = tile * TILE_WIDTH * run.compute_bytes
    float32_tile = 0 if run.on_cuda else tile * min(arch.vocab_size, TILE_WIDTH) * 4.0
    backward = buffer + TILES_BACKWARD * float32_tile + gradient + scored * arch.hidden_size * 4
    return buffer + TILES_FORWARD * float32_tile, backward


def _final_gradients(run: PlannedRun) -> float:
    """Bytes of the gradients when the embedding's comes last, on top of the head's if they are one matrix."""
    complete = run.trained_bytes / run.shards
    embedding = 0.0 if run.lora else 4.0 * run.architecture.vocab_size * run.architecture.hidden_size
    # Accumulated gradients of earlier micro-batches are a separate tensor. Autograd adds the head's and the embedding's
    # gradient in place, except for a plain head, whose gradient is a transposed product.
    separate = (run.workload.micro_batches > 1) + (run.plain_head and not run.autocast)
    return complete + embedding + embedding * run.architecture.tie_word_embeddings * separate


def _stored_activations(run: PlannedRun) -> float:
    """Bytes that all layers store for the backward pass."""
    arch, h, n = run.architecture, run.architecture.hidden_size, run.forward_tokens
    last_norm = n * h * (4 + run.weight_bytes)  # its input and its output
    if run.config.activation_checkpointing:
        return arch.num_hidden_layers * n * h * run.weight_bytes + last_norm
    return arch.num_hidden_layers * _layer_activations(run) + last_norm


def _layer_activations(run: PlannedRun) -> float:
    """Bytes that one layer stores for its backward pass."""
    arch, n = run.architecture, run.forward_tokens
    h, q, i, read = arch.hidden_size, arch.query_size, arch.intermediate_size, run.linear_input_bytes
    norms = 0.0
    for readers in (3, 2):  # linear modules that read the norm's output
        squared = 4 * h  # in float32, whatever the dtype of the input
        scaled = 0 if run.lora else run.weight_bytes * h  # the input of the product with the norm's weight
        casts = run.autocast or (run.lora and run.adapter_bytes != run.weight_bytes)  # each reader casts for itself
        norms += squared + scaled + read * h * (readers if casts else 1)
    adapters = run.config.model.lora_rank * len(arch.projections) * read
    # Gate, its activation, up; and their product, as the last linear module or its adapter reads it.
    return n * (norms + q * read + 3 * i * run.linear_output_bytes + i * read + adapters) + _attention_activations(run)


def _attention_activations(run: PlannedRun) -> float:
    """Bytes of queries, keys, values and output as attention stores them, and of its mask."""
    work, c, q, k = run.workload, run.compute_bytes, run.architecture.query_size, run.architecture.key_size
    if run.shares_prompts and run.config.prefix_attention == "flex" and run.on_cuda:  # and each softmax's logarithm
        return run.forward_tokens * ((2 * q + 2 * k) * c + 4 * run.architecture.num_attention_heads)
    if run.shares_prompts:
        width = work.prompt_tokens - 1 + work.completion_tokens
        key_width = q if run.on_cuda else k  # CUDA kernels get the key heads repeated
        completions = work.rows * (2 * work.completion_tokens * q + 2 * width * key_width) * c
        mask = work.rows * work.completion_tokens * width * c
        return completions + mask + work.prompts * (work.prompt_tokens - 1) * (2 * q + 2 * k) * c
    width = work.prompt_tokens + work.completion_tokens
    return work.rows * (width * 4 * q + width * width) * c
