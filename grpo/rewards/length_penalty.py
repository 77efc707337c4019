"""The reward `overlong`, DAPO's penalty for long completions. Importing this module registers it.

It is in no shipped stack; `+rewards.overlong=1` adds it. It knows neither text nor weights.
"""

from grpo.rewards.registry import reward

FREE_SHARE = 0.8  # DAPO: 16,384 of 20,480 tokens


@reward
def overlong(
    completion_tokens: int, max_completion_length: int, limit: int | None = None, free: int | None = None
) -> float:
    """0 up to `free` tokens, then in a straight line to -1 at `limit` tokens, and -1 above.

    DAPO (Yu et al. 2025, arXiv 2503.14476), equation 13, with L_max = `limit` and L_cache = `limit` - `free`.

    Args:
        limit: in tokens; None: max_completion_length.
        free: in tokens, below `limit`; None: 80% of `limit`, as in the paper.
    """
    limit = max_completion_length if limit is None else limit
    free = int(FREE_SHARE * limit) if free is None else free
    assert 0 <= free < limit  # checked with the settings
    return min(0.0, max(-1.0, (free - completion_tokens) / (limit - free)))
