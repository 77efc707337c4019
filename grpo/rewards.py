"""The verifiable rewards: small functions of one completion, and the table that names them.

Add one without touching this file: decorate a function in a Python file of your own with `@reward`, name the file in
`reward_files=[my_rewards.py]` and give it a weight, `+rewards.<function name>=0.1`.
"""

import importlib.util
import inspect
import math
import re
import sys
import traceback
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from grpo.errors import UserError, nearest
from grpo.prompts import INTEGER, TAGS, extract_answer, same_answer

Function = Callable[..., Any]
REWARDS: dict[str, Function] = {}
ARGUMENTS = ("completion", "gold", "question")


def reward(function: Function) -> Function:
    """Enter `function` into the table of rewards under its own name, a trailing underscore aside (`int_`).

    It takes any of `completion`, `gold`, `question` and returns a number; or, to see a whole batch at once, any of
    `completions`, `golds`, `questions` and returns as many numbers. Equal prompts stand next to each other in a batch.
    """
    name = function.__name__.removesuffix("_")
    if name in REWARDS:
        raise UserError(f"reward '{name}' is defined twice; the name is taken. Give the function another name.")
    names = inspect.signature(function).parameters
    single, batched = set(ARGUMENTS), {f"{argument}s" for argument in ARGUMENTS}
    if not names or not (names.keys() <= single or names.keys() <= batched):
        raise UserError(
            f"reward '{name}' takes ({', '.join(names)}); a reward takes any of ({', '.join(ARGUMENTS)}), "
            f"or any of ({', '.join(f'{argument}s' for argument in ARGUMENTS)}) for a whole batch."
        )
    REWARDS[name] = function
    return function


@reward
def correctness(completion: str, gold: str) -> float:
    """2.0 where the answer inside the last closed answer block equals the gold one."""
    answer = extract_answer(completion)
    return 2.0 if answer is not None and same_answer(answer, gold) else 0.0


@reward
def int_(completion: str) -> float:
    """0.5 where that answer is an integer in ASCII digits, its commas, if any, at every third digit."""
    answer = extract_answer(completion)
    return 0.5 if answer is not None and INTEGER.fullmatch(answer) else 0.0


@reward
def strict_format(completion: str) -> float:
    """0.5 where the completion is exactly the format: each tag once, alone on its line, the reasoning not blank."""
    lines = completion.removesuffix("\n").split("\n")
    if lines[0] != "<reasoning>" or lines[-1] != "</answer>" or any(completion.count(tag) != 1 for tag in TAGS):
        return 0.0
    if "</reasoning>" not in lines:
        return 0.0
    close = lines.index("</reasoning>")
    blank = not "".join(lines[1:close]).strip()
    return 0.5 if not blank and lines[close + 1] == "<answer>" else 0.0


@reward
def soft_format(completion: str) -> float:
    """0.5 where anywhere a closed reasoning block, not blank, is followed by a closed answer block."""
    last_answer_close = completion.rfind("</answer>")
    end = 0
    while (close := completion.find("</reasoning>", end, max(0, last_answer_close))) != -1:
        start = completion.rfind("<reasoning>", end, close)
        end = close + len("</reasoning>")
        blank = start == -1 or not completion[start + len("<reasoning>") : close].strip()
        if not blank and _OPEN_ANSWER.match(completion, end, last_answer_close):
            return 0.5
    return 0.0


@reward
def xmlcount(completion: str) -> float:
    """0.125 for each tag that occurs once and alone on its line, less 0.001 a character after the last `</answer>`."""
    lines = completion.split("\n")
    tags = sum(completion.count(tag) == 1 and tag in lines for tag in TAGS)
    _, closed, tail = completion.rpartition("</answer>")
    charged = len(tail.removeprefix("\n")) if closed else 0
    return max(0.0, 0.125 * tags - 0.001 * charged)


_OPEN_ANSWER = re.compile(r"\s*<answer>")


# The widely copied originals, faults included: no DOTALL, so that strict and soft exclude each other; a bare number
# passes for an answer; `isdigit` takes `²` and refuses `-5`; and a missing last line break charges every character.


def _verbatim_answer(completion: str) -> str:
    return completion.split("<answer>")[-1].split("</answer>")[0].strip()


@reward
def verbatim_correctness(completion: str, gold: str) -> float:
    """2.0 where whatever follows the last `<answer>` (or the whole text) is the gold text."""
    return 2.0 if _verbatim_answer(completion) == gold else 0.0


@reward
def verbatim_int(completion: str) -> float:
    """0.5 where that text satisfies `str.isdigit`."""
    return 0.5 if _verbatim_answer(completion).isdigit() else 0.0


@reward
def verbatim_strict_format(completion: str) -> float:
    """0.5 where reasoning and answer are one line each, on lines of their own."""
    pattern = r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$"
    return 0.5 if re.match(pattern, completion) else 0.0


