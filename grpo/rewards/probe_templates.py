"""The probes of one problem that differ in format, length and work: completions made from a few texts about it.

Called by grpo/rewards/answer_probes.py, which has the problems and the format. It knows no reward and no type of
answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from grpo.rewards.probe import AS_REQUESTED, FORMAT_OFF, LENGTHS, NO_WORK, REPEATED, WRONG, Probe
from grpo.tasks.answer_format import DEFAULT_FORMAT, AnswerFormat, BoxedFormat
from grpo.tasks.example import Example


@dataclass(frozen=True)
class ProbeProblem:
    """A problem, and the texts of which its probes are made.

    Attributes:
        example: question, reference answer and columns.
        answer: the right answer, as a policy writes it.
        work: reasoning in one line that ends in the right answer.
        steps: the same in three lines.
        wrong_answer: an answer that is almost right, as long as the right one.
        wrong_work: reasoning in one line that ends in it.
        far_answer: an answer that is not even close, as long as the right one.
        far_work: reasoning in one line that ends in it.
        other_answer: another wrong answer.
    """

    example: Example
    answer: str
    work: str
    steps: str
    wrong_answer: str
    wrong_work: str
    far_answer: str
    far_work: str
    other_answer: str


REFERENCE = "one line"
FAR_OFF = "far off as asked"
NO_LAST_BREAK = ", no break"  # the end of the names of probes without the last line break
# Filler is not repeated, because a penalty for repetition would hide what its length earns.
FILLER_WORDS = tuple(
    words.split(",")
    for words in (
        "Again,Also,Besides,Calmly,Clearly,Further,Here,Indeed,Later,Maybe,Now,Perhaps,Slowly,Still,Then,Today",
        "check,compare,consider,count,describe,explain,follow,inspect,list,mention,notice,read,repeat,review,study,test",
        "amounts,boxes,cases,details,facts,figures,ideas,lines,numbers,parts,pieces,results,signs,terms,units,words",
        "as before,at length,at once,by hand,for long,in detail,in full,in order,in short,in turn,line by line,"
        "on paper,once more,one by one,twice over,with care",
    )
)
PADDING = 24  # sentences of filler in long probes, which then have about 200 tokens, as a typical completion on GSM8K
TRAILING_TEXT = " ".join(16 * ["Let me know if you have any other question."])
STEP_LINES = "\n".join(["Step 1:"] * 12)
# The names of the same answer with more and more filler, the shortest first, and the number of filler sentences.
MULTIPLES = (2, 4, 8, 12)
RIGHT_LENGTHS = {REFERENCE: 0, "long line": PADDING, **{f"right, filler x {n}": n * PADDING for n in MULTIPLES}}
WRONG_LENGTHS = {
    "wrong as asked": 0,
    "wrong, padded": PADDING,
    **{f"wrong, filler x {n}": n * PADDING for n in MULTIPLES},
}
REASONING = (REFERENCE, "three lines", "long line", "many lines")
# A change of format -> the probes without and with it, which differ in nothing else.
CHANGES = {
    "no last line break": (REFERENCE, REFERENCE + NO_LAST_BREAK),
    "the same in a long completion": ("many lines", "many lines" + NO_LAST_BREAK),
    "reasoning over three lines": (REFERENCE, "three lines"),
    "longer reasoning": (REFERENCE, "long line"),
    "the same, no last line break": (REFERENCE + NO_LAST_BREAK, "long line" + NO_LAST_BREAK),
    "a preamble before": (REFERENCE, "preamble before"),
    "a short text after": (REFERENCE, "short text after"),
    "a long text after": (REFERENCE, "long text after"),
    "blank lines between the blocks": (REFERENCE, "blank lines between"),
    "everything on one line": (REFERENCE, "on one line"),
    "everything twice": (REFERENCE, "everything twice"),
    "the answer twice": (REFERENCE, "answer twice"),
    "three answers, the last right": (REFERENCE, "last of 3 right"),
    "the bare answer": (REFERENCE, "bare answer"),
    "`Step 1:` 12 times for the work": (REFERENCE, "empty steps"),
    "a wrong answer, almost right": (REFERENCE, "wrong as asked"),
    "a wrong answer, far off": (REFERENCE, FAR_OFF),
    "a wrong answer, padded": ("wrong as asked", "wrong, padded"),
}


def template_probes(problem: ProbeProblem, requested: AnswerFormat) -> list[Probe]:
    """The probes of a problem that differ in format, length and work; `requested` is the format of the run."""
    texts = {
        AS_REQUESTED: dict(_as_requested(problem, requested)),
        FORMAT_OFF: _format_off(problem, requested),
        NO_WORK: _without_work(problem, requested),
        REPEATED: _repeated(problem, requested),
        WRONG: _wrong(problem, requested),
        LENGTHS: dict(_lengths(problem, requested)),
    }
    return [
        Probe(name, kind, text, problem.example, _is_right(name, kind))
        for kind, probes in texts.items()
        for name, text in probes.items()
    ]


def _is_right(name: str, kind: str) -> bool | None:
    if name == "first of 3 right":
        return None  # it depends on which of several answers counts
    return kind != WRONG and name != "3 answers in one" and name not in WRONG_LENGTHS


def _filler(sentences: int) -> list[str]:
    """Sentences without digits and commas that share no three words, up to 256 of them."""
    starts, verbs, nouns, ends = FILLER_WORDS
    rows = [(k, k // 16) for k in range(sentences)]
    return [
        f"{starts[k % 16]} I {verbs[(k + n) % 16]} the {nouns[(k + 3 * n) % 16]} {ends[(k + 5 * n) % 16]}."
        for k, n in rows
    ]


def _padded(text: str, sentences: int) -> str:
    return " ".join([text, *_filler(sentences)])


def _as_requested(problem: ProbeProblem, requested: AnswerFormat) -> Iterator[tuple[str, str]]:
    reasoning = dict(
        zip(
            REASONING,
            (
                problem.work,
                problem.steps,
                _padded(problem.work, PADDING),
                "\n".join([problem.steps, *_filler(PADDING)]),
            ),
            strict=True,
        )
    )
    for name, text in reasoning.items():
        yield name, requested.render(text, problem.answer)
    numbered = "\n".join(f"Step {number}: {line}" for number, line in enumerate(problem.steps.split("\n"), start=1))
    yield "numbered steps", requested.render(numbered, problem.answer)
    for name, text in reasoning.items():
        yield name + NO_LAST_BREAK, requested.render(text, problem.answer)[:-1]


def _format_off(problem: ProbeProblem, requested: AnswerFormat) -> dict[str, str]:
    work, answer = problem.work, problem.answer
    asked = requested.render(work, answer)
    inline = requested.render_inline(work, answer)
    other = DEFAULT_FORMAT if isinstance(requested, BoxedFormat) else BoxedFormat()
    return {
        "preamble before": f"Sure, let us see.\n{asked}",
        "short text after": asked + "I hope this helps!\n",
        "long text after": asked + TRAILING_TEXT,
        "blank lines between": requested.reasoning_block(work) + "\n\n" + requested.answer_block(answer),
        "on one line": inline,
        "on one line" + NO_LAST_BREAK: inline[:-1],
        f"{other.place} instead": other.render_inline(work, answer)[:-1],
    }


def _without_work(problem: ProbeProblem, requested: AnswerFormat) -> dict[str, str]:
    answer = problem.answer
    return {
        "bare answer": answer,
        "bare sentence": f"The answer is {answer}.",
        "answer block alone": requested.answer_block(answer),
        "empty reasoning": requested.render("", answer),
        "filler reasoning": requested.render("...", answer),
        "empty steps": requested.render(STEP_LINES, answer),
    }


def _repeated(problem: ProbeProblem, requested: AnswerFormat) -> dict[str, str]:
    work, answer = problem.work, problem.answer
    reasoning = requested.reasoning_block(work)
    right, wrong, other = map(requested.answer_block, (answer, problem.wrong_answer, problem.other_answer))
    return {
        "everything twice": 2 * requested.render(work, answer),
        "reasoning twice": 2 * reasoning + right,
        "answer twice": reasoning + 2 * right,
        "inline, then in lines": requested.render_inline(work, answer) + reasoning + right,
        "last of 3 right": reasoning + other + wrong + right,
        "first of 3 right": reasoning + right + wrong + other,
        "3 answers in one": requested.render(work, "\n".join([problem.other_answer, problem.wrong_answer, answer])),
    }


def _wrong(problem: ProbeProblem, requested: AnswerFormat) -> dict[str, str]:
    return {
        "wrong as asked": requested.render(problem.wrong_work, problem.wrong_answer),
        FAR_OFF: requested.render(problem.far_work, problem.far_answer),
        "right work, wrong end": requested.render(problem.work, problem.wrong_answer),
        "wrong, padded": requested.render(_padded(problem.wrong_work, PADDING), problem.wrong_answer),
        "wrong, empty steps": requested.render(STEP_LINES, problem.wrong_answer),
        "wrong, then long text": requested.render("I cannot tell.", "none") + TRAILING_TEXT,
        "a word for an answer": requested.render("I work it out step by step.", "no"),
        "empty answer block": requested.render(problem.work, ""),
        "template copied": requested.render("...", "..."),
        "bare wrong answer": problem.wrong_answer,
        "empty text": "",
    }


def _lengths(problem: ProbeProblem, requested: AnswerFormat) -> Iterator[tuple[str, str]]:
    for name, sentences in RIGHT_LENGTHS.items():
        if sentences > PADDING:
            yield name, requested.render(_padded(problem.work, sentences), problem.answer)
    for name, sentences in WRONG_LENGTHS.items():
        if sentences > PADDING:
            yield name, requested.render(_padded(problem.wrong_work, sentences), problem.wrong_answer)
