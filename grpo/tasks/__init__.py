"""Tasks: datasets and their splits, the answer format, and what counts as a correct answer."""