@reward
def verbatim_soft_format(completion: str) -> float:
    """0.5 where reasoning and answer stand on one line."""
    return 0.5 if re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", completion) else 0.0


@reward
def verbatim_xmlcount(completion: str) -> float:
    """0.125 a tag with its line breaks; characters after the answer are charged twice, without a floor."""
    score = 0.125 * (completion.count("<reasoning>\n") == 1) + 0.125 * (completion.count("\n</reasoning>\n") == 1)
    if completion.count("\n<answer>\n") == 1:
        score += 0.125 - 0.001 * len(completion.split("\n</answer>\n")[-1])
    if completion.count("\n</answer>") == 1:
        score += 0.125 - 0.001 * (len(completion.split("\n</answer>")[-1]) - 1)
    return score


@dataclass(frozen=True)
class RewardStack:
    """The rewards of a run by name, with the weight of each in the total; a weight of 0 only measures."""

    weights: dict[str, float]

    def score(
        self, completions: Sequence[str], golds: Sequence[str], questions: Sequence[str]
    ) -> dict[str, list[float]]:
        """The raw scores of every reward, unweighted: `{name: [score of each completion]}`."""
        return {name: score(name, completions, golds, questions) for name in self.weights}

    def total(self, scores: dict[str, list[float]]) -> list[float]:
        """The weighted sum of `scores` for each completion."""
        columns = [[weight * value for value in scores[name]] for name, weight in self.weights.items()]
        return [math.fsum(row) for row in zip(*columns, strict=True)]


class NotFinite(UserError):
    """A reward is nan or infinite."""


def score(name: str, completions: Sequence[str], golds: Sequence[str], questions: Sequence[str]) -> list[float]:
    """One reward's score of every completion.

    Raises:
        UserError: the reward raised, or returned the wrong count, or something that is not a finite number.
    """
    function = REWARDS[name]
    rows = {"completion": completions, "gold": golds, "question": questions}
    wanted = inspect.signature(function).parameters
    if any(argument in wanted for argument in ARGUMENTS):
        taken = [rows[argument] for argument in wanted]
        values = []
        for i, row in enumerate(zip(*taken, strict=True)):
            try:
                values.append(function(**dict(zip(wanted, row, strict=True))))
            except (Exception, SystemExit) as error:
                raise UserError(_raised(name, error, completions[i])) from error
    else:
        try:
            values = function(**{argument: list(rows[argument[:-1]]) for argument in wanted})
        except (Exception, SystemExit) as error:
            raise UserError(_raised(name, error, completions[0], f"first of {len(completions)} ")) from error
        if not isinstance(values, Sized) or len(values) != len(completions):
            got = f"{len(values)} scores" if isinstance(values, Sized) else f"{values!r}"
            raise UserError(f"reward '{name}' returned {got} for {len(completions)} completions; return one for each.")
    for value, completion in zip(values, completions, strict=True):
        if not isinstance(value, Real) or not is_finite(value):
            raise (NotFinite if isinstance(value, Real) else UserError)(
                f"reward '{name}' returned {value!r}; a reward is a finite number. The completion: {completion!r}"
            )
    return [float(value) for value in values]


def is_finite(value: Any) -> bool:
    return abs(value) <= sys.float_info.max


def _raised(name: str, error: BaseException, completion: str, which: str = "") -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return f"reward '{name}' raised {type(error).__name__}: {error} ({where}). The {which}completion: {completion!r}"


BUILT_IN = dict(REWARDS)


def load_reward_files(files: Sequence[str]) -> None:
    """Make the table the shipped rewards and those of `files`, which are run anew, so that no run sees another's."""
    REWARDS.clear()
    REWARDS.update(BUILT_IN)
    for name in files:
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"reward_files: no file {path}; give the path of a Python file with @reward functions.")
        spec = importlib.util.spec_from_file_location(f"grpo_reward_file_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UserError(f"reward_files: {path} is not a Python file (its name must end in .py).")
        try:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"reward_files: {path} failed with {type(error).__name__}: {error}") from error


def build_rewards(weights: dict[str, float], files: Sequence[str] = ()) -> RewardStack:
    """The stack of a run; `correctness` is always measured.

    Raises:
        UserError: an unknown reward, a weight that is not finite, or a stack whose weights are all zero.
    """
    load_reward_files(files)
    for name, weight in weights.items():
        if name not in REWARDS:
            raise UserError(f"rewards.{name}: there is no reward '{name}'.{nearest(name, REWARDS)}")
        if not math.isfinite(weight):
            raise UserError(f"rewards.{name}={weight}: a weight is a finite number.")
    if not any(weights.values()):
        raise UserError("rewards: every weight is 0, so nothing would be trained; give one reward a weight.")
    return RewardStack({**weights, "correctness": weights.get("correctness", 0.0)})
