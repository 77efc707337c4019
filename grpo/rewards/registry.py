"""The verifiable rewards: small functions of one completion, and the table that names them.

Add one without touching this file: decorate a function in a Python file of your own with `@reward`, name the file in
`reward_files=[my_rewards.py]` and give it a weight, `+rewards.<function name>=0.1`.
"""

import inspect
import math
import re
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError, nearest
from grpo.core.signals import Stopped
from grpo.rewards.user_code import UserFile, unchanged
from grpo.tasks.answers import INTEGER, TAGS, extract_answer, same_answer

Function = Callable[..., Any]
REWARDS: dict[str, Function] = {}
ARGUMENTS = ("completion", "gold", "question")
RULE = "answer_match"  # the argument that tells a reward how answers are compared


def reward(function: Function) -> Function:
    """Enter `function` into the table of rewards under its own name, a trailing underscore aside (`int_`).

    It takes any of `completion`, `gold`, `question` and returns a number; or, to see a whole batch at once, any of
    `completions`, `golds`, `questions` and returns as many numbers. Equal prompts stand next to each other in a batch.
    Either may also take `answer_match`, the rule that `grpo.tasks.answers.same_answer` compares answers by.
    """
    name = function.__name__.removesuffix("_")
    if name in REWARDS:
        raise UserError(f"reward '{name}' is defined twice; the name is taken. Give the function another name.")
    names = inspect.signature(function).parameters
    single, batched = set(ARGUMENTS), {f"{argument}s" for argument in ARGUMENTS}
    read = names.keys() - {RULE}
    if not read or not (read <= single or read <= batched):
        raise UserError(
            f"reward '{name}' takes ({', '.join(names)}); a reward takes any of ({', '.join(ARGUMENTS)}), "
            f"or any of ({', '.join(f'{argument}s' for argument in ARGUMENTS)}) for a whole batch."
        )
    REWARDS[name] = function
    return function


@reward
def correctness(completion: str, gold: str, answer_match: str = "number") -> float:
    """2.0 where the answer inside the last closed answer block equals the gold one by the rule `answer_match`."""
    answer = extract_answer(completion)
    return 2.0 if answer is not None and same_answer(answer, gold, answer_match) else 0.0


@reward
def int_(completion: str) -> float:
    """0.5 where that answer is an integer in ASCII digits, its commas, if any, at every third digit."""
    answer = extract_answer(completion)
    return 0.5 if answer is not None and INTEGER.fullmatch(answer) else 0.0


@reward
def strict_format(completion: str) -> float:
    """0.5 where the completion is exactly the format: each tag once, alone on its line, neither block blank."""
    lines = completion.removesuffix("\n").split("\n")
    if lines[0] != "<reasoning>" or lines[-1] != "</answer>" or any(completion.count(tag) != 1 for tag in TAGS):
        return 0.0
    if "</reasoning>" not in lines:
        return 0.0
    close = lines.index("</reasoning>")
    if lines[close + 1] != "<answer>":
        return 0.0
    reasoning, answer = lines[1:close], lines[close + 2 : -1]
    return 0.5 if "".join(reasoning).strip() and "".join(answer).strip() else 0.0


@reward
def soft_format(completion: str) -> float:
    """0.5 where anywhere a closed reasoning block is followed by a closed answer block, and neither is blank."""
    last_answer_close = completion.rfind("</answer>")
    last_end, end = last_answer_close + len("</answer>"), 0
    while (close := completion.find("</reasoning>", end, max(0, last_answer_close))) != -1:
        start = completion.rfind("<reasoning>", end, close)
        end = close + len("</reasoning>")
        blank = start == -1 or not completion[start + len("<reasoning>") : close].strip()
        if not blank and _OPEN_ANSWER.match(completion, end, last_end):
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


