"""Rules on the set-up: the limit of tokens.

Part of grpo/forecast/verdict.py. It knows no reward.
"""

from collections.abc import Iterator

import numpy as np

from grpo.core.metric_names import ACCURACY_STRICT, TRUNCATED
from grpo.forecast.advice import Advice
from grpo.forecast.forecast import Forecast

OFTEN = 0.05  # a share of truncated completions


def _truncated(forecast: Forecast) -> Iterator[Advice]:
    share = forecast.share(TRUNCATED)
    if share.value <= OFTEN:
        return
    limit = forecast.config.max_completion_length
    truncated = forecast.evaluation.values[TRUNCATED] > 0
    right = forecast.evaluation.values[ACCURACY_STRICT]
    evidence = (
        f"{share.value:.1%} of the completions ({share.low:.1%} to {share.high:.1%}) are truncated at {limit} tokens; "
        f"{right[truncated].mean():.1%} of these are right"
    )
    if not truncated.all():
        evidence += f", of the others {right[~truncated].mean():.1%}"
        complete = int(np.ceil(np.percentile(forecast.tokens[~truncated], 95)))
        evidence += f", which have up to {complete} tokens (95%)"
    change = f"Raise the limit, max_completion_length={2 * limit}."
    yield Advice("warning", "truncated", evidence + ".", change)


SETUP_RULES = (_truncated,)
