"""Sizes of buffers that the sampler and the trainer allocate, and that the memory plan counts.

They stand here because `grpo.planning` imports neither of the two. This module imports nothing.
"""

# On a CPU, the trainer computes log-probabilities from plain logits up to this many (tokens x vocabulary) at a time;
# above it, TRL's head computes them in tiles.
PLAIN_HEAD_LOGITS = 2**25
# CUDA graphs are captured for prompt widths and completion lengths that are multiples of this many tokens, so that
# batches of similar shape replay the same graph.
GRAPH_TOKEN_MULTIPLE = 64
# On a CPU, the fused decoder considers packed copies of its weights (grpo/sampling/products.py) if the gate projection
# of a layer has at least this many elements. Products with smaller weights take less time than oneDNN's dispatch.
PACKED_WEIGHT_ELEMENTS = 2**20