_OPEN_ANSWER = re.compile(r"\s*<answer>(?!\s*</answer>)")


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
    """The rewards of a run by name, with the weight of each in the total; a weight of 0 only measures.

    Attributes:
        weights: name -> weight.
        answer_match: the rule by which an answer is compared with its gold answer, data.answer_match.
    """

    weights: dict[str, float]
    answer_match: str = "number"

    def score(
        self, completions: Sequence[str], golds: Sequence[str], questions: Sequence[str]
    ) -> dict[str, list[float]]:
        """The raw scores of every reward, unweighted: `{name: [score of each completion]}`."""
        return {name: score(name, completions, golds, questions, self.answer_match) for name in self.weights}

    def total(self, scores: dict[str, list[float]]) -> list[float]:
        """The weighted sum of `scores` for each completion."""
        columns = [[weight * value for value in scores[name]] for name, weight in self.weights.items()]
        return [math.fsum(row) for row in zip(*columns, strict=True)]


class NotFinite(UserError):
    """A reward is nan, infinite, or too large for float32."""


# Collections that hold no scores, or hold them in no order.
NO_SCORES = (Mapping, Set, str, bytes, bytearray, memoryview)
# Advantages are computed in float32, which squares weighted scores: 1e12 * 1e4 leaves room for the sum of a batch.
MOST_SCORE, MOST_WEIGHT = 1e12, 1e4


def score(
    name: str,
    completions: Sequence[str],
    golds: Sequence[str],
    questions: Sequence[str],
    answer_match: str = "number",
) -> list[float]:
    """One reward's score of every completion.

    A reward from a file leaves this process unchanged, and draws its random numbers from the completions:
    a run that is repeated or resumed gets the same scores.

    Raises:
        UserError: the reward raised, or returned the wrong count, or something that is not a finite number.
    """
    columns = {"completion": completions, "gold": golds, "question": questions}
    if name in BUILT_IN:
        return _score(name, columns, answer_match)
    file, seed = SOURCES.get(name), zlib.crc32("\0".join(completions).encode("utf-8", "replace"))
    try:
        with unchanged(seed), file.imports() if file else nullcontext():
            return _score(name, columns, answer_match)
    except OSError as error:
        raise UserError(f"reward '{name}' changed this process, which cannot be restored: {error}.") from error


def _score(name: str, columns: dict[str, Sequence[str]], answer_match: str) -> list[float]:
    function, completions = REWARDS[name], columns["completion"]
    taken = inspect.signature(function).parameters
    wanted = [argument for argument in taken if argument != RULE]
    if RULE in taken:
        function = partial(function, answer_match=answer_match)
    values: list[Any] = []
    if any(argument in wanted for argument in ARGUMENTS):
        with _named(name, completions, values):
            for row in zip(*(columns[argument] for argument in wanted), strict=True):
                values.append(function(**dict(zip(wanted, row, strict=True))))
    else:
        with _named(name, completions, values, f"first of {len(completions)} "):
            returned = function(**{argument: list(columns[argument[:-1]]) for argument in wanted})
            shape = getattr(returned, "shape", (None,))
            ordered = isinstance(returned, Sized) and not isinstance(returned, NO_SCORES)
            listed = ordered and len(shape) == 1
            values.extend(returned if listed else ())
        if not listed or len(values) != len(completions):
            got = f"{len(values)} scores" if listed else _shown(returned)
            raise UserError(
                f"reward '{name}' returned {got} for {len(completions)} completions; return a list with one for each."
            )
    numbers: list[float | None] = []
    with _named(name, completions, numbers):
        for value in values:
            numbers.append(_number(value))
    return [_checked(name, *each) for each in zip(numbers, values, completions, strict=True)]


