"""The placebo: the advantages of a rollout, permuted at random among the completions of each group.

The trainer calls it with `placebo=true`. Every estimator gives the same advantages in another order if the scores of a
group are in another order, so this trains what permuted totals would train, for any stack. The order depends on nothing
but the seed and the step: all processes draw the same one, and a resumed run draws it again. It knows no scores.
"""

from dataclasses import replace
from zlib import crc32

import numpy as np

from grpo.rewards.advantages import Attribution

# Sets these draws apart from others of the same seed and number.
STREAM = crc32(b"placebo")


def permute_within_groups(attribution: Attribution, num_generations: int, seed: int, step: int) -> Attribution:
    """The advantages (N,) of the rollout of `step`, each given to a random completion of its group.

    They have no parts: no reward gave a completion the advantage that it has now.
    """
    rows = np.arange(len(attribution.advantages)).reshape(-1, num_generations)
    order = np.random.default_rng([STREAM, seed, step]).permuted(rows, axis=1).reshape(-1)
    return replace(attribution, advantages=attribution.advantages[order], parts=None)
