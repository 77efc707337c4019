"""What the scores of the probes say about a stack of rewards.

Called by `grpo.audit`. Each rule is a function from scores to findings and knows no reward by name. The rules depend on
what each probe is: whether its answer is the gold one, and whether it has the requested format.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from grpo.rewards.findings import Finding, caused_by, format_score, join_with_and
from grpo.rewards.probe_scores import ProbeScores
from grpo.rewards.probes import (
    AS_REQUESTED,
    COMMA_NUMBERS,
    NO_LAST_BREAK,
    NO_WORK,
    NON_ASCII_DIGITS,
    NUMBER_FORMS,
    PROBE_INDEX,
    PROBES,
    REASONING,
    REFERENCE,
    REPEATED,
    WRONG,
    probe_named,
)


def judge_probes(measured: ProbeScores) -> list[Finding]:
    """Everything that is found, warnings first."""
    rules = (_exclusive, _line_break, _length, _bare, _numbers, _below_zero, _correctness, _shortcuts, _constant)
    found = [finding for rule in (*rules, _repeats, _form) for finding in rule(measured)]
    return sorted(found, key=lambda finding: finding.level != "warning")


def _scored(m: ProbeScores, names: Iterable[str]) -> str:
    return join_with_and(f"'{name}' {format_score(m.total(name))}" for name in names)


def _of(kind: str) -> list[str]:
    return [probe.name for probe in PROBES if probe.kind == kind]


def _above(m: ProbeScores, names: Sequence[str], honest: str) -> tuple[str, ...]:
    """Those with a higher total than `honest`, the highest first."""
    found = [name for name in names if m.total(name) > m.total(honest) + m.rounding]
    return tuple(sorted(found, key=m.total, reverse=True))


def _level(m: ProbeScores, names: Sequence[str]) -> tuple[str, ...]:
    """Those that are paid, and with the total of the reference."""
    if m.total(REFERENCE) <= m.rounding:
        return ()
    return tuple(name for name in names if abs(m.total(name) - m.total(REFERENCE)) <= m.rounding)


def _exclusive(m: ProbeScores) -> Iterator[Finding]:
    best, each = m.total(m.best.name), m.parts.max(axis=0)
    if best >= each.sum() - m.rounding:
        return
    paid = m.parts > m.rounding
    apart = [
        pair
        for pair in combinations(range(len(m.names)), 2)
        if paid[:, pair].any(axis=0).all() and not paid[:, pair].all(axis=1).any()
    ]
    lost = (
        f"the best score found is {format_score(best)}; the best of each reward would sum to {format_score(each.sum())}"
    )
    if apart:
        yield Finding("warning", f"{_pairs(m, apart)}: no probe is paid by both, so {lost}.")
    else:
        yield Finding("note", f"No probe has the best of every reward: {lost}.")


def _pairs(m: ProbeScores, pairs: Sequence[tuple[int, int]]) -> str:
    """Pairs in words, those of one reward together."""
    said = []
    while pairs:
        most, _ = Counter(k for pair in pairs for k in pair).most_common(1)[0]
        others = [m.names[sum(pair) - most] for pair in pairs if most in pair]
        if len(others) == 1:
            said.append(f"{m.names[most]} and {others[0]} exclude each other")
        else:
            said.append(f"{m.names[most]} excludes each of {join_with_and(others)}")
        pairs = [pair for pair in pairs if most not in pair]
    return "; ".join(said)


def _line_break(m: ProbeScores) -> Iterator[Finding]:
    names = sorted(REASONING, key=lambda name: len(REASONING[name]))
    costs = np.array([m.parts[PROBE_INDEX[name]] - m.parts[PROBE_INDEX[name + NO_LAST_BREAK]] for name in names])
    sizes = [len(probe_named(name).completion) for name in names]
    growth = costs[-1] - costs[0]
    growing = (np.diff(costs, axis=0) >= -m.rounding).all(axis=0) & (growth > m.rounding)
    if growing.any():
        # Between the two shortest where it grows there: the cost of long ones may have met a limit.
        slope = np.maximum((costs[1] - costs[0]) / (sizes[1] - sizes[0]), growth / (sizes[-1] - sizes[0]))
        slopes = {m.names[k]: float(slope[k]) for k in np.flatnonzero(growing)}
        short, long = (
            f"from {format_score(m.total(name))} to {format_score(m.total(name + NO_LAST_BREAK))}"
            for name in names[::3]
        )
        yield Finding(
            "warning",
            f"A missing last line break charges the whole completion, {format_score(sum(slopes.values()))} a "
            f"character{caused_by(slopes)}: a right answer of {sizes[0]} characters falls {short}, one of {sizes[-1]} "
            f"{long}.",
            tuple(name + NO_LAST_BREAK for name in names),
        )
        return
    place = int(np.argmax(np.abs(costs.sum(axis=1))))
    cost = float(costs[place].sum())
    # A reward of length charges for the line break as for any character; that is not about line breaks.
    if abs(cost) > 0.01 * float(np.abs(m.totals).max()):
        what = "A missing last line break" if cost > 0 else "A last line break"
        yield Finding("note", f"{what} costs {format_score(abs(cost))}{caused_by(m.made_of(np.abs(costs[place])))}.")


def _length(m: ProbeScores) -> Iterator[Finding]:
    """What more reasoning does to the score of the same answer, with and without the last line break."""
    short, *longer = REASONING
    worst, lowered, probes = 0.0, [], []
    for end in ("", NO_LAST_BREAK):
        changes = {name: m.change(short + end, name + end) for name in longer}
        least = min(total for total, _ in changes.values())
        if least >= worst - m.rounding:
            continue
        name = next(name for name in longer if changes[name][0] <= least + m.rounding)
        lowered.append(f"by {format_score(-least)} in '{name}{end}'{caused_by(changes[name][1])}")
        probes.append(name + end)
        worst = least
    if lowered:
        text = f"More reasoning lowers the score of the same answer: {join_with_and(lowered)}."
        yield Finding("warning", text, tuple(probes))
    pairs = [(short, "long line"), ("three lines", "many lines")]
    pairs += [(before + NO_LAST_BREAK, after + NO_LAST_BREAK) for before, after in pairs]
    before, after = max(pairs, key=lambda pair: m.change(*pair)[0])
    total, parts = m.change(before, after)
    if total > m.rounding:
        more = len(probe_named(after).completion) - len(probe_named(before).completion)
        text = f"Padding pays: {more} characters that say nothing add {format_score(total)}{caused_by(parts)}."
        yield Finding("warning", text, (after,), after)


def _bare(m: ProbeScores) -> Iterator[Finding]:
    floor = max(0.0, m.total("empty text")) + m.rounding
    if paid := tuple(name for name in ("bare number", "bare sentence") if m.total(name) > floor):
        most = max(paid, key=m.total)
        parts = m.made_of(m.parts[PROBE_INDEX[most]])
        earned = f"{format_score(m.total(most))} of {format_score(m.total(REFERENCE))}"
        text = f"An untagged bare answer earns {earned}{caused_by(parts)}."
        yield Finding("warning", text, paid)


def _numbers(m: ProbeScores) -> Iterator[Finding]:
    """Of the rewards that read numbers, those that misread some."""
    trifles: dict[str, list[str]] = {}
    for k, reward in enumerate(m.names):
        parts = {name: float(m.parts[PROBE_INDEX[name], k]) for name in PROBE_INDEX}
        # Two words, one as long as the number: a reward of length alone does not read numbers.
        word = max(parts["eighteen"], parts["a word for an answer"])
        if parts["18"] - word <= m.rounding:
            continue
        takes = {name for name in _of(NUMBER_FORMS) if parts[name] > (parts["18"] + word) / 2}
        refused = [name for name in ("-5", *COMMA_NUMBERS, "1080 for gold 1,080") if name not in takes]
        foreign = [name for name in NON_ASCII_DIGITS if name in takes]
        faults = []
        if refused:
            both = takes.isdisjoint(COMMA_NUMBERS)
            said = [
                "1,080" if both and name == COMMA_NUMBERS[0] else name
                for name in refused
                if not (both and name == COMMA_NUMBERS[1])
            ]
            faults.append(f"refuses the right answer{'s' if len(said) > 1 else ''} {join_with_and(said)}")
        if foreign:
            faults.append(f"pays for {join_with_and(foreign)}")
        if faults:
            text = f"{reward} reads numbers, but {', and '.join(faults)}."
            yield Finding("warning", text, (*refused, *foreign))
        if small := [name for name in ("18.0", "$18", "18 pens") if name not in takes]:
            trifles.setdefault(join_with_and(small), []).append(reward)
    for answers, rewards in trifles.items():
        yield Finding("note", f"{answers} for 18: refused by {join_with_and(rewards)}.")


def _below_zero(m: ProbeScores) -> Iterator[Finding]:
    low, high = m.parts.min(axis=0), m.parts.max(axis=0)
    below = (low < -m.rounding) & (high - low > m.rounding)
    pays = high > m.rounding
    if (below & pays).any():
        lowest = PROBES[int(np.argmin(m.totals))].name
        ranges = join_with_and(
            f"{m.names[k]} pays up to {format_score(high[k])} and falls to {format_score(low[k])}"
            for k in np.flatnonzero(below & pays)
        )
        text = f"{ranges}; the lowest total is {format_score(m.total(lowest))}, of '{lowest}'."
        yield Finding("warning", text, (lowest,))
    if (below & ~pays).any():
        ranges = join_with_and(f"{m.names[k]} (down to {format_score(low[k])})" for k in np.flatnonzero(below & ~pays))
        yield Finding("note", f"Only ever a penalty: {ranges}.")


def _outscoring(m: ProbeScores, kind: str) -> tuple[str, tuple[str, ...]]:
    """The probes of a kind that outscore the worst honest one with the same end, in words and by name."""
    said: list[str] = []
    names: list[str] = []
    # A last line break that one has and the other lacks is a difference of its own.
    for broken in (True, False):
        alike = [each for each in PROBES if each.completion.endswith("\n") is broken]
        honest = min((each.name for each in alike if each.kind == AS_REQUESTED), key=m.total)
        if above := _above(m, [each.name for each in alike if each.kind == kind], honest):
            said.append(f"{_scored(m, above)} over {_scored(m, [honest])}")
            names += above
    return "; ".join(said), tuple(names)


def _correctness(m: ProbeScores) -> Iterator[Finding]:
    right, wrong = m.total(REFERENCE), m.total("wrong as asked")
    if right - wrong <= m.rounding:
        totals = f"{format_score(right)} and {format_score(wrong)}"
        text = f"A right answer earns no more than a wrong one in the same format: {totals}."
        yield Finding("warning", text, ("wrong as asked",))
    said, names = _outscoring(m, WRONG)
    if names:
        yield Finding("warning", f"Wrong outscores right: {said}.", names, names[0])


def _shortcuts(m: ProbeScores) -> Iterator[Finding]:
    said, names = _outscoring(m, NO_WORK)
    if names:
        yield Finding("warning", f"Right without work outscores right with work: {said}.", names, names[0])
    if level := [name for name in _level(m, _of(NO_WORK)) if name not in names]:
        text = f"No work pays as much as work, {format_score(m.total(REFERENCE))}: {join_with_and(level)}."
        yield Finding("note", text, tuple(level))


def _repeats(m: ProbeScores) -> Iterator[Finding]:
    once = format_score(m.total(REFERENCE))
    if above := _above(m, _of(REPEATED), REFERENCE):
        yield Finding(
            "warning", f"More than once pays more than once: {_scored(m, above)}, once {once}.", above, above[0]
        )
    if level := _level(m, _of(REPEATED)):
        yield Finding("note", f"More than once pays as much as once, {once}: {join_with_and(level)}.", level)


def _form(m: ProbeScores) -> Iterator[Finding]:
    right = m.total(REFERENCE)
    if right - m.total("wrong as asked") <= m.rounding:
        return
    forms = ("wrong as asked", "no answer in the tags", "template copied")
    if paid := [name for name in forms if m.total(name) > m.rounding]:
        yield Finding(
            "note", f"Form pays without a right answer: {_scored(m, paid)}, of {format_score(right)}.", tuple(paid)
        )


def _constant(m: ProbeScores) -> Iterator[Finding]:
    for k in np.flatnonzero(np.ptp(m.parts, axis=0) <= m.rounding):
        score = format_score(m.raw[0, k])
        yield Finding("warning", f"{m.names[k]} gives every probe the same score, {score}: it can tell none apart.")
