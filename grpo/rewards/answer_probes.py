"""The built-in probes for each type of answers: a problem, and answers to it that are right, almost right or unclear.

Called by `grpo.audit`, with data.answer. A new type is one row in `PROBLEMS` and one in `FORMS`. It knows no reward.
"""

from dataclasses import dataclass, replace

from grpo.core.errors import UserError
from grpo.rewards.probe import RIGHT_FORMS, UNCLEAR_FORMS, WRONG_FORMS, Probe
from grpo.rewards.probe_templates import ProbeProblem, template_probes
from grpo.tasks.answer_format import DEFAULT_FORMAT, AnswerFormat
from grpo.tasks.example import Example


def _example(question: str, gold: str, **columns: object) -> Example:
    """A problem with its reference answer in the columns under the names that datasets use."""
    reference = dict.fromkeys(("answer", "solution", "ground_truth", "target"), gold)
    return Example(question, gold, columns={"question": question, **reference, **columns})


PENS = _example("Tom has 3 boxes of 6 pens. How many pens does he have?", "18")
NUMBER = ProbeProblem(
    PENS,
    answer="18",
    work="3 boxes of 6 pens are 3 * 6 = 18 pens.",
    steps="One box holds 6 pens.\nThere are 3 boxes.\n3 * 6 = 18.",
    wrong_answer="17",
    wrong_work="3 boxes of 6 pens are 3 * 6 = 17 pens.",
    far_answer="94",
    far_work="3 boxes of 6 pens are 3 * 6 = 94 pens.",
    other_answer="16",
)
CHOICES = ["9", "18", "16", "94"]
CHOICE = replace(
    NUMBER,
    example=_example(
        "\n".join([PENS.question, *(f"{letter}) {text}" for letter, text in zip("ABCD", CHOICES, strict=True))]),
        "B",
        choices=CHOICES,
        options=CHOICES,
    ),
    answer="B",
    work="3 boxes of 6 pens are 18 pens, so it is B.",
    wrong_answer="C",
    wrong_work="3 boxes of 6 pens are 16 pens, so it is C.",
    far_answer="D",
    far_work="3 boxes of 6 pens are 94 pens, so it is D.",
    other_answer="A",
)
MATH = ProbeProblem(
    _example("A rope of 3 metres is cut into 2 equal parts. How many metres does a part have?", r"\frac{3}{2}"),
    answer=r"\frac{3}{2}",
    work=r"3 metres in 2 parts are \frac{3}{2} metres.",
    steps="The rope has 3 metres.\nThere are 2 parts.\nA part has \\frac{3}{2} metres.",
    wrong_answer=r"\frac{4}{2}",
    wrong_work=r"3 metres in 2 parts are \frac{4}{2} metres.",
    far_answer=r"\frac{9}{7}",
    far_work=r"3 metres in 2 parts are \frac{9}{7} metres.",
    other_answer=r"\frac{2}{3}",
)
TEXT = ProbeProblem(
    _example("What is the capital of France?", "Paris"),
    answer="Paris",
    work="The capital of France is Paris.",
    steps="France is a country.\nIt has a capital.\nThat is Paris.",
    wrong_answer="Lyons",
    wrong_work="The capital of France is Lyons.",
    far_answer="Texas",
    far_work="The capital of France is Texas.",
    other_answer="London",
)
EQUATION = ProbeProblem(
    _example(
        "Use each of the numbers 1, 3, 5 and 6 once, with + - * / and brackets, to reach 18.",
        "18",
        numbers=[1, 3, 5, 6],
        nums=[1, 3, 5, 6],
        target=18,
    ),
    answer="6 * (5 - 3 + 1)",
    work="5 - 3 + 1 is 3, so 6 * (5 - 3 + 1) is 18.",
    steps="5 - 3 is 2.\n2 + 1 is 3.\n6 * (5 - 3 + 1) is 18.",
    wrong_answer="6 * (5 - 3) + 1",
    wrong_work="5 - 3 + 1 is 3, so 6 * (5 - 3) + 1 is 18.",
    far_answer="6 * (5 + 3 + 1)",
    far_work="5 + 3 + 1 is 3, so 6 * (5 + 3 + 1) is 18.",
    other_answer="6 * 5 - 3 - 1",
)
PROBLEMS = {
    "number": NUMBER,
    "strict": NUMBER,
    "text": TEXT,
    "choice": CHOICE,
    "math": MATH,
    "equation": EQUATION,
}


