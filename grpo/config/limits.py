"""Upper limits of settings, and sizes of datasets. This module imports nothing, so any other can read them."""

# A larger value is a typing error, and would end after hours of waiting or in an error of the operating system.
MAX_STEPS = MAX_PROBLEMS = 10_000_000
MAX_TOKENS = MAX_COMPLETIONS = 1_000_000
MAX_JOBS = 10_000  # in a sweep

# Of a reward, as an absolute value: advantages are computed in float32.
MAX_WEIGHT = 10_000

# Largest number of distinct problems that data=arithmetic generates. Any settings can generate as many: those with the
# fewest problems, four steps and no number above 100, have 157,673 for training and 22,631 held out; the defaults have
# 9.8 and 1.4 million.
DISTINCT_PROBLEMS = {"training": 100_000, "held-out": 12_000}

GSM8K_PROBLEMS = 7_472  # training problems of GSM8K without the showcase question
