"""The battery of `grpo.audit`: probe completions, and what their scores say about a stack of rewards.

The findings are rules on measured scores and know no reward by name. What they take for granted is what a probe is:
whether its answer is the gold one, and whether it has the format that grpo/tasks/answers.py asks for.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np

from grpo.rewards.advantages import ROUNDING, Floats
from grpo.rewards.registry import RewardStack

ASKED = "right, as asked"
LOOSE = "right, format off"
LAZY = "right, no work shown"
REPEATED = "given more than once"
WRONG = "wrong"
NUMBERS = "numbers for answers"


@dataclass(frozen=True)
class Probe:
    name: str
    kind: str
    completion: str
    gold: str = "18"
    question: str = "Tom has 3 boxes of 6 pens. How many pens does he have?"


def _asked(reasoning: str, answer: str) -> str:
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{answer}\n</answer>\n"


# Long probes have about the 200 tokens that the reference recipe allows.
PADDING = 16 * ["I go over this once more and find the same."]
LINE = "3 boxes of 6 pens are 3 * 6 = 18 pens."
LINES = "One box holds 6 pens.\nThere are 3 boxes.\n3 * 6 = 18."
LONG_LINE = " ".join([LINE, *PADDING])
MANY_LINES = "\n".join([LINES, *PADDING])
CHATTER = " ".join(16 * ["Let me know if you have any other question."])
BLOCK = "<answer>\n18\n</answer>\n"
WORK = f"<reasoning>\n{LINE}\n</reasoning>\n"

REASONING = {"one line": LINE, "three lines": LINES, "long line": LONG_LINE, "many lines": MANY_LINES}
UNBROKEN = ", no break"  # at the end of a name: without the last line break


def _number(name: str, answer: str, gold: str, question: str = Probe.question) -> Probe:
    return Probe(name, NUMBERS, _asked("I work it out step by step.", answer), gold, question)


# Those with the same question stand next to each other, as completions do in training.
PROBES = (
    *(Probe(name, ASKED, _asked(reasoning, "18")) for name, reasoning in REASONING.items()),
    *(Probe(name + UNBROKEN, ASKED, _asked(reasoning, "18")[:-1]) for name, reasoning in REASONING.items()),
    Probe("preamble before", LOOSE, f"Sure, let us see.\n{_asked(LINE, '18')}"),
    Probe("short text after", LOOSE, _asked(LINE, "18") + "I hope this helps!\n"),
    Probe("long text after", LOOSE, _asked(LINE, "18") + CHATTER),
    Probe("blank lines between", LOOSE, f"{WORK}\n\n{BLOCK}"),
    Probe("tags inline", LOOSE, f"<reasoning>{LINE}</reasoning> <answer>18</answer>\n"),
    Probe("bare number", LAZY, "18"),
    Probe("bare sentence", LAZY, "The answer is 18."),
    Probe("answer tags alone", LAZY, BLOCK),
    Probe("empty reasoning", LAZY, _asked("", "18")),
    Probe("filler reasoning", LAZY, _asked("...", "18")),
    Probe("everything twice", REPEATED, 2 * _asked(LINE, "18")),
    Probe("reasoning twice", REPEATED, 2 * WORK + BLOCK),
    Probe("answer twice", REPEATED, WORK + 2 * BLOCK),
    Probe("inline, then in lines", REPEATED, f"<reasoning>{LINE}</reasoning><answer>18</answer>\n" + WORK + BLOCK),
    Probe("last of 3 right", REPEATED, WORK + BLOCK.replace("18", "16") + BLOCK.replace("18", "17") + BLOCK),
    Probe("first of 3 right", REPEATED, WORK + BLOCK + BLOCK.replace("18", "17") + BLOCK.replace("18", "16")),
    Probe("3 answers in one", REPEATED, _asked(LINE, "16\n17\n18")),
    Probe("wrong as asked", WRONG, _asked("3 boxes of 6 pens are 3 * 6 = 17 pens.", "17")),
    Probe("right work, wrong end", WRONG, _asked(LINE, "17")),
    Probe("wrong, then long text", WRONG, _asked("I cannot tell.", "none") + CHATTER),
    Probe("a word for an answer", WRONG, _asked("I work it out step by step.", "no")),
    Probe("no answer in the tags", WRONG, _asked(LINE, "")),
    Probe("template copied", WRONG, _asked("...", "...")),
    Probe("bare wrong number", WRONG, "17"),
    Probe("empty text", WRONG, ""),
    _number("18", "18", "18"),
    _number("18.0", "18.0", "18"),
    _number("$18", "$18", "18"),
    _number("18 pens", "18 pens", "18"),
    _number("eighteen", "eighteen", "18"),
    _number("１８ (full-width)", "１８", "18"),
    _number("-5", "-5", "-5", "It is 3 degrees and gets 8 degrees colder. How many degrees is it then?"),
    _number("1,080 for gold 1080", "1,080", "1080", "How many pens are in 90 boxes of 12 pens?"),
    _number("1,080 for gold 1,080", "1,080", "1,080", "How many pens are in 90 boxes of 12 pens?"),
    _number("1080 for gold 1,080", "1080", "1,080", "How many pens are in 90 boxes of 12 pens?"),
    _number("² (superscript)", "²", "2", "Tom has 1 pen and finds another one. How many pens does he have?"),
    _number("٣ (Arabic-Indic)", "٣", "3", "Tom has 1 pen and finds 2 others. How many pens does he have?"),
)
REFERENCE = "one line"
COMMAS = ("1,080 for gold 1080", "1,080 for gold 1,080")
FOREIGN = ("² (superscript)", "٣ (Arabic-Indic)", "１８ (full-width)")
PLACES = {probe.name: place for place, probe in enumerate(PROBES)}

# What is changed -> the probes without and with the change, and nothing else between them.
CHANGES = {
    "no last line break": (REFERENCE, REFERENCE + UNBROKEN),
    "the same in a long completion": ("many lines", "many lines" + UNBROKEN),
    "reasoning over three lines": (REFERENCE, "three lines"),
    "longer reasoning": (REFERENCE, "long line"),
    "the same, no last line break": (REFERENCE + UNBROKEN, "long line" + UNBROKEN),
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


@dataclass(frozen=True)
class Finding:
    """What a designer of rewards should worry about (`warning`), or know (`note`), and the probes that show it."""

    level: Literal["warning", "note"]
    text: str
    probes: tuple[str, ...] = ()
    example: str | None = None  # the probe worth reading


@dataclass(frozen=True)
class Measured:
    """The battery's scores under a stack.

    Attributes:
        names: the R rewards with a weight.
        raw: (N, R) their scores of each probe.
        parts: (N, R) the same times their weights; those of a probe sum to its total.
    """

    names: list[str]
    raw: Floats
    parts: Floats

    @cached_property
    def totals(self) -> Floats:
        return self.parts.sum(axis=1)

    @cached_property
    def rounding(self) -> float:
        """A difference up to this is none."""
        return ROUNDING * float(np.abs(self.parts).max())

    @cached_property
    def best(self) -> Probe:
        """The first probe with the highest total."""
        return PROBES[int(np.argmax(self.totals >= self.totals.max() - self.rounding))]

    def total(self, probe: str) -> float:
        return float(self.totals[PLACES[probe]])

    def change(self, before: str, after: str) -> tuple[float, dict[str, float]]:
        """By how much the total differs between two probes, and the rewards that made the difference."""
        parts = self.parts[PLACES[after]] - self.parts[PLACES[before]]
        return float(parts.sum()), self.made_of(parts)

    def made_of(self, parts: Floats) -> dict[str, float]:
        return {name: float(part) for name, part in zip(self.names, parts, strict=True) if abs(part) > self.rounding}


def measure(stack: RewardStack) -> Measured:
    """Score the battery.

    Raises:
        UserError: a reward raised, or returned something else than a finite number for each completion.
    """
    columns = zip(*((probe.completion, probe.gold, probe.question) for probe in PROBES), strict=True)
    scores = stack.score(*map(list, columns))
    names = [name for name, weight in stack.weights.items() if weight]
    raw = np.array([scores[name] for name in names]).T
    return Measured(names, raw, raw * [stack.weights[name] for name in names])


def judge(measured: Measured) -> list[Finding]:
    """Everything that is found, warnings first."""
    rules = (_exclusive, _line_break, _length, _bare, _numbers, _below_zero, _correctness, _shortcuts, _constant)
    found = [finding for rule in (*rules, _repeats, _form) for finding in rule(measured)]
    return sorted(found, key=lambda finding: finding.level != "warning")


def probe(name: str) -> Probe:
    return PROBES[PLACES[name]]


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:z.4g}"


def listing(items: Iterable[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def by(parts: dict[str, float]) -> str:
    """The rewards that made a difference, in brackets."""
    if len(parts) == 1:
        return f" ({next(iter(parts))})"
    return f" ({', '.join(f'{name} {number(part)}' for name, part in parts.items())})" if parts else ""


def _scored(m: Measured, names: Iterable[str]) -> str:
    return listing(f"'{name}' {number(m.total(name))}" for name in names)


def _of(kind: str) -> list[str]:
    return [probe.name for probe in PROBES if probe.kind == kind]


def _above(m: Measured, names: Sequence[str], honest: str) -> tuple[str, ...]:
    """Those with a higher total than `honest`, the highest first."""
    found = [name for name in names if m.total(name) > m.total(honest) + m.rounding]
    return tuple(sorted(found, key=m.total, reverse=True))


def _level(m: Measured, names: Sequence[str]) -> tuple[str, ...]:
    """Those that are paid, and with the total of the reference."""
    if m.total(REFERENCE) <= m.rounding:
        return ()
    return tuple(name for name in names if abs(m.total(name) - m.total(REFERENCE)) <= m.rounding)


def _exclusive(m: Measured) -> Iterator[Finding]:
    best, each = m.total(m.best.name), m.parts.max(axis=0)
    if best >= each.sum() - m.rounding:
        return
    paid = m.parts > m.rounding
    apart = [
        pair
        for pair in combinations(range(len(m.names)), 2)
        if paid[:, pair].any(axis=0).all() and not paid[:, pair].all(axis=1).any()
    ]
    lost = f"the best score found is {number(best)}; the best of each reward would sum to {number(each.sum())}"
    if apart:
        yield Finding("warning", f"{_pairs(m, apart)}: no probe is paid by both, so {lost}.")
    else:
        yield Finding("note", f"No probe has the best of every reward: {lost}.")


def _pairs(m: Measured, pairs: Sequence[tuple[int, int]]) -> str:
    """Pairs in words, those of one reward together."""
    said = []
    while pairs:
        most, _ = Counter(k for pair in pairs for k in pair).most_common(1)[0]
        others = [m.names[sum(pair) - most] for pair in pairs if most in pair]
        if len(others) == 1:
            said.append(f"{m.names[most]} and {others[0]} exclude each other")
        else:
            said.append(f"{m.names[most]} excludes each of {listing(others)}")
        pairs = [pair for pair in pairs if most not in pair]
    return "; ".join(said)


def _line_break(m: Measured) -> Iterator[Finding]:
    names = sorted(REASONING, key=lambda name: len(REASONING[name]))
    costs = np.array([m.parts[PLACES[name]] - m.parts[PLACES[name + UNBROKEN]] for name in names])
    sizes = [len(probe(name).completion) for name in names]
    growth = costs[-1] - costs[0]
    growing = (np.diff(costs, axis=0) >= -m.rounding).all(axis=0) & (growth > m.rounding)
    if growing.any():
        # Between the two shortest where it grows there: the cost of long ones may have met a limit.
        slope = np.maximum((costs[1] - costs[0]) / (sizes[1] - sizes[0]), growth / (sizes[-1] - sizes[0]))
        slopes = {m.names[k]: float(slope[k]) for k in np.flatnonzero(growing)}
        short, long = (f"from {number(m.total(name))} to {number(m.total(name + UNBROKEN))}" for name in names[::3])
        yield Finding(
            "warning",
            f"A missing last line break charges the whole completion, {number(sum(slopes.values()))} a "
            f"character{by(slopes)}: a right answer of {sizes[0]} characters falls {short}, one of {sizes[-1]} {long}.",
            tuple(name + UNBROKEN for name in names),
        )
        return
    place = int(np.argmax(np.abs(costs.sum(axis=1))))
    cost = float(costs[place].sum())
    # A reward of length charges for the line break as for any character; that is not about line breaks.
    if abs(cost) > 0.01 * float(np.abs(m.totals).max()):
        what = "A missing last line break" if cost > 0 else "A last line break"
        yield Finding("note", f"{what} costs {number(abs(cost))}{by(m.made_of(np.abs(costs[place])))}.")


def _length(m: Measured) -> Iterator[Finding]:
    """What more reasoning does to the score of the same answer, with and without the last line break."""
    short, *longer = REASONING
    worst, lowered, probes = 0.0, [], []
    for end in ("", UNBROKEN):
        changes = {name: m.change(short + end, name + end) for name in longer}
        least = min(total for total, _ in changes.values())
        if least >= worst - m.rounding:
            continue
        name = next(name for name in longer if changes[name][0] <= least + m.rounding)
        lowered.append(f"by {number(-least)} in '{name}{end}'{by(changes[name][1])}")
        probes.append(name + end)
        worst = least
    if lowered:
        text = f"More reasoning lowers the score of the same answer: {listing(lowered)}."
        yield Finding("warning", text, tuple(probes))
    pairs = [(short, "long line"), ("three lines", "many lines")]
    pairs += [(before + UNBROKEN, after + UNBROKEN) for before, after in pairs]
    before, after = max(pairs, key=lambda pair: m.change(*pair)[0])
    total, parts = m.change(before, after)
    if total > m.rounding:
        more = len(probe(after).completion) - len(probe(before).completion)
        text = f"Padding pays: {more} characters that say nothing add {number(total)}{by(parts)}."
        yield Finding("warning", text, (after,), after)


def _bare(m: Measured) -> Iterator[Finding]:
    floor = max(0.0, m.total("empty text")) + m.rounding
    if paid := tuple(name for name in ("bare number", "bare sentence") if m.total(name) > floor):
        most = max(paid, key=m.total)
        parts = m.made_of(m.parts[PLACES[most]])
        text = f"An untagged bare answer earns {number(m.total(most))} of {number(m.total(REFERENCE))}{by(parts)}."
        yield Finding("warning", text, paid)


def _numbers(m: Measured) -> Iterator[Finding]:
    """Of the rewards that read numbers, those that misread some."""
    trifles: dict[str, list[str]] = {}
    for k, reward in enumerate(m.names):
        parts = {name: float(m.parts[PLACES[name], k]) for name in PLACES}
        # Two words, one as long as the number: a reward of length alone does not read numbers.
        word = max(parts["eighteen"], parts["a word for an answer"])
        if parts["18"] - word <= m.rounding:
            continue
        takes = {name for name in _of(NUMBERS) if parts[name] > (parts["18"] + word) / 2}
        refused = [name for name in ("-5", *COMMAS, "1080 for gold 1,080") if name not in takes]
        foreign = [name for name in FOREIGN if name in takes]
        faults = []
        if refused:
            both = takes.isdisjoint(COMMAS)
            said = [
                "1,080" if both and name == COMMAS[0] else name for name in refused if not (both and name == COMMAS[1])
            ]
            faults.append(f"refuses the right answer{'s' if len(said) > 1 else ''} {listing(said)}")
        if foreign:
            faults.append(f"pays for {listing(foreign)}")
        if faults:
            text = f"{reward} reads numbers, but {', and '.join(faults)}."
            yield Finding("warning", text, (*refused, *foreign))
        if small := [name for name in ("18.0", "$18", "18 pens") if name not in takes]:
            trifles.setdefault(listing(small), []).append(reward)
    for answers, rewards in trifles.items():
        yield Finding("note", f"{answers} for 18: refused by {listing(rewards)}.")


def _below_zero(m: Measured) -> Iterator[Finding]:
    low, high = m.parts.min(axis=0), m.parts.max(axis=0)
    below = (low < -m.rounding) & (high - low > m.rounding)
    pays = high > m.rounding
    if (below & pays).any():
        lowest = PROBES[int(np.argmin(m.totals))].name
        ranges = listing(
            f"{m.names[k]} pays up to {number(high[k])} and falls to {number(low[k])}"
            for k in np.flatnonzero(below & pays)
        )
        text = f"{ranges}; the lowest total is {number(m.total(lowest))}, of '{lowest}'."
        yield Finding("warning", text, (lowest,))
    if (below & ~pays).any():
        ranges = listing(f"{m.names[k]} (down to {number(low[k])})" for k in np.flatnonzero(below & ~pays))
        yield Finding("note", f"Only ever a penalty: {ranges}.")


def _outscoring(m: Measured, kind: str) -> tuple[str, tuple[str, ...]]:
    """The probes of a kind that outscore the worst honest one with the same end, in words and by name."""
    said: list[str] = []
    names: list[str] = []
    # A last line break that one has and the other lacks is a difference of its own.
    for broken in (True, False):
        alike = [each for each in PROBES if each.completion.endswith("\n") is broken]
        honest = min((each.name for each in alike if each.kind == ASKED), key=m.total)
        if above := _above(m, [each.name for each in alike if each.kind == kind], honest):
            said.append(f"{_scored(m, above)} over {_scored(m, [honest])}")
            names += above
    return "; ".join(said), tuple(names)


def _correctness(m: Measured) -> Iterator[Finding]:
    right, wrong = m.total(REFERENCE), m.total("wrong as asked")
    if right - wrong <= m.rounding:
        text = f"A right answer earns no more than a wrong one in the same format: {number(right)} and {number(wrong)}."
        yield Finding("warning", text, ("wrong as asked",))
    said, names = _outscoring(m, WRONG)
    if names:
        yield Finding("warning", f"Wrong outscores right: {said}.", names, names[0])


def _shortcuts(m: Measured) -> Iterator[Finding]:
    said, names = _outscoring(m, LAZY)
    if names:
        yield Finding("warning", f"Right without work outscores right with work: {said}.", names, names[0])
    if level := [name for name in _level(m, _of(LAZY)) if name not in names]:
        text = f"No work pays as much as work, {number(m.total(REFERENCE))}: {listing(level)}."
        yield Finding("note", text, tuple(level))


def _repeats(m: Measured) -> Iterator[Finding]:
    once = number(m.total(REFERENCE))
    if above := _above(m, _of(REPEATED), REFERENCE):
        yield Finding(
            "warning", f"More than once pays more than once: {_scored(m, above)}, once {once}.", above, above[0]
        )
    if level := _level(m, _of(REPEATED)):
        yield Finding("note", f"More than once pays as much as once, {once}: {listing(level)}.", level)


def _form(m: Measured) -> Iterator[Finding]:
    right = m.total(REFERENCE)
    if right - m.total("wrong as asked") <= m.rounding:
        return
    forms = ("wrong as asked", "no answer in the tags", "template copied")
    if paid := [name for name in forms if m.total(name) > m.rounding]:
        yield Finding("note", f"Form pays without a right answer: {_scored(m, paid)}, of {number(right)}.", tuple(paid))


def _constant(m: Measured) -> Iterator[Finding]:
    for k in np.flatnonzero(np.ptp(m.parts, axis=0) <= m.rounding):
        score = number(m.raw[0, k])
        yield Finding("warning", f"{m.names[k]} gives every probe the same score, {score}: it can tell none apart.")
