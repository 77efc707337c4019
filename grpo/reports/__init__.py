"""Figures and pages of runs and sweeps."""

import os

# Matplotlib refuses an unknown backend when it is imported, and a run imports it after training. Figures are written to
# files and need none; a notebook names its own with module://.
if not os.environ.get("MPLBACKEND", "module://").startswith("module://"):
    os.environ["MPLBACKEND"] = "agg"
