"""The probes of `grpo.audit`: completions whose score under a stack of rewards shows what it pays for.

A table of texts: each probe has a question, its gold answer, and a kind, which says whether its answer is right and
whether it has the format with the tags of grpo/tasks/answer_format.py. It knows no reward. grpo/rewards/probe_scores.py
scores the probes, and grpo/rewards/probe_rules.py judges the scores.
"""

from dataclasses import dataclass

AS_REQUESTED = "right, as asked"
FORMAT_OFF = "right, format off"
NO_WORK = "right, no work shown"
REPEATED = "repeated"
WRONG = "wrong"
NUMBER_FORMS = "numbers as answers"


@dataclass(frozen=True)
class Probe:
    """A completion to score: its name, its kind (a constant above), its text, and the problem it answers."""

    name: str
    kind: str
    completion: str
    gold: str = "18"
    question: str = "Tom has 3 boxes of 6 pens. How many pens does he have?"


def _as_requested(reasoning: str, answer: str) -> str:
    """A completion in the requested format."""
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{answer}\n</answer>\n"


# Long probes have about 200 tokens, the limit of the reference recipe.
PADDING = 16 * ["I go over this once more and find the same."]
ONE_LINE = "3 boxes of 6 pens are 3 * 6 = 18 pens."
THREE_LINES = "One box holds 6 pens.\nThere are 3 boxes.\n3 * 6 = 18."
LONG_ONE_LINE = " ".join([ONE_LINE, *PADDING])
PADDED_LINES = "\n".join([THREE_LINES, *PADDING])
TRAILING_TEXT = " ".join(16 * ["Let me know if you have any other question."])
ANSWER_BLOCK = "<answer>\n18\n</answer>\n"
REASONING_BLOCK = f"<reasoning>\n{ONE_LINE}\n</reasoning>\n"
REASONING = {"one line": ONE_LINE, "three lines": THREE_LINES, "long line": LONG_ONE_LINE, "many lines": PADDED_LINES}
NO_LAST_BREAK = ", no break"  # the end of the names of probes without the last line break


def _number_probe(name: str, answer: str, gold: str, question: str = Probe.question) -> Probe:
    return Probe(name, NUMBER_FORMS, _as_requested("I work it out step by step.", answer), gold, question)


# Probes with the same question are adjacent, as completions are in training.
PROBES = (
    *(Probe(name, AS_REQUESTED, _as_requested(reasoning, "18")) for name, reasoning in REASONING.items()),
    *(
        Probe(name + NO_LAST_BREAK, AS_REQUESTED, _as_requested(reasoning, "18")[:-1])
        for name, reasoning in REASONING.items()
    ),
    Probe("preamble before", FORMAT_OFF, f"Sure, let us see.\n{_as_requested(ONE_LINE, '18')}"),
    Probe("short text after", FORMAT_OFF, _as_requested(ONE_LINE, "18") + "I hope this helps!\n"),
    Probe("long text after", FORMAT_OFF, _as_requested(ONE_LINE, "18") + TRAILING_TEXT),
    Probe("blank lines between", FORMAT_OFF, f"{REASONING_BLOCK}\n\n{ANSWER_BLOCK}"),
    Probe("tags inline", FORMAT_OFF, f"<reasoning>{ONE_LINE}</reasoning> <answer>18</answer>\n"),
    Probe("bare number", NO_WORK, "18"),
    Probe("bare sentence", NO_WORK, "The answer is 18."),
    Probe("answer tags alone", NO_WORK, ANSWER_BLOCK),
    Probe("empty reasoning", NO_WORK, _as_requested("", "18")),
    Probe("filler reasoning", NO_WORK, _as_requested("...", "18")),
    Probe("everything twice", REPEATED, 2 * _as_requested(ONE_LINE, "18")),
    Probe("reasoning twice", REPEATED, 2 * REASONING_BLOCK + ANSWER_BLOCK),
    Probe("answer twice", REPEATED, REASONING_BLOCK + 2 * ANSWER_BLOCK),
    Probe(
        "inline, then in lines",
        REPEATED,
        f"<reasoning>{ONE_LINE}</reasoning><answer>18</answer>\n" + REASONING_BLOCK + ANSWER_BLOCK,
    ),
    Probe(
        "last of 3 right",
        REPEATED,
        REASONING_BLOCK + ANSWER_BLOCK.replace("18", "16") + ANSWER_BLOCK.replace("18", "17") + ANSWER_BLOCK,
    ),
    Probe(
        "first of 3 right",
        REPEATED,
        REASONING_BLOCK + ANSWER_BLOCK + ANSWER_BLOCK.replace("18", "17") + ANSWER_BLOCK.replace("18", "16"),
    ),
    Probe("3 answers in one", REPEATED, _as_requested(ONE_LINE, "16\n17\n18")),
    Probe("wrong as asked", WRONG, _as_requested("3 boxes of 6 pens are 3 * 6 = 17 pens.", "17")),
    Probe("right work, wrong end", WRONG, _as_requested(ONE_LINE, "17")),
    Probe("wrong, then long text", WRONG, _as_requested("I cannot tell.", "none") + TRAILING_TEXT),
    Probe("a word for an answer", WRONG, _as_requested("I work it out step by step.", "no")),
    Probe("no answer in the tags", WRONG, _as_requested(ONE_LINE, "")),
    Probe("template copied", WRONG, _as_requested("...", "...")),
    Probe("bare wrong number", WRONG, "17"),
    Probe("empty text", WRONG, ""),
    _number_probe("18", "18", "18"),
    _number_probe("18.0", "18.0", "18"),
    _number_probe("$18", "$18", "18"),
    _number_probe("18 pens", "18 pens", "18"),
    _number_probe("eighteen", "eighteen", "18"),
    _number_probe("１８ (full-width)", "１８", "18"),
    _number_probe("-5", "-5", "-5", "It is 3 degrees and gets 8 degrees colder. How many degrees is it then?"),
    _number_probe("1,080 for gold 1080", "1,080", "1080", "How many pens are in 90 boxes of 12 pens?"),
    _number_probe("1,080 for gold 1,080", "1,080", "1,080", "How many pens are in 90 boxes of 12 pens?"),
    _number_probe("1080 for gold 1,080", "1080", "1,080", "How many pens are in 90 boxes of 12 pens?"),
    _number_probe("² (superscript)", "²", "2", "Tom has 1 pen and finds another one. How many pens does he have?"),
    _number_probe("٣ (Arabic-Indic)", "٣", "3", "Tom has 1 pen and finds 2 others. How many pens does he have?"),
)
REFERENCE = "one line"
COMMA_NUMBERS = ("1,080 for gold 1080", "1,080 for gold 1,080")
NON_ASCII_DIGITS = ("² (superscript)", "٣ (Arabic-Indic)", "１８ (full-width)")
PROBE_INDEX = {probe.name: index for index, probe in enumerate(PROBES)}
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
    "tags inline": (REFERENCE, "tags inline"),
    "everything twice": (REFERENCE, "everything twice"),
    "the answer twice": (REFERENCE, "answer twice"),
    "three answers, the last right": (REFERENCE, "last of 3 right"),
    "the bare number, no tags": (REFERENCE, "bare number"),
    "a comma: 1,080 for 1080": ("18", "1,080 for gold 1080"),
    "a sign: -5": ("18", "-5"),
    "digits that are not ASCII: ²": ("18", "² (superscript)"),
    "digits that are not ASCII: １８": ("18", "１８ (full-width)"),
}


def probe_named(name: str) -> Probe:
    return PROBES[PROBE_INDEX[name]]
