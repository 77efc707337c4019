"""The example questions of a run with the answers of its policy, and a wrong answer among them if there is one.

Called for the page of a run. It scores nothing: what is right is read from the saved evaluations.
"""

from typing import NamedTuple

import pandas as pd

from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.core.text import plural
from grpo.runs.run_dir import RunDir
from grpo.runs.saved_run import SavedRun
from grpo.tasks.answer_types import describe_correctness


class Answer(NamedTuple):
    """An answer, when it was given, and its verdict, which is empty if it is not saved."""

    when: str
    completion: str
    verdict: str = ""


class ExampleQuestion(NamedTuple):
    """A question with its answers; those in `between` are of the steps during training."""

    question: str
    gold: str
    answers: list[Answer]
    between: list[Answer]


class SavedAnswer(NamedTuple):
    """The first answer to a held-out problem."""

    question: str
    gold: str
    completion: str
    verdict: str


def saved_answers(run: SavedRun, when: str) -> list[SavedAnswer]:
    """The first answer to each held-out problem, in order; none if the file of the evaluation is missing or damaged.

    Args:
        when: `before` or `after`.
    """
    labels = run.accuracy_labels
    columns = ["question", "gold", "completion", ACCURACY_STRICT, ACCURACY_FLEXIBLE]
    try:
        table = pd.read_parquet(RunDir(run.folder).evaluation_table(when), columns=["problem", "sample", *columns])
        first = table.sort_values(["problem", "sample"]).drop_duplicates("problem")[columns]
    except (OSError, ValueError, KeyError):
        return []
    return [
        SavedAnswer(str(question), str(gold), str(completion), describe_correctness(strict, flexible, labels))
        for question, gold, completion, strict, flexible in first.itertuples(index=False)
    ]


def example_questions(run: SavedRun) -> list[ExampleQuestion]:
    """The example questions of a run; if no answer is wrong, a question with a wrong one replaces the last question."""
    completions: dict[tuple[str, str], dict[int, str]] = {}
    for line in run.transcripts:
        completions.setdefault((line["question"], line["gold"]), {})[line["step"]] = line["completion"]
    if not run.results:
        return [
            ExampleQuestion(question, gold, [Answer(f"step {step}", text) for step, text in by_step.items()], [])
            for (question, gold), by_step in completions.items()
        ]
    last = run.results["steps"]
    names = {0: "before training", last: f"after {last:,} {plural(last, 'step')}"}
    saved = {0: saved_answers(run, "before"), last: saved_answers(run, "after")}
    verdicts = {step: {each.question: each.verdict for each in answers} for step, answers in saved.items()}
    questions = [
        ExampleQuestion(
            question,
            gold,
            [
                Answer(name, by_step[step], verdicts[step].get(question, ""))
                for step, name in names.items()
                if step in by_step
            ],
            [Answer(f"step {step:,}", text) for step, text in by_step.items() if step not in names],
        )
        for (question, gold), by_step in completions.items()
    ]
    shown = {each.question for each in questions}
    if any(verdicts[last].get(question) == "wrong" for question in shown):
        return questions
    failure = next((each for each in saved[last] if each.verdict == "wrong" and each.question not in shown), None)
    if failure is None:
        return questions
    answers = [
        Answer(names[step], each.completion, each.verdict)
        for step, of_step in saved.items()
        for each in of_step
        if each.question == failure.question
    ]
    return [*questions[:-1], ExampleQuestion(failure.question, failure.gold, answers, [])]