@dataclass(frozen=True)
class AnswerForms:
    """Answers to a problem, each in the requested format: name of the probe -> answer.

    Attributes:
        right: other ways to write the right answer.
        wrong: answers that are close to the right one, or contain it.
        unclear: answers on which rewards may differ.
        example: the problem; None for that of the `ProbeProblem`.
    """

    right: dict[str, str]
    wrong: dict[str, str]
    unclear: dict[str, str]
    example: Example | None = None


def _same(*answers: str) -> dict[str, str]:
    """Answers that are the names of their probes."""
    return {answer: answer for answer in answers}


NUMBER_FORMS = (
    AnswerForms(
        _same("18", "18.0", "$18", "18 pens", r"\boxed{18}", "**18**"),
        {
            **{f"{answer} for 18": answer for answer in ("118", "180", "-18", "18.9", "18.4", "19")},
            "17 or 18": "17 or 18",
        },
        _same("eighteen") | {"１８ (full-width)": "１８"},
    ),
    AnswerForms(
        _same("-5"),
        {"5 for -5": "5"},
        {},
        _example("It is 3 degrees and gets 8 degrees colder. How many degrees is it then?", "-5"),
    ),
    AnswerForms(
        {"0 for gold 0": "0"},
        {"none for gold 0": "none", "7 for gold 0": "7", "10 for gold 0": "10"},
        {},
        _example("Tom has 3 pens and gives away 3 pens. How many pens does he have?", "0"),
    ),
    AnswerForms(
        {"1,080 for gold 1080": "1,080"},
        {"1 for gold 1080": "1"},
        {},
        _example("How many pens are in 90 boxes of 12 pens?", "1080"),
    ),
    AnswerForms(
        {"1,080 for gold 1,080": "1,080", "1080 for gold 1,080": "1080"},
        {},
        {},
        _example("How many pens are in 90 boxes of 12 pens?", "1,080"),
    ),
    AnswerForms(
        {},
        {},
        {"² (superscript)": "²"},
        _example("Tom has 1 pen and finds another one. How many pens does he have?", "2"),
    ),
    AnswerForms(
        {},
        {},
        {"٣ (Arabic-Indic)": "٣"},
        _example("Tom has 1 pen and finds 2 others. How many pens does he have?", "3"),
    ),
)
FORMS: dict[str, tuple[AnswerForms, ...]] = {
    "number": NUMBER_FORMS,
    "strict": NUMBER_FORMS,
    "text": (
        AnswerForms(
            _same("Paris", "paris", "Paris.", "**Paris**"),
            _same("Paris or Lyons", "Parish", "not Paris", "Par"),
            _same("It is Paris."),
        ),
    ),
    "choice": (
        AnswerForms(
            _same("B", "(B)", "B.", "B) 18", "**B**", r"\boxed{B}"),
            _same("A or B", "ABCD", "A) 9", "A, B, C, D"),
            _same("18", "b", "B) 9"),
        ),
    ),
    "math": (
        AnswerForms(
            _same(r"\frac{3}{2}", r"\frac32", "3/2", "1.5", r"\boxed{\frac{3}{2}}", r"$\frac{3}{2}$"),
            _same(r"\frac{13}{2}", r"-\frac{3}{2}", "1.4", "2", r"\frac{2}{3}"),
            _same("one and a half"),
        ),
    ),
    "equation": (
        AnswerForms(
            _same("6 * (5 - 3 + 1)", "6*(5-3+1)", "6 * (5 - 3 + 1) = 18", "(5 + 1 - 3) * 6"),
            _same("3.6 * 5 * 1", "3 * 6", "18", "9 + 9", "15 + 3", "6 + 5 * 3 - 1 = 18", "int('18')"),
            {},
        ),
    ),
}


def built_in_probes(answer_type: str, requested: AnswerFormat = DEFAULT_FORMAT) -> tuple[Probe, ...]:
    """The probes for a type of answers, in the `requested` format.

    Those with the same question are adjacent, as completions are in training.

    Raises:
        UserError: there are none for this type.
    """
    if answer_type not in PROBLEMS:
        raise UserError(f"data.answer={answer_type}: there are no built-in probes for it; give your own, probes=FILE.")
    problem = PROBLEMS[answer_type]
    probes = template_probes(problem, requested)
    for forms in FORMS[answer_type]:
        example = forms.example or problem.example
        answers = (
            (RIGHT_FORMS, True, forms.right),
            (WRONG_FORMS, False, forms.wrong),
            (UNCLEAR_FORMS, None, forms.unclear),
        )
        probes += [
            Probe(name, kind, requested.render("I work it out step by step.", answer), example, right)
            for kind, right, named in answers
            for name, answer in named.items()
        ]
    return tuple(probes)
