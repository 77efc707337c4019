"""A research framework for GRPO: compose a run from Hydra groups, train it, and see which reward did what.

docs/python-api.md shows what a program or a notebook uses. Each name is imported when it is first used: `import grpo`
takes no time, and composing a run needs no PyTorch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# The threads of PyTorch on Linux wait for one another in a loop, for milliseconds. If another process needs the same
# cores, each operation then takes a scheduler's time slice: a training step beside one busy process took 100 times as
# long. Fewer rounds of the loop cost nothing on idle cores. This must be set before torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

if TYPE_CHECKING:
    from grpo import rewards, train
    from grpo.config.composition import compose
    from grpo.config.schema import Config
    from grpo.core.errors import UserError
    from grpo.core.signals import StoppedBySignal
    from grpo.loaded_run import LoadedRun, load_run
    from grpo.runs.results import Results

    __version__: str

__all__ = [
    "Config",
    "LoadedRun",
    "Results",
    "StoppedBySignal",
    "UserError",
    "__version__",
    "compose",
    "load_run",
    "rewards",
    "train",
]

_MODULES = {
    "Config": "grpo.config.schema",
    "LoadedRun": "grpo.loaded_run",
    "Results": "grpo.runs.results",
    "StoppedBySignal": "grpo.core.signals",
    "UserError": "grpo.core.errors",
    "compose": "grpo.config.composition",
    "load_run": "grpo.loaded_run",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name in ("rewards", "train"):
        return import_module(f"grpo.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("grpo")  # pyproject.toml is the only place that states it
    raise AttributeError(f"module 'grpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
