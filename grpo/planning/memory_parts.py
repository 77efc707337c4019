"""The names of the parts of a device's memory, in the order of the table that `grpo.plan` prints.

Every module that estimates memory uses them. This module computes nothing.
"""

Parts = dict[str, float]  # part -> bytes, or seconds

WEIGHTS, ADAPTERS, REFERENCE = "weights", "LoRA adapters", "reference policy"
GRADIENTS, OPTIMIZER, COMMUNICATION = "gradients", "optimizer states", "communication"
COPIES, SAMPLER = "bf16 copies of weights", "sampler's weights"
CACHE, GRAPHS = "KV cache", "CUDA graphs' memory"
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
