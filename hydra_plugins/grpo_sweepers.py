"""The sweepers of `grpo.train`: `hydra/sweeper=grid` and `hydra/sweeper=optuna`.

Hydra finds plugins only in a package of this name. It imports this file at every start, so every other module is
imported where it is used.
"""

from collections.abc import Sequence
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _ProjectSweeper(Sweeper):
    """Holds what Hydra passes to a sweeper, with a launcher that names its missing package."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from grpo.sweeps.launchers import build_launcher

        self.hydra_objects = hydra_context, config, build_launcher(hydra_context, task_function, config)

    def overrides(self, arguments: Sequence[str]) -> list[str]:
        """The overrides of the sweep: `hydra.sweeper.params`, then the typed arguments."""
        return [f"{key}={value}" for key, value in self.settings["params"].items()] + list(arguments)


class Grid(_ProjectSweeper):
    """One job for each combination of values."""

    def sweep(self, arguments: list[str]) -> None:
        from grpo.sweeps.runner import run_grid

        run_grid(*self.hydra_objects, self.overrides(arguments))


class Optuna(_ProjectSweeper):
    """Each job by the results of the jobs before it."""

    def sweep(self, arguments: list[str]) -> None:
        from grpo.sweeps.search import run_search

        run_search(*self.hydra_objects, self.overrides(arguments))
