"""The metrics of the first optimizer step, simulated: groups drawn from samples, with the run's own advantages.

Called by grpo/forecast/forecast.py. The metrics are those that training logs (`attribution_metrics`), so that a
forecast can be compared with the first line of metrics.jsonl. It knows no policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo.core.statistics import Floats
from grpo.rewards.advantages import attribute, attribution_metrics, gate_rewards
from grpo.rewards.estimators import Bools, Estimator

SIMULATIONS = 1_000


@dataclass(frozen=True)
class StepSettings:
    """What the advantages of a step depend on.

    Attributes:
        names, weights: the R rewards, and their weights (R,) at the first step.
        correct_by: the reward that a gate leaves in.
    """

    names: Sequence[str]
    weights: Floats
    correct_by: str
    num_generations: int
    prompts_per_step: int
    estimator: Estimator
    gate: str


def simulate_first_steps(scores: Floats, correct: Bools, settings: StepSettings) -> dict[str, Floats]:
    """Metric -> its value at the first step of each of `SIMULATIONS` runs; nan for a run that does not log it.

    A simulated run draws E problems with replacement, since the E problems are themselves a sample; then the prompts
    of the step from those, and K of the samples of each prompt without replacement.

    Args:
        scores: (E, samples, R) raw scores; nan for an abstention.
        correct: (E, samples) whether a sample is right.
    """
    n, m, rewards = scores.shape
    k, prompts = settings.num_generations, settings.prompts_per_step
    shaping = np.array([name != settings.correct_by for name in settings.names])
    generator = np.random.default_rng(0)
    runs: list[dict[str, float]] = []
    for _ in range(SIMULATIONS):
        population = generator.integers(n, size=(n,))
        problems = population[generator.integers(n, size=(prompts, 1))]
        chosen = np.argsort(generator.random((prompts, m)), axis=1)[:, :k]
        rows, right = scores[problems, chosen].reshape(-1, rewards), correct[problems, chosen].reshape(-1)
        gated = gate_rewards(settings.gate, right, k, shaping)
        attribution = attribute(rows, settings.weights, k, settings.estimator, gated)
        runs.append(attribution_metrics(attribution, settings.names, right, k))
    metrics = dict.fromkeys(name for run in runs for name in run)
    return {name: np.array([run.get(name, np.nan) for run in runs]) for name in metrics}
