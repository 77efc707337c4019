"""A research framework for GRPO: compose a run from Hydra groups, train it, and see which reward did what."""

import os

# Matplotlib refuses an unknown backend when it is imported, and a run imports it after training. Figures are written to
# files and need none; a notebook names its own with module://.
if not os.environ.get("MPLBACKEND", "module://").startswith("module://"):
    os.environ["MPLBACKEND"] = "agg"

# The threads of PyTorch on Linux wait for one another in a loop, for milliseconds. If another process needs the same
# cores, each operation then takes a scheduler's time slice: a training step beside one busy process took 100 times as
# long. Fewer rounds of the loop cost nothing on idle cores. This must be set before torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
