"""A research framework for GRPO: compose a run from Hydra groups, train it, and see which reward did what."""

import os

# matplotlib refuses a backend that it does not know when it is imported, which is after all the training of a run. Our
# figures are files, drawn without any; a notebook names its own with module://.
if not os.environ.get("MPLBACKEND", "module://").startswith("module://"):
    os.environ["MPLBACKEND"] = "agg"
