"""The keys of metrics in metrics.jsonl, in results.json and on the curves of trackers.

Training writes them; alarms, reports, comparisons and searches read them. Keys of TRL 1.16 have TRL's spelling. This
module formats and computes nothing.
"""

# TRL's metrics of a step.
LOSS = "loss"
GRAD_NORM = "grad_norm"
KL = "kl"
ENTROPY = "entropy"
REWARD = "reward"  # the mean total reward; absent in a step that reuses the rollout of an earlier one
REWARD_STD = "reward_std"
FRAC_REWARD_ZERO_STD = "frac_reward_zero_std"
MEAN_LENGTH = "completions/mean_length"
MIN_LENGTH = "completions/min_length"
MAX_LENGTH = "completions/max_length"
CLIPPED_RATIO = "completions/clipped_ratio"  # the share of completions truncated at the limit

STEP_TIME = "step_time"  # seconds
TIME_PREFIX = "time/"

CORRECT = "completions/correct"  # the share of right completions, by the reward `correct_by`

# Shares of the groups of a step.
GROUPS_PREFIX = "groups/"
ALL_CORRECT = "groups/all_correct"
NONE_CORRECT = "groups/none_correct"
MIXED = "groups/mixed"
CORRECTNESS_CONSTANT = "groups/correctness_constant"
ZERO_STD = "groups/zero_std"  # no completion has an advantage

# With algorithm.resample: groups of a step, those of them that are replaced, rounds of further prompts, and the prompts
# of the run so far. `completions/correct` then counts the completions of all groups drawn.
GROUPS_DRAWN = "resample/groups_drawn"
GROUPS_DISCARDED = "resample/groups_discarded"
RESAMPLING_ROUNDS = "resample/rounds"
PROMPTS_CONSUMED = "resample/prompts_consumed"

# The share of the squared advantages in groups in which all or no completions are right: advantages without a
# difference in right answers. It is the sum of the other two.
PHANTOM = "advantage_share/phantom"
PHANTOM_NONE_CORRECT = f"{PHANTOM}/none_correct"
PHANTOM_ALL_CORRECT = f"{PHANTOM}/all_correct"

# Figures of an evaluation, on held-out or on validation problems: those below, `reward` (the weighted total), and
# `rewards/NAME` (the mean score of a reward).
ACCURACY_STRICT = "accuracy_strict"  # the reward `correct_by` is above 0
ACCURACY_FLEXIBLE = "accuracy_flexible"  # the answer is right, whatever its format
STRICT_FORMAT = "strict_format"
SOFT_FORMAT = "soft_format"
TRUNCATED = "truncated"
MEAN_COMPLETION_TOKENS = "mean_completion_tokens"
SCORE_PREFIX = "rewards/"
ABSTAINED_PREFIX = "abstained/"

# During training, `eval/` precedes the figures on validation problems. Held-out problems are evaluated before and
# after it.
VALIDATION_PREFIX = "eval/"
VALIDATION_ACCURACY = f"{VALIDATION_PREFIX}{ACCURACY_STRICT}"
VALIDATION_ACCURACY_LOW = f"{VALIDATION_ACCURACY}_low"
VALIDATION_ACCURACY_HIGH = f"{VALIDATION_ACCURACY}_high"

TRAIN_SECONDS = "train_seconds"  # in results.json: seconds of training, without evaluations


# What else TRL and transformers log, and the keys of metrics.jsonl.
_OTHER_NAMES = (
    *("learning_rate", "epoch", "num_tokens", "policy_loss", "entropy_coef", "aux_loss", "cispo_clip_ratio"),
    *("train_runtime", "train_loss", "total_flos", "train_samples_per_second", "train_steps_per_second"),
    *("step", "alarm", "message"),
)
_OTHER_PREFIXES = (
    *("completions/", GROUPS_PREFIX, "advantage_share/", "advantage_flips/", "reward_weight/"),
    *("clip_ratio/", "sampling/", "tools/", "vespo/", "profiling/"),
)


def is_metric_of_run(name: str) -> bool:
    """Whether the framework logs a metric of this name, or may do so: a reward cannot log one."""
    names = (LOSS, GRAD_NORM, KL, ENTROPY, REWARD, REWARD_STD, FRAC_REWARD_ZERO_STD, STEP_TIME, *_OTHER_NAMES)
    prefixes = (SCORE_PREFIX, ABSTAINED_PREFIX, TIME_PREFIX, VALIDATION_PREFIX, *_OTHER_PREFIXES)
    return name in names or name.startswith(prefixes)


def evaluated_score(reward: str) -> str:
    """The mean score of `reward` in an evaluation."""
    return f"{SCORE_PREFIX}{reward}"


def reward_seconds(reward: str) -> str:
    """The seconds that `reward` took for the rollout of a step, in the slowest process."""
    return f"{TIME_PREFIX}reward/{reward}"


def is_time(metric: str) -> bool:
    """Whether a metric of a step is a time, which differs between two runs with the same settings."""
    return metric == STEP_TIME or metric.startswith(TIME_PREFIX)


def abstained(reward: str) -> str:
    """The share of completions for which `reward` abstains: it returns None."""
    return f"{ABSTAINED_PREFIX}{reward}"


def reward_mean(reward: str) -> str:
    """The mean score of `reward` in the rollout of a step (TRL)."""
    return f"{SCORE_PREFIX}{reward}/mean"


def reward_std(reward: str) -> str:
    """The standard deviation of the scores of `reward` in the rollout of a step (TRL)."""
    return f"{SCORE_PREFIX}{reward}/std"


def reward_zero_std(reward: str) -> str:
    """The share of groups in which `reward` does not vary."""
    return f"{ZERO_STD}/{reward}"


def advantage_share(reward: str) -> str:
    """The share of `reward` in the squared advantages."""
    return f"advantage_share/{reward}"


def reward_weight(reward: str) -> str:
    """The weight of `reward` in the rollout of a step; only of rewards whose weight has a schedule."""
    return f"reward_weight/{reward}"


def advantage_flips(reward: str) -> str:
    """The share of completions whose advantage would change its sign without `reward`."""
    return f"advantage_flips/{reward}"
