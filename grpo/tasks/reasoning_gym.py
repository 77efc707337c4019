"""Problems of reasoning_gym, a package of generated tasks: the loader, and the answer type that asks its verifiers.

The loader is called through `LOADERS` of grpo/tasks/datasets.py. A verifier may run without end on text that a policy
wrote, so it runs in a process with limits (grpo/tasks/verifier_program.py). That process makes the problem again from
its task, seed, size and index, the columns of its row. This module knows no reward and no prompt.
"""

import json
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, ClassVar

from grpo.config.schema import DataConfig
from grpo.core.errors import UserError, first_line, no_column, suggest_name
from grpo.core.packages import require_package
from grpo.tasks.answer_type import FormatFirstAnswer, last_line
from grpo.tasks.example import Example
from grpo.tasks.normalized_text import normalized_text
from grpo.tasks.verifier_process import VerifierProcess

NO_REFERENCE = "(any answer that the verifier accepts)"  # of tasks that give none
COLUMNS = ("task", "task_seed", "task_size", "index")
_VERIFIER = VerifierProcess("reasoning_gym")


def load_reasoning_gym(config: DataConfig, split: str, notes: list[str]) -> list[Example]:
    """The problems of a split: held-out problems come first in the task's sequence, then validation, then training.

    Raises:
        UserError: the package is not installed, or it has no such task.
    """
    assert config.task is not None and config.train_problems is not None
    assert config.eval_problems is not None and config.validation_problems is not None
    require_package("data=reasoning_gym", "reasoning-gym", "reasoning-gym")
    sizes = {"test": config.eval_problems, "validation": config.validation_problems, "train": config.train_problems}
    size = sum(sizes.values())
    problems = _create_task(config.task, config.seed, size)
    start = sum(list(sizes.values())[: list(sizes).index(split)])
    return [
        _make_example(problems[index], dict(zip(COLUMNS, (config.task, config.seed, size, index), strict=True)))
        for index in range(start, start + sizes[split])
    ]


def _create_task(task: str, seed: int, size: int) -> Any:
    from reasoning_gym.factory import DATASETS, create_dataset

    if task not in DATASETS:
        raise UserError(f"data.task={task}: reasoning_gym has no such task.{suggest_name(task, DATASETS)}")
    try:
        return create_dataset(task, seed=seed, size=size)
    except (AssertionError, ValueError, TypeError) as error:
        raise UserError(f"data.task={task}: reasoning_gym cannot make this task: {first_line(error)}.") from error


def _make_example(entry: dict[str, Any], columns: dict[str, Any]) -> Example:
    gold = NO_REFERENCE if entry["answer"] is None else str(entry["answer"])
    metadata = json.dumps(entry["metadata"], default=str)
    return Example(entry["question"].strip(), gold, columns=columns | {"metadata": metadata})


class ReasoningGymAnswer(FormatFirstAnswer):
    """The verifier of the problem's task gives the answer its full score, 1."""

    name: ClassVar[str] = "reasoning_gym"
    rule: ClassVar[str] = "has the full score of the task's own verifier"
    anywhere: ClassVar[str] = "the answer block, else the last line"
    anywhere_label: ClassVar[str] = "last line"
    package: ClassVar[tuple[str, str] | None] = ("reasoning-gym", "reasoning-gym")

    def find_answer(self, completion: str) -> str | None:
        return last_line(completion)

    def matches(self, answer: str, example: Example) -> bool:
        if missing := [name for name in COLUMNS if name not in example.columns]:
            columns = no_column(example.columns, missing[0])
            raise UserError(f"data.answer=reasoning_gym needs the columns of data=reasoning_gym: there is {columns}.")
        return _score(*(example.columns[name] for name in COLUMNS), answer) >= 1

    def voting_key(self, answer: str) -> Hashable:
        return normalized_text(answer)


@lru_cache(maxsize=65_536)
def _score(task: str, seed: int, size: int, index: int, answer: str) -> float:
    return float(_VERIFIER.ask([task, seed, size, index, answer]) or 0.0)
