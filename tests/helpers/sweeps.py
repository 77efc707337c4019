"""The jobs of a sweep, composed as the sweeper composes them. Used by tests of sweeps and of checks before jobs."""

from itertools import product

from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext

from grpo.config.composition import config_search_path
from grpo.sweeps.jobs import Job, compose_jobs, expand_overrides


def jobs_of(*arguments: str) -> list[Job]:
    """The jobs of `python -m grpo.train ARGUMENTS`."""
    with config_search_path():
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
        plain = [each for each in arguments if each.startswith("experiment=")]
        master = compose("config", plain, return_hydra_config=True)
        params = [f"{key}={value}" for key, value in master.hydra.sweeper.params.items()]
        listed = expand_overrides(context, [*params, *arguments])
        return compose_jobs(context, master, [list(each) for each in product(*listed.values())], list(listed))
