"""The problems, the libraries and the policy of a run: what training and `grpo.preflight` both start from.

The session calls it before it builds the sampler. It knows no trainer and writes no files.
"""

from dataclasses import dataclass
from typing import Any

from grpo.config.schema import Config
from grpo.core.console import say
from grpo.core.device import set_determinism, set_threads
from grpo.core.progress import importing, spinner
from grpo.core.run_log import quiet_libraries
from grpo.policy.hub import is_loaded_from_hub, prepare_hub
from grpo.rewards.stack import RewardStack
from grpo.tasks.example import Example
from grpo.tasks.splits import Splits, load_splits
from grpo.tasks.tokenized_format import check_tokenized_format
from grpo.tasks.train_set import check_count, select_train_examples
from grpo.training.run_output import notes_on_policy


@dataclass
class LoadedPolicy:
    """A policy on the CPU, its tokenizer, and the training problems whose prompts are short enough for the run.

    Attributes:
        notes: what the user should know of them.
    """

    policy: Any
    tokenizer: Any
    train_examples: list[Example]
    notes: list[str]


def load_problems(config: Config, rewards: RewardStack) -> Splits:
    """The problems of a run, with enough of them for a rollout and with the columns that the rewards take.

    Raises:
        UserError: the data cannot be read, or does not fit the batch or the rewards.
    """
    with spinner("loading the data"):
        splits = load_splits(config.data, validation=config.eval_steps is not None)
    for note in splits.notes:
        say(note)
    check_count(splits.train, config)
    for examples in (splits.train, splits.held_out, splits.validation):
        if examples:
            rewards.check_columns(examples, f"data={config.data.name}")
    return splits


def prepare_libraries(config: Config) -> None:
    """Import PyTorch and Transformers, and set their threads and their determinism."""
    if is_loaded_from_hub(config.model):
        prepare_hub()
    with importing("PyTorch and Transformers"):
        quiet_libraries()
        import grpo.sampling.build  # noqa: F401  # with it, all that a sampler needs
    for note in notes_on_policy(config):
        say(note)
    set_threads(config.threads)
    set_determinism(config.device, config.deterministic)


def load_policy(config: Config, splits: Splits) -> LoadedPolicy:
    """The policy of a run with the tokens that end its completions, checked for the prompts of all problems.

    Raises:
        UserError: the policy cannot be loaded, or does not fit the prompts or the answer format.
    """
    from grpo.policy.compatibility import prepare_policy
    from grpo.policy.loading import build_policy, build_tokenizer

    tokenizer = build_tokenizer(config.model)
    train_examples, notes = select_train_examples(splits.train, tokenizer, config)
    notes += check_tokenized_format(tokenizer, config)
    policy: Any = build_policy(config.model, config.seed)
    problems = (*splits.examples, *train_examples, *splits.validation, *splits.held_out)
    notes += prepare_policy(policy, tokenizer, [example.prompt for example in problems], config)
    return LoadedPolicy(policy, tokenizer, train_examples, notes)
