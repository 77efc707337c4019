"""Random completions and gold answers: real formats with errors, numbers as models write them, and arbitrary Unicode."""

import random
import re
from functools import cache

from grpo.reports.calculator_server import PAGE
from grpo.tasks.answer_format import DEFAULT_FORMAT, AnswerFormat, BoxedFormat
from grpo.tasks.numbers import single_number
from tests.helpers.calculator import Case

# Python's white space, and other characters that look like it.
WHITE = [chr(code) for code in range(0x3001) if chr(code).isspace()] + ["\ufeff", "\u200b", "\u180e", "\x00", "\x7f"]
# The digits of the page, of Unicode 14: a newer Python has more.
RUNS = re.findall(r"\[0x([0-9a-f]+), 0x([0-9a-f]+)\]", PAGE.read_text(encoding="utf-8"))
DIGITS = [chr(code) for first, last in RUNS for code in range(int(first, 16), int(last, 16) + 1)]
DIGITS += list("0123456789") * 20 + list("½Ⅷ九〇৴௰")
PIECES = [
    *DEFAULT_FORMAT.tags,
    *DEFAULT_FORMAT.tags,
    "<answer>\n",
    "\n</answer>",
    "\n</answer>\n",
    "</reasoning>\n<answer>",
    "<Answer>",
    "< answer>",
    "</answer",
]
PIECES += [
    "\n",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    " ",
    "x",
    "pens",
    "思考",
    "é",
    "e\u0301",
    "\U0001f600",
    "\U00020000",
    "👩‍👩‍👧",
    "$",
    "-",
    ",",
]


def number_like(draw: random.Random) -> str:
    digits = "".join(draw.choices("0123456789", k=draw.choice([1, 1, 2, 3, 4, 7, 40])))
    if draw.random() < 0.3:
        digits = f"{int(digits):,}" if draw.random() < 0.7 else ",".join([digits[:2], digits[2:]])
    sign, dollar, tail = (
        draw.choice(["", "", "-", "+", "--"]),
        draw.choice(["", "", "$", "$ "]),
        draw.choice(["", "", "", "$"]),
    )
    fraction = draw.choice(["", "", "", ".", ".0", ".50", ".5e3", "e5", ".00"])
    body = draw.choice([digits, digits, digits, "." + digits, "0" * draw.randrange(4) + digits])
    text = draw.choice([sign + dollar, dollar + sign, sign + draw.choice(WHITE)]) + body + fraction + tail
    if draw.random() < 0.15:
        text = "".join(draw.choices(DIGITS, k=draw.randrange(1, 4)))
    return text


WRITTEN = "{} pens|{}%|x = {}|**{}**|\\boxed{{{}}}|\\({}\\)|= {}|{},|-{}|− {}|{}/{}|{} {}/{}|\\frac{{{}}}{{{}}}"
WRITTEN += "|{} or {}|{} x {}|{}-{}|{} - {}|x{} = {}|{}e{}|{}²|{}½|{} = {}|({})|{}:{}|\\text{{{} cm}}^2|$-{}|total - {}"


def answer_like(draw: random.Random) -> str:
    """A number as models write it, or one of a few texts with varied surroundings."""
    if draw.random() < 0.15:
        around = draw.choice(["({})", "{}.", "**{}**", "\\boxed{{{}}}", "“{}”", "{}", "-{}", ".{}", "$\\text{{{}}}$"])
        return around.format(draw.choice(["A", "a", "Éa", "5", "05", "New York", "", "ß"]))
    written = draw.choice(WRITTEN.split("|"))
    numbers = [draw.choice([number_like(draw), "2", "36", "1,080", "0.5", "0"]) for _ in range(3)]
    if draw.random() < 0.3:
        numbers = [numbers[0]] * 3
    return written.format(*numbers)


def random_text(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.2:  # any character that UTF-8 can encode
        codes = [draw.randrange(draw.choice([0x80, 0x800, 0x3100, 0x110000])) for _ in range(draw.randrange(12))]
        return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
    if kind < 0.4:
        return "".join(draw.choices(WHITE, k=draw.randrange(1, 4)))
    return "".join(draw.choice([*PIECES, draw.choice(WHITE), draw.choice(DIGITS)]) for _ in range(draw.randrange(8)))


def generated(draw: random.Random) -> Case:
    """A completion and a gold answer: random pieces, or the requested format with a few errors."""
    answer = number_like(draw) if draw.random() < 0.6 else answer_like(draw)
    golds = [
        answer_like(draw),
        str(single_number(answer)),
        answer,
        answer.strip(),
        answer.replace(",", ""),
        f"{answer}.0",
        f" {answer}\n",
        number_like(draw),
        random_text(draw),
    ]
    gold = draw.choice(golds)
    if draw.random() < 0.3:
        return "".join(
            random_text(draw) + draw.choice([answer, draw.choice(PIECES)]) for _ in range(draw.randrange(7))
        ), gold
    work = draw.choice(["8*3=24", "思考一下。", "x" * draw.choice([0, 5, 300, 700]), random_text(draw)])
    gap = ["\n", "\n", "\n", "", draw.choice(WHITE)]
    parts = ["<reasoning>", draw.choice(gap), work, draw.choice(gap), "</reasoning>", draw.choice(gap)]
    parts += [
        "<answer>",
        draw.choice(gap),
        answer,
        draw.choice(gap),
        "</answer>",
        draw.choice(["\n", "", "\n\n", random_text(draw)]),
    ]
    if draw.random() < 0.4:
        parts = ["\n" if part in WHITE or part == "" else part for part in parts]  # one line each
    if draw.random() < 0.25:
        parts = [part for part in parts if part != "\n"]  # all on one line
    for _ in range(draw.choice([0, 0, 0, 1, 1, 2])):
        at = draw.randrange(len(parts) + 1)
        parts[at:at] = draw.choice([[random_text(draw)], [draw.choice(PIECES)], [draw.choice(WHITE)], parts[-6:]])
        if draw.random() < 0.3:
            del parts[draw.randrange(len(parts))]
    return "".join(parts), gold


@cache
def many_completions() -> list[Case]:
    draw = random.Random(0)
    return [generated(draw) for _ in range(20_000)]


def in_format(text: str, answer_format: AnswerFormat, draw: random.Random) -> str:
    """A completion in the default format, with or without errors, as one in another format with such errors."""
    if isinstance(answer_format, BoxedFormat):
        opening = ["\\boxed{", "\\boxed{", "\\boxed {", "\\fboxed{", "\\boxed", "$\\boxed{", "\\boxed{\\frac{1}{2} "]
        closing = ["}", "}", "}", "}$.", "\\}", "", "}} "]
        text = re.sub("</?reasoning>", lambda _: draw.choice(["", "", "{", "\\[", "So "]), text)
        text = re.sub("<answer>", lambda _: draw.choice(opening), text)
        return re.sub("</answer>", lambda _: draw.choice(closing), text)
    for tag, other in zip(DEFAULT_FORMAT.tags, answer_format.tags, strict=True):
        text = text.replace(tag, other)
    return text