def _number(value: Any) -> float | None:
    """A number of any type as a float, infinite if it is too large for one; None if `value` is not a number."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = None if getattr(value, "mask", False) else value.item()  # of numpy or torch; a masked one has no value
    try:
        return float(value) if isinstance(value, Real | Decimal) else None
    except OverflowError:
        return math.inf


def _checked(name: str, number: float | None, value: Any, completion: str) -> float:
    """The score `number`, made from `value`.

    Raises:
        UserError: it is not a number.
        NotFinite: it is nan, infinite or too large.
    """
    if number is not None and abs(number) <= MOST_SCORE:
        return number
    rule = "a reward is a finite number"
    if number is not None and math.isfinite(number):
        rule = f"a reward lies within -{MOST_SCORE:g} and {MOST_SCORE:g}, or float32 overflows in training"
    kind = UserError if number is None else NotFinite
    raise kind(f"reward '{name}' returned {_shown(value)}; {rule}. The completion: {completion!r}")


@contextmanager
def _named(name: str, completions: Sequence[str], done: list[Any], which: str = "") -> Iterator[None]:
    """Name the reward, the line and the completion in what user code raises, after so many completions were `done`."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # timeouts of some libraries are not an `Exception`
        completion = completions[len(done)]
        raise UserError(f"reward '{name}' raised {_described(error)}. The {which}completion: {completion!r}") from error


def _described(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__
    place = traceback.extract_tb(error.__traceback__)[-1]
    return text if isinstance(error, SyntaxError) else f"{text} ({Path(place.filename).name}:{place.lineno})"


def _shown(value: Any) -> str:
    """`repr(value)`, shortened; its type if `repr` fails, as for an integer of more than 4,300 digits."""
    try:
        text = repr(value)
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


BUILT_IN = dict(REWARDS)


# reward -> the file that defines it, except built-in ones
SOURCES: dict[str, UserFile] = {}


def load_reward_files(files: Sequence[str]) -> None:
    """Fill the table with the shipped rewards and those of `files`, which are run again for each run.

    Raises:
        UserError: there is no such file, it fails, or it defines no reward.
    """
    REWARDS.clear()
    REWARDS.update(BUILT_IN)
    SOURCES.clear()
    for name in files:
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"reward_files: no file {path}; give the path of a Python file with @reward functions.")
        if path.suffix != ".py":
            raise UserError(f"reward_files: {path} is not a Python file (its name must end in .py).")
        file, known = UserFile(path), set(REWARDS)
        try:
            with unchanged(seed=0):
                file.load()
        except (KeyboardInterrupt, Stopped):
            raise
        except UserError as error:
            raise UserError(f"reward_files: {path}: {error}") from error
        except BaseException as error:
            raise UserError(f"reward_files: {path} failed with {_described(error)}") from error
        if not REWARDS.keys() - known:
            own = [name for name, function in file.functions().items() if function.__module__ == file.name]
            raise UserError(
                f"reward_files: {path} defines no reward; write @reward, which is imported by 'from grpo.rewards "
                f"import reward', on the line above {' or '.join(own) or 'a function'}."
            )
        SOURCES.update(dict.fromkeys(REWARDS.keys() - known, file))


def build_rewards(weights: dict[str, float], files: Sequence[str] = (), answer_match: str = "number") -> RewardStack:
    """The stack of a run; `correctness` is always measured.

    Raises:
        UserError: an unknown reward, a weight that is not finite or too large, or a stack whose weights are all zero.
    """
    load_reward_files(files)
    for name, weight in weights.items():
        if name not in REWARDS:
            for file in SOURCES.values():
                if name in file.functions():
                    raise UserError(f"rewards.{name}: in {file.path}, {name} has no decorator; write @reward above it.")
            raise UserError(f"rewards.{name}: there is no reward '{name}'.{nearest(name, REWARDS)}")
        if not abs(weight) <= MOST_WEIGHT:
            raise UserError(
                f"rewards.{name}={weight}: a weight is a finite number within -{MOST_WEIGHT:g} and {MOST_WEIGHT:g}."
            )
    if not any(weights.values()):
        raise UserError("rewards: every weight is 0, so nothing would be trained; give one reward a weight.")
    return RewardStack({**weights, "correctness": weights.get("correctness", 0.0)}, answer_match)
