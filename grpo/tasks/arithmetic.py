"""Word problems in GSM8K's form (question, worked solution, `#### N`), made from a seed.

The loader is called through `LOADERS` of grpo/tasks/datasets.py, the generator also by the script that trains the
embedded policy. A template draws its numbers and works them out step by step; a draw is rejected if a step does not
give a whole number between 1 and `max_number`. Training and held-out problems differ in the numbers themselves, not in
names or nouns: no template has the same numbers in both. This module knows nothing of prompts and completions.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice

from grpo.config.schema import DataConfig
from grpo.tasks.arithmetic_templates import OPERATIONS, TEMPLATES, Draw, RejectedDraw
from grpo.tasks.example import Example
from grpo.tasks.generated import is_held_out, take_split

# The steps of the showcase question, which is always held out.
SHOWCASE_STEPS = ((60, "/", 20), (8, "*", 3), (120, "/", 24))
WORD = re.compile(r"[^\W\d_]+|\d+")  # or a number
MAX_NUMBER = 150  # of the default problems


@dataclass(frozen=True)
class Problem:
    """A word problem, its solution line by line, and whether its numbers belong to the held-out problems."""

    template: str
    question: str
    steps: tuple[tuple[int, str, int], ...]
    solution: tuple[str, ...]
    answer: int
    held_out: bool

    def row(self) -> dict[str, str]:
        """The problem as a row of GSM8K: `{"question", "answer"}`."""
        return {"question": self.question, "answer": "\n".join((*self.solution, f"#### {self.answer}"))}


def load_arithmetic(config: DataConfig, split: str, notes: list[str]) -> list[Example]:
    """The problems of a split."""
    assert config.seed is not None and config.max_number is not None
    assert config.min_steps is not None and config.max_steps is not None
    generate = partial(
        generate_problems,
        seed=config.seed,
        max_number=config.max_number,
        min_steps=config.min_steps,
        max_steps=config.max_steps,
    )
    problems = take_split(generate, config, split)
    return [Example(problem.question, str(problem.answer), columns=problem.row()) for problem in problems]


def make_problem(rng: random.Random, max_number: int, min_steps: int, max_steps: int) -> Problem:
    """One problem with `min_steps` to `max_steps` steps; all templates are equally likely."""
    templates = [(n, make) for n in range(min_steps, max_steps + 1) for make in TEMPLATES[n]]
    steps, make = rng.choice(templates)
    while True:
        draw = Draw(rng, max_number)
        try:
            question = make(draw)
            break
        except RejectedDraw:
            continue
    assert len(draw.steps) == steps, make.__name__
    held_out = tuple(draw.steps) == SHOWCASE_STEPS or is_held_out(f"{make.__name__} {draw.steps}")
    left, operation, right = draw.steps[-1]
    answer = OPERATIONS[operation](left, right)
    return Problem(make.__name__, question, tuple(draw.steps), tuple(draw.lines), answer, held_out)


def unfamiliar_words(questions: Sequence[str]) -> list[str]:
    """The words of `questions` that no default problem has, and the numbers above `MAX_NUMBER`."""

    def is_familiar(word: str) -> bool:
        if word.isdecimal():
            return len(word) <= len(str(MAX_NUMBER)) and int(word) <= MAX_NUMBER
        return word.lower() in _words_of_problems()

    words = dict.fromkeys(word for question in questions for word in WORD.findall(question))
    return [word for word in words if not is_familiar(word)]


@cache
def _words_of_problems() -> frozenset[str]:
    # 500 problems have every word of the templates.
    problems = islice(generate_problems(held_out=False, seed=0), 500)
    return frozenset(word.lower() for problem in problems for word in WORD.findall(problem.question))


def generate_problems(
    held_out: bool, *, seed: int, max_number: int = MAX_NUMBER, min_steps: int = 2, max_steps: int = 4
) -> Iterator[Problem]:
    """An endless sequence of distinct problems, held-out or training ones, the same for the same seed."""
    rng = random.Random(f"{seed} {held_out}")
    seen: set[str] = set()
    while True:
        problem = make_problem(rng, max_number, min_steps, max_steps)
        if problem.held_out is held_out and problem.question not in seen:
            seen.add(problem.question)
            yield problem
