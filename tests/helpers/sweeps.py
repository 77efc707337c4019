"""The jobs of a sweep, composed as the sweeper composes them, and the output of sweeps read back.

Used by tests of sweeps and of checks before jobs.
"""

import json
import re
from itertools import product
from pathlib import Path

from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext

from grpo.config.composition import config_search_path
from grpo.sweeps.jobs import Job, compose_jobs, expand_overrides
from tests.conftest import SMALL

# The smallest run, without num_generations, which sweeps vary.
FEW = [each for each in SMALL if not each.startswith("num_generations")] + ["tracking=none", "threads=1"]


def jobs_of(*arguments: str) -> list[Job]:
    """The jobs of `python -m grpo.train ARGUMENTS`."""
    with config_search_path():
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
        plain = [each for each in arguments if each.startswith("experiment=")]
        master = compose("config", plain, return_hydra_config=True)
        params = [f"{key}={value}" for key, value in master.hydra.sweeper.params.items()]
        listed = expand_overrides(context, [*params, *arguments])
        return compose_jobs(context, master, [list(each) for each in product(*listed.values())], list(listed))


def job_lines(said: str) -> list[str]:
    """The lines that a sweep prints as its jobs end, without the time."""
    return re.findall(r"^(\[\d+/\d+\] .*?), \d+ s", said, re.MULTILINE)


def results(folder: Path) -> dict:
    """The content of a run's results.json."""
    return json.loads((folder / "results.json").read_text())
