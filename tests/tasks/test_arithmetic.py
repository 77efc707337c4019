"""The arithmetic problems: correct, reproducible, and never both in training and held out."""

import re
from collections import Counter
from itertools import islice

from grpo.config.limits import DISTINCT_PROBLEMS
from grpo.tasks.arithmetic import SHOWCASE_STEPS, generate_problems
from grpo.tasks.arithmetic_templates import OPERATIONS, TEMPLATES
from grpo.tasks.example import SHOWCASE
from grpo.tasks.generated import HELD_OUT_ONE_IN


def take(held_out: bool, count: int = 1000, **settings):
    return list(islice(generate_problems(held_out, **({"seed": 0} | settings)), count))


def test_there_are_at_least_a_dozen_templates_of_two_to_four_steps() -> None:
    used = {(problem.template, len(problem.steps)) for problem in take(False)}
    assert len(used) == sum(len(TEMPLATES[steps]) for steps in (2, 3, 4)) >= 12
    assert {steps for _, steps in used} == {2, 3, 4}


def test_training_and_held_out_problems_share_no_numbers() -> None:
    train = {(p.template, p.steps) for seed in range(3) for p in take(False, seed=seed)}
    held_out = {(p.template, p.steps) for seed in range(3) for p in take(True, seed=seed)}
    assert not train & held_out
    assert not {p.question for p in take(False)} & {p.question for p in take(True)}


def test_every_solution_is_correct_and_in_gsm8k_form() -> None:
    for problem in take(False, max_number=200):
        lines = problem.row()["answer"].split("\n")
        assert lines[-1] == f"#### {problem.answer}"
        for line in lines[:-1]:
            match = re.match(r"(\d+)([-+*/])(\d+)=(\d+) ", line)
            assert match, line
            left, operation, right, result = match.groups()
            assert OPERATIONS[operation](int(left), int(right)) == int(result) <= 200
            assert operation != "/" or int(left) % int(right) == 0
        # The first step uses numbers of the question, the last one gives the answer.
        given = set(re.findall(r"\d+", problem.question)) | {"60", "2"}
        assert str(problem.steps[0][0]) in given and str(problem.steps[0][2]) in given
        assert int(result) == problem.answer


def test_the_same_seed_gives_the_same_problems() -> None:
    assert take(True, 100) == take(True, 100)
    assert take(True, 100) != take(True, 100, seed=1)


def test_difficulty() -> None:
    assert {len(p.steps) for p in take(False, 200, min_steps=1, max_steps=1)} == {1}
    assert {len(p.steps) for p in take(False, 200, min_steps=4)} == {4}
    large = [number for p in take(False, max_number=1000) for step in p.steps for number in (step[0], step[2])]
    assert 150 < max(large) <= 1000


def test_the_showcase_question_is_held_out() -> None:
    train = take(False, 5000, min_steps=3, max_steps=3)
    assert SHOWCASE_STEPS not in {p.steps for p in train}
    assert all(p.question != SHOWCASE.question for p in train)
    assert OPERATIONS["/"](120, 24) == int(SHOWCASE.gold)


def test_every_template_is_in_both_splits() -> None:
    counts = Counter(problem.template for problem in take(False))
    assert min(counts.values()) > 1000 / len(counts) / 2
    assert counts.keys() == {problem.template for problem in take(True)}


def test_all_settings_generate_the_largest_allowed_number_of_problems() -> None:
    # The settings with the fewest problems. There are seven training problems for each held-out one.
    assert (
        len(set(take(True, DISTINCT_PROBLEMS["held-out"], max_number=100, min_steps=4)))
        == DISTINCT_PROBLEMS["held-out"]
    )
    assert DISTINCT_PROBLEMS["training"] / (HELD_OUT_ONE_IN - 1) < 1.5 * DISTINCT_PROBLEMS["held-out"]
