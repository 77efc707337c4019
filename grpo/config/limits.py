"""Upper limits of settings and sizes of datasets. It imports nothing, so any module can read them."""

# Upper limits. A larger value is a typing error, and would end in hours of waiting or in an error of the operating
# system.
MAX_STEPS = MAX_PROBLEMS = 10_000_000

MAX_TOKENS = MAX_COMPLETIONS = 1_000_000

# The most distinct problems that data=arithmetic generates. Any settings can generate as many: those with the fewest
# problems, four steps and no number above 100, have 157,673 for training and 22,631 held out; the defaults 9.8 and 1.4
# million.
DISTINCT_PROBLEMS = {"training": 100_000, "held-out": 12_000}

GSM8K_PROBLEMS = 7_472  # training problems of GSM8K without the showcase question
