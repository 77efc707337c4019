"""The rewards of a run with their weights: `RewardStack`, and `build_rewards`, which makes one from the configuration.

`rewards_of` is called once per run by training, the evaluation and `grpo.audit`, which all score with the same
functions. It knows nothing of advantages and training.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from operator import mul
from typing import Any

from grpo.config.limits import MAX_WEIGHT
from grpo.config.schema import DEFAULT_CORRECT_BY, AnyConfig, AuditConfig
from grpo.config.weights import Weight, WeightSchedule, format_weight, format_weights, parse_weight
from grpo.core.errors import UserError, no_column, shorten, suggest_name
from grpo.rewards import verbatim
from grpo.rewards.binding import RewardSettings
from grpo.rewards.execution import DEFAULT_EXECUTION, ExecutionSettings, RewardExecutor
from grpo.rewards.registry import REWARDS
from grpo.rewards.reward_files import REWARD_SOURCES, load_reward_files
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.signature import RESERVED
from grpo.tasks.answer_format import DEFAULT_FORMAT, AnswerFormat, answer_format_of
from grpo.tasks.answer_type import AnswerType
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.example import Example


@dataclass(frozen=True)
class RewardStack:
    """The rewards of a run and their weights in the total; a reward with weight 0 is measured only.

    Attributes:
        weights: reward -> weight; if the weight has a schedule, its value at the end of the schedule.
        correct_by: the reward whose positive value means that a completion is right.
        schedules: reward -> schedule, of the rewards whose weight changes during training.
        settings: what the rewards receive from the settings of the run.
        executor: it calls the rewards.
    """

    weights: dict[str, float]
    correct_by: str = DEFAULT_CORRECT_BY
    schedules: dict[str, WeightSchedule] = field(default_factory=dict)
    settings: RewardSettings = field(default_factory=lambda: RewardSettings(ANSWER_TYPES["number"]))
    executor: RewardExecutor = field(default_factory=RewardExecutor, compare=False)

    @property
    def answer_type(self) -> AnswerType:
        """What counts as a right answer, data.answer."""
        return self.settings.answer_type

    @property
    def answer_format(self) -> AnswerFormat:
        """How a completion shows its reasoning and its answer."""
        return self.settings.answer_format

    @property
    def trained(self) -> list[str]:
        """The rewards that have a weight other than 0 at some step of training."""
        return [
            name
            for name, weight in self.weights.items()
            if weight or (name in self.schedules and self.schedules[name].start)
        ]

    @property
    def may_read_ids(self) -> bool:
        """Whether a reward may read the token ids of completions."""
        rewards = [REWARDS[name] for name in self.weights]
        return any(reward.takes_rest or "completion_ids" in reward.inputs for reward in rewards)

    @property
    def taken_columns(self) -> list[tuple[str, str]]:
        """(reward, column) for each column of the dataset that a reward cannot do without."""
        arguments = self.settings.arguments
        return [
            (name, column)
            for name in self.weights
            for column in REWARDS[name].required
            if column not in arguments.get(name, ())
        ]

    def weights_at(self, step: int, last_step: int) -> dict[str, float]:
        """The weights in force after `step` of `last_step` optimizer steps; they depend on nothing else."""
        return self.weights | {name: schedule.at(step, last_step) for name, schedule in self.schedules.items()}

    def with_weights(self, weights: dict[str, float]) -> "RewardStack":
        """The same rewards with constant weights."""
        return replace(self, weights=weights, schedules={})

    def stages(self) -> dict[str, "RewardStack"]:
        """The stacks of constant weights that show what this one pays for, by the time at which it has these weights.

        Without schedules it is this stack, with an empty title. With schedules there is one stack with the weights at
        their start and one with those at their end; a stack in which every weight is zero is left out.
        """
        if not self.schedules:
            return {"": self}
        start, end = self.with_weights(self.weights_at(0, 1)), self.with_weights(self.weights)
        stages = {"at the start of training": start, "at the end of the schedules": end}
        return {title: stack for title, stack in stages.items() if stack.trained}

    def describe_weights(self) -> str:
        """The weights for people: `correctness 1, xmlcount 1 to 0 until 0.5`."""
        return format_weights(self.weights | self.schedules)

    def score(self, batch: ScoringBatch) -> dict[str, list[float]]:
        """The raw, unweighted scores, nan for an abstention: `{reward: [score of each completion]}`."""
        return {name: self.score_one(name, batch) for name in self.weights}

    def score_one(self, name: str, batch: ScoringBatch) -> list[float]:
        """The raw scores of one reward, which need not be in the stack."""
        return self.executor.score(name, batch, self.settings)

    def total(self, scores: dict[str, list[float]]) -> list[float]:
        """The sum of `scores`, weighted with `weights`, for each completion, without the rewards that abstain.

        It is nan if all rewards with a weight abstain, as in TRL.
        """
        weights = list(self.weights.values())
        return [_weighted_sum(weights, row) for row in zip(*(scores[name] for name in self.weights), strict=True)]

    def check_columns(self, examples: Iterable[Example], data: str) -> None:
        """Check that each column of the dataset that a reward takes is in `examples`; `data` names them in messages.

        Raises:
            UserError: there is no such column.
        """
        taken = self.taken_columns
        columns = list(dict.fromkeys(name for example in examples for name in example.columns)) if taken else []
        for name, column in taken:
            if column not in columns:
                close = get_close_matches(column, [*columns, *RESERVED], n=1, cutoff=0.8)
                raise UserError(
                    f"rewards.{name}: the reward takes '{column}', and {data} has {no_column(columns, column)}."
                    + "".join(f" Did you mean '{other}'?" for other in close)
                    + f" For a value of your own, set reward_args.{name}.{column}=VALUE."
                )


def _weighted_sum(weights: Sequence[float], scores: Sequence[float]) -> float:
    total = math.fsum(map(mul, weights, scores))
    if not math.isnan(total):
        return total
    scored = [(weight, score) for weight, score in zip(weights, scores, strict=True) if not math.isnan(score)]
    return math.fsum(weight * score for weight, score in scored) if any(weight for weight, _ in scored) else math.nan


def build_rewards(
    weights: Mapping[str, Any],
    files: Sequence[str] = (),
    answer_type: str = "number",
    correct_by: str = DEFAULT_CORRECT_BY,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
    system_prompt: str = "",
    answer_format: AnswerFormat = DEFAULT_FORMAT,
    execution: ExecutionSettings = DEFAULT_EXECUTION,
    max_completion_length: int | None = None,
) -> RewardStack:
    """The rewards of a run, after loading `files`. `correct_by` is measured in any case.

    Args:
        weights: the settings `rewards`: reward -> a number, or the mapping of a schedule.
        arguments: reward -> parameter -> value, reward_args.
        system_prompt: it opens the prompts that rewards in TRL's form receive.
        answer_format: how a completion shows its reasoning and its answer.
        execution: how the rewards are executed.
        max_completion_length: what a reward receives under this name.

    Raises:
        UserError: a reward is unknown, a weight is not finite or too large, all weights are always zero, a value of
            `arguments` fits no parameter, a reward cannot pay for the format, or a package that the answer type needs
            is not installed.
    """
    ANSWER_TYPES[answer_type].check_package()
    load_reward_files(files)
    parsed = {name: parse_weight(setting) for name, setting in weights.items()}
    for name, weight in parsed.items():
        _check_reward(name, weight)
    if correct_by not in REWARDS:
        raise UserError(
            f"correct_by={correct_by}: there is no reward '{correct_by}'.{suggest_name(correct_by, REWARDS)}"
        )
    if "completion_ids" in REWARDS[correct_by].inputs:
        raise UserError(
            f"correct_by={correct_by}: the reward takes completion_ids, which files of completions do not have; name "
            "one that takes the text."
        )
    schedules = {name: weight for name, weight in parsed.items() if isinstance(weight, WeightSchedule)}
    final = {name: weight.end if isinstance(weight, WeightSchedule) else weight for name, weight in parsed.items()}
    measured = {**final, correct_by: final.get(correct_by, 0.0)}
    answers = ANSWER_TYPES[answer_type].in_format(answer_format)
    settings = RewardSettings(answers, arguments or {}, system_prompt, max_completion_length)
    _check_arguments(settings.arguments)
    executor = RewardExecutor(execution, files)
    executor.check(measured)
    stack = RewardStack(measured, correct_by, schedules, settings, executor)
    if not stack.trained:
        raise UserError(
            "rewards: every weight is 0, so there is nothing to train on; give at least one reward a weight."
        )
    _check_verbatim(stack)
    return stack


def _check_reward(name: str, weight: Weight) -> None:
    """
    Raises:
        UserError: there is no such reward, or its weight is not finite or too large.
    """
    if name not in REWARDS:
        for file in REWARD_SOURCES.values():
            if name in file.functions():
                raise UserError(f"rewards.{name}: in {file.path}, {name} has no decorator; write @reward above it.")
        own = "" if REWARD_SOURCES else " One of your own also needs reward_files=[FILE.py]."
        raise UserError(f"rewards.{name}: there is no reward '{name}'.{suggest_name(name, REWARDS)}{own}")
    values = [weight.start, weight.end] if isinstance(weight, WeightSchedule) else [weight]
    if not all(abs(value) <= MAX_WEIGHT for value in values):
        raise UserError(
            f"rewards.{name}={format_weight(weight)}: a weight is a finite number between -{MAX_WEIGHT:g} and "
            f"{MAX_WEIGHT:g}."
        )


def _check_verbatim(stack: RewardStack) -> None:
    """
    Raises:
        UserError: a reward that reads the default tags is paid for another format.
    """
    for name in (*stack.trained, stack.correct_by):
        if REWARDS[name].function.__module__ == verbatim.__name__ and stack.answer_format != DEFAULT_FORMAT:
            raise UserError(
                f"{stack.answer_format.setting}: the reward {name} reads <reasoning> and <answer> only and would pay "
                "nothing; use rewards=default, or format=tags in its place."
            )


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: `reward_args` names an unknown reward, or a value fits no parameter.
    """
    for name, values in arguments.items():
        if name not in REWARDS:
            raise UserError(f"reward_args.{name}: there is no reward '{name}'.{suggest_name(name, REWARDS)}")
        if not isinstance(values, Mapping):
            raise UserError(f"reward_args.{name}={shorten(values)}: name the parameter, reward_args.{name}.NAME=VALUE.")
        REWARDS[name].check_arguments(values)


def rewards_of(config: AnyConfig) -> RewardStack:
    """The rewards that the settings of a command describe.

    Raises:
        UserError: as `build_rewards`.
    """
    return build_rewards(
        config.rewards,
        config.reward_files,
        config.data.answer,
        config.correct_by,
        config.reward_args,
        config.system_prompt,
        answer_format_of(config.format),
        ExecutionSettings.from_config(config),
        None if isinstance(config, AuditConfig) else config.max_completion_length,
    )
