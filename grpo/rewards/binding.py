"""The values of a reward's parameters for a batch: from the batch, the dataset, reward_args, or the default.

Called by grpo/rewards/scoring.py for each batch, and by grpo/rewards/stack.py, which checks before a run that every
parameter can have a value. It calls no reward.

Where several could give a value, the framework's own names win, then reward_args, then the columns of the dataset, then
the default of the function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo.policy.chat_template import build_messages
from grpo.rewards.reward_log import RewardLog
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.signature import OF_BATCH, OF_COMPLETIONS, OF_SETTINGS, TRL_ONLY, Reward
from grpo.tasks.answer_format import AnswerFormat
from grpo.tasks.answer_type import AnswerType

# Values that only some batches have.
SOMETIMES_UNKNOWN = ("completion_ids", *OF_COMPLETIONS)
# Columns that TRL does not pass on, and names that it uses itself.
NOT_IN_REST = {"prompt", "completion", "completions", *TRL_ONLY}


@dataclass(frozen=True)
class RewardSettings:
    """What rewards receive from the settings of a run.

    Attributes:
        answer_type: what counts as a right answer, data.answer, in the format of the run.
        arguments: reward -> parameter -> value, reward_args.
        system_prompt: it opens the prompts that rewards in TRL's form receive.
        max_completion_length: in tokens; None in an audit, which samples nothing.
        logged_columns: the columns of completions/ that rewards have logged, and which reward each.
    """

    answer_type: AnswerType
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    system_prompt: str = ""
    max_completion_length: int | None = None
    logged_columns: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def answer_format(self) -> AnswerFormat:
        """How a completion shows its reasoning and its answer."""
        return self.answer_type.answer_format


class UnknownValue(Exception):
    """A reward reads the value of this name, which is not known for its completions: it abstains."""


class UnknownValues(Sequence[Any]):
    """The values of `name` that a reward finds in **kwargs where they are not known; reading them ends the call."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        raise UnknownValue(self.name)

    def __getitem__(self, index: Any) -> Any:
        raise UnknownValue(self.name)


@dataclass(frozen=True)
class BoundArguments:
    """The arguments of a reward for a batch of N completions.

    Attributes:
        shared: parameter -> one value for the batch.
        by_completion: parameter -> (N,) a value for each completion.
        unknown: (N,) whether a value that the reward needs is not known.
    """

    shared: dict[str, Any]
    by_completion: dict[str, Sequence[Any]]
    unknown: list[bool]


def bind_arguments(reward: Reward, batch: ScoringBatch, settings: RewardSettings) -> BoundArguments:
    """The arguments of `reward` for the completions of `batch`."""
    shared: dict[str, Any] = dict(settings.arguments.get(reward.name, ()))
    by_completion: dict[str, Sequence[Any]] = {}
    unknown = [False] * len(batch.completions)
    of_trainer = _values_of_trainer(reward, batch, settings)
    for name in reward.inputs:
        if name in of_trainer:
            shared[name] = of_trainer[name]
        elif name in (*OF_SETTINGS, *OF_BATCH):
            shared[name] = getattr(settings if name in OF_SETTINGS else batch, name)
        elif name not in SOMETIMES_UNKNOWN:
            by_completion[name] = _values(name, reward, batch, settings)
        else:
            values = getattr(batch, name) or [None] * len(batch.completions)
            if None in values and name in reward.defaults:
                continue  # the function's own default
            by_completion[name] = values
            unknown = [missing or value is None for missing, value in zip(unknown, values, strict=True)]
    _add_columns(shared, by_completion, reward, batch)
    if reward.takes_rest:
        shared |= of_trainer
        _add_rest(shared, by_completion, reward, batch, settings)
    return BoundArguments(shared, by_completion, unknown)


def find_unknown(reward: Reward, batch: ScoringBatch) -> str | None:
    """The name of a value that `reward` needs, and that is not known for a completion of `batch`, if there is one."""
    for name in reward.inputs:
        if name in SOMETIMES_UNKNOWN and name not in reward.defaults:
            values = getattr(batch, name)
            if values is None or None in values:
                return name
    return None


def _values_of_trainer(reward: Reward, batch: ScoringBatch, settings: RewardSettings) -> dict[str, Any]:
    """The values of TRL's trainer that are the same for all completions."""
    log = RewardLog(reward.name, batch, settings.logged_columns)
    return {"trainer_state": batch.trainer_state, "log_metric": log.log_metric, "log_extra": log.log_extra}


def _add_columns(
    shared: Mapping[str, Any], by_completion: dict[str, Sequence[Any]], reward: Reward, batch: ScoringBatch
) -> None:
    """Add the columns of the dataset that the parameters name, unless reward_args sets them."""
    optional = [name for name in reward.options if name in reward.defaults and name not in shared]
    present = batch.column_names() if optional else {}
    for name in [*reward.required, *(name for name in optional if name in present)]:
        if name not in shared:
            by_completion[name] = batch.column(name)


def _add_rest(
    shared: dict[str, Any],
    by_completion: dict[str, Sequence[Any]],
    reward: Reward,
    batch: ScoringBatch,
    settings: RewardSettings,
) -> None:
    """Add what TRL passes to every reward, for a function with **kwargs."""
    for name in ("prompts", "completions"):
        by_completion.setdefault(name, _values(name, reward, batch, settings))
    if batch.completion_ids is not None:
        by_completion["completion_ids"] = batch.completion_ids
    elif "completion_ids" not in reward.inputs:
        shared["completion_ids"] = UnknownValues("completion_ids")
    for name in batch.column_names():
        if name not in NOT_IN_REST and name not in shared and name not in by_completion:
            by_completion[name] = batch.column(name)


def _values(name: str, reward: Reward, batch: ScoringBatch, settings: RewardSettings) -> Sequence[Any]:
    """(N,) the values of an input that every batch has."""
    match name.removesuffix("s"):
        case "completion" if reward.messages:
            return [[{"role": "assistant", "content": text}] for text in batch.completions]
        case "completion":
            return batch.completions
        case "gold":
            return [example.gold for example in batch.examples]
        case "question":
            return [example.question for example in batch.examples]
        case "example":
            return batch.examples
        case _:
            return [build_messages(example.prompt, settings.system_prompt) for example in batch.examples]
