"""How long the rewards of a stack take for a completion, measured on made-up completions of the showcase question.

Called by `grpo.plan`. It knows nothing of steps and batches.
"""

import time

from grpo.core.errors import UserError, first_line
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack
from grpo.tasks.example import SHOWCASE

SAMPLES = 16


def measure_seconds(rewards: RewardStack) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds per completion of each reward that can be measured, and the reason for each of the others.

    Workers and the event loop are used as in training. What starts with the first call is not counted.
    """
    texts = [rewards.answer_format.render(f"120 / 8 x 20 = {i}", str(i)) for i in range(SAMPLES)]
    batch = ScoringBatch(texts, [SHOWCASE] * SAMPLES)
    seconds, faults = {}, {}
    for name in rewards.weights:
        try:
            rewards.score_one(name, batch.rows(0, 1))
            started = time.perf_counter()
            rewards.score_one(name, batch)
            seconds[name] = (time.perf_counter() - started) / SAMPLES
        except UserError as error:
            faults[name] = first_line(error)
    return seconds, faults
