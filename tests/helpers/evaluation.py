"""Evaluations in this process, and completions to evaluate.

Called by the tests of `grpo.evaluate` and of what it may read and write.
"""

from hydra import compose as hydra_compose

from grpo import evaluate
from grpo.config.composition import config_search_path, translate_errors
from grpo.config.schema import EvaluateConfig


def evaluated(*overrides: str) -> None:
    """Run `grpo.evaluate` in this process."""
    with config_search_path(), translate_errors(EvaluateConfig):
        evaluate.run(hydra_compose("evaluate", list(overrides)), list(overrides))


def tagged(answer: str) -> str:
    return f"<reasoning>\nhm\n</reasoning>\n<answer>\n{answer}\n</answer>\n"
