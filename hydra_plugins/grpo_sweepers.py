"""The sweepers of grpo.train, `hydra/sweeper=grid` and `hydra/sweeper=optuna`; Hydra takes plugins from here alone.

It imports this file at every start, so everything else is imported where it is used.
"""

from collections.abc import Sequence
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _OfGrpo(Sweeper):
    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from grpo.sweeps.launchers import build_launcher

        self.given_by_hydra = hydra_context, config, build_launcher(hydra_context, task_function, config)

    def given(self, arguments: Sequence[str]) -> list[str]:
        """What is swept: the params, then what was typed."""
        return [f"{key}={value}" for key, value in self.settings["params"].items()] + list(arguments)


class Grid(_OfGrpo):
    """One job for each combination of values."""

    def sweep(self, arguments: list[str]) -> None:
        from grpo.sweeps.runner import run_grid

        run_grid(*self.given_by_hydra, self.given(arguments))


class Optuna(_OfGrpo):
    """Each job by the results of those before."""

    def sweep(self, arguments: list[str]) -> None:
        from grpo.sweeps.search import run_search

        run_search(*self.given_by_hydra, self.given(arguments))
