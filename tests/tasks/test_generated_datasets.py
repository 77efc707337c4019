"""Countdown, and tasks of reasoning_gym: their problems, their splits, and the stack of rewards that they choose."""

from fractions import Fraction
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest
from hydra import compose as hydra_compose

from grpo.config.composition import compose, config_search_path
from grpo.core.errors import UserError
from grpo.rewards.stack import build_rewards
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.splits import Splits, load_splits
from tests.helpers.scoring import is_right

# The interface of reasoning_gym that is used, for machines without the package.
STAND_IN = """
class Task:
    def __init__(self, seed, size):
        self.seed, self.size = seed, size

    def __getitem__(self, index):
        number = self.seed + index
        return {"question": f"{number} + 1 = ?", "answer": str(number + 1), "metadata": {"pair": (number, 1)}}

    def score_answer(self, answer, entry):
        if answer == "exit":
            raise SystemExit
        return 1.0 if answer == entry["answer"] else 0.1


DATASETS = {"chain_sum": Task, "composite": None}


def create_dataset(name, **settings):
    assert name != "composite", "Must specify at least one dataset"
    return DATASETS[name](**settings)
"""


@pytest.fixture
def reasoning_gym(tmp_path: Path, monkeypatch) -> None:
    """reasoning_gym: the package if it is installed, else a module with its interface."""
    if find_spec("reasoning_gym") is not None:
        return
    package = tmp_path / "reasoning_gym"
    package.mkdir()
    (package / "factory.py").write_text(STAND_IN)
    (package / "__init__.py").write_text("from .factory import create_dataset\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of the process of the verifiers
    monkeypatch.syspath_prepend(tmp_path)


def splits(*overrides: str, validation: bool = True) -> Splits:
    return load_splits(compose([*overrides]).data, validation)


def values(numbers: tuple[Fraction, ...]) -> set[Fraction]:
    """The values of all expressions of `numbers`."""
    if len(numbers) == 1:
        return set(numbers)
    found = set()
    for left, right in combinations(range(len(numbers)), 2):
        a, b = numbers[left], numbers[right]
        rest = tuple(number for i, number in enumerate(numbers) if i not in (left, right))
        for value in {a + b, a - b, b - a, a * b} | ({a / b} if b else set()) | ({b / a} if a else set()):
            found |= values((*rest, value))
    return found


def test_problems_of_countdown_have_a_solution_and_their_splits_share_no_numbers() -> None:
    sizes = ["data.train_problems=300", "data.eval_problems=60", "data.validation_problems=40"]
    loaded = splits("data=countdown", *sizes)
    assert [len(part) for part in (loaded.train, loaded.held_out, loaded.validation)] == [300, 60, 40]
    problems = [*loaded.train, *loaded.held_out, *loaded.validation]
    assert len({tuple(sorted(problem.columns["numbers"])) for problem in problems}) == 400
    for problem in problems:
        numbers, target = problem.columns["numbers"], problem.columns["target"]
        assert 3 <= len(numbers) <= 4 and max(numbers) <= 99 and 1 <= target <= 100 and problem.gold == str(target)
        ANSWER_TYPES["equation"].check_reference(problem)
    for problem in problems[:40]:
        assert problem.columns["target"] in values(tuple(map(Fraction, problem.columns["numbers"])))
    assert splits("data=countdown", *sizes).train == loaded.train
    assert splits("data=countdown", *sizes, "data.seed=1").train != loaded.train
    assert problems[0].question.startswith("Using the numbers [") and "exactly once" in problems[0].question


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.min_numbers=5"], "data.min_numbers=5: must not exceed data.max_numbers=4."),
        (["data.max_target=50"], "data.max_operand=99: must not exceed data.max_target=50."),
        (["data.max_target=null"], "data.max_target=null: data=countdown needs a value there."),
        (
            ["data.max_operand=10", "data.max_numbers=3"],
            "data.train_problems=5000: at most 96 such problems are generated",
        ),
        (["data.max_steps=2"], "data.max_steps=2: data=countdown has no such setting"),
        (["data.numbers=2"], "data.numbers"),
    ],
)
def test_settings_of_countdown(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        compose(["data=countdown", *overrides])
    assert message in str(error.value)


def test_a_dataset_chooses_rewards_unless_they_are_typed_or_set_by_an_experiment() -> None:
    for dataset in ("countdown", "reasoning_gym", "math", "multiple_choice"):
        assert "int" not in compose([f"data={dataset}"]).rewards
        assert "int" not in compose([f"data={dataset}", "experiment=sweep_lr"]).rewards
        assert compose([f"data={dataset}", "rewards=default"]).rewards["int"] == 1.0
        assert "verbatim_int" in compose([f"data={dataset}", "experiment=gsm8k_original"]).rewards
    assert compose([]).rewards["int"] == 1.0


@pytest.mark.parametrize("command", ["evaluate", "plan", "preflight"])
def test_other_commands_have_the_rewards_of_the_dataset(command: str) -> None:
    with config_search_path():
        assert "int" not in hydra_compose(command, ["data=countdown"]).rewards
        assert "int" in hydra_compose(command, ["data=countdown", "rewards=default"]).rewards


def test_a_task_of_reasoning_gym(reasoning_gym: None) -> None:
    overrides = ["data=reasoning_gym", "data.train_problems=6", "data.eval_problems=3", "data.validation_problems=2"]
    loaded = splits(*overrides)
    questions = [problem.question for part in (loaded.train, loaded.held_out, loaded.validation) for problem in part]
    assert len(set(questions)) == len(questions) == 11
    first, second = loaded.held_out[:2]
    kind = ANSWER_TYPES["reasoning_gym"]
    assert kind.matches(first.gold, first) and not kind.matches(second.gold, first)
    assert not kind.matches("exit", first) and kind.matches(second.gold, second)
    for task, words in (("chain_sums", "has no such task. Did you mean 'chain_sum'?"), ("composite", "Must specify")):
        with pytest.raises(UserError, match=words):
            splits(*overrides, f"data.task={task}")


def test_without_reasoning_gym(monkeypatch) -> None:
    monkeypatch.setattr("grpo.core.packages.find_spec", lambda name: None)
    message = "needs the reasoning-gym package: pip install reasoning-gym, or 'grpo.reasoning-gym.'"
    with pytest.raises(UserError, match=f"data=reasoning_gym: {message}"):
        splits("data=reasoning_gym")
    with pytest.raises(UserError, match=f"data.answer=reasoning_gym: {message}"):
        build_rewards({"correctness": 1.0}, answer_type="reasoning_gym")
    with pytest.raises(UserError, match="data.answer=math: needs the math-verify package: pip install math-verify"):
        build_rewards({"correctness": 1.0}, answer_type="math")
    with pytest.raises(
        UserError, match="data.answer=reasoning_gym needs the columns of data=reasoning_gym: there is no column 'task'"
    ):
        is_right("1", "1", "reasoning_gym")
