"""Sizes of buffers that the sampler and the trainer allocate, and that the memory plan counts.

They stand here because `grpo.planning` imports neither of the two. This module imports nothing.
"""

# On a CPU, the trainer computes log-probabilities from plain logits up to this many (tokens x vocabulary) at a time;
# above it, TRL's head computes them in tiles.
PLAIN_HEAD_LOGITS = 2**25
# CUDA graphs are captured for prompt widths and completion lengths that are multiples of this many tokens, so that
# batches of similar shape replay the same graph.
GRAPH_TOKEN_MULTIPLE = 64
