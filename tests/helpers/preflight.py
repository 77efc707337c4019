"""Forecasts without the command: of the policy of a run, and of completions that are made up.

Called by the tests of grpo/forecast/ and of the page.
"""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose as hydra_compose

from grpo.config.composition import config_search_path, load_config
from grpo.config.hydra_errors import translate_errors
from grpo.config.schema import PreflightConfig
from grpo.evaluation.completion import Completion
from grpo.evaluation.evaluation import evaluate_completions
from grpo.forecast.forecast import Forecast
from grpo.forecast.setup import SetupFacts
from grpo.rewards.stack import rewards_of
from grpo.tasks.example import Example


def compose_preflight(*overrides: str) -> PreflightConfig:
    with config_search_path(), translate_errors(PreflightConfig):
        return load_config(hydra_compose("preflight", [*overrides, "tracking=none"]), PreflightConfig)


def preflight(out: Path, *overrides: str) -> list[str]:
    """Run a preflight in this process; the causes of its advice, in their order."""
    from grpo.preflight import run

    return [advice.cause for advice in run(compose_preflight(*overrides), out, "the command")]


def made_up(
    problems: Sequence[Sequence[str | Completion]], *overrides: str, setup: SetupFacts | None = None
) -> Forecast:
    """The forecast from completions of problems whose answer is 5; each text has 10 tokens."""
    config = compose_preflight(*overrides)
    samples = {
        (i, j): each if isinstance(each, Completion) else Completion(each, 10, False)
        for i, texts in enumerate(problems)
        for j, each in enumerate(texts)
    }
    examples = [Example(f"Problem {i}?", "5") for i in range(len(problems))]
    evaluation = evaluate_completions(examples, [samples], rewards_of(config))
    return Forecast(config, evaluation, [20] * len(problems), setup)
