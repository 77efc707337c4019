"""A research framework for GRPO: compose a run from Hydra groups, train it, and see which reward did what."""
