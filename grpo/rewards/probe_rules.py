"""Rules on the scores of the probes: what each says about a stack of rewards.

Called by `grpo.audit`. Each rule is a function from scores to findings and knows no reward by name. The rules depend on
what each probe is: whether its answer is the gold one, and whether it has the requested format.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from grpo.rewards.finding import Finding, caused_by, format_score, join_with_and
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


def judge_probes(scores: ProbeScores) -> list[Finding]:
    """All findings, warnings first."""
    rules = (
        _exclusive_rewards,
        _missing_line_break,
        _reasoning_length,
        _bare_answer,
        _misread_numbers,
        _below_zero,
        _wrong_outscores_right,
        _no_work,
        _constant_reward,
        _repetition,
        _format_alone,
    )
    findings = [finding for rule in rules for finding in rule(scores)]
    return sorted(findings, key=lambda finding: finding.level != "warning")


def _exclusive_rewards(scores: ProbeScores) -> Iterator[Finding]:
    """Whether one completion can have the best score of every reward."""
    best, best_per_reward = scores.total(scores.best.name), scores.weighted.max(axis=0)
    if best >= best_per_reward.sum() - scores.rounding:
        return
    paid = scores.weighted > scores.rounding
    exclusive = [
        pair
        for pair in combinations(range(len(scores.names)), 2)
        if paid[:, pair].any(axis=0).all() and not paid[:, pair].all(axis=1).any()
    ]
    loss = (
        f"the best score found is {format_score(best)}; the best of each reward would sum to "
        f"{format_score(best_per_reward.sum())}"
    )
    if exclusive:
        text = f"{_describe_pairs(scores.names, exclusive)}: no probe is paid by both, so {loss}."
        yield Finding("warning", text)
    else:
        yield Finding("note", f"No probe has the best score of every reward: {loss}.")


def _describe_pairs(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    """Pairs of rewards as text; the pairs that share a reward are one phrase."""
    phrases = []
    while pairs:
        most_frequent, _ = Counter(k for pair in pairs for k in pair).most_common(1)[0]
        others = [names[sum(pair) - most_frequent] for pair in pairs if most_frequent in pair]
        if len(others) == 1:
            phrases.append(f"{names[most_frequent]} and {others[0]} exclude each other")
        else:
            phrases.append(f"{names[most_frequent]} excludes each of {join_with_and(others)}")
        pairs = [pair for pair in pairs if most_frequent not in pair]
    return "; ".join(phrases)


def _missing_line_break(scores: ProbeScores) -> Iterator[Finding]:
    """What a missing last line break costs, and whether the cost grows with the length of the completion."""
    names = sorted(REASONING, key=lambda name: len(REASONING[name]))
    costs = np.array(
        [scores.weighted[PROBE_INDEX[name]] - scores.weighted[PROBE_INDEX[name + NO_LAST_BREAK]] for name in names]
    )
    lengths = [len(probe_named(name).completion) for name in names]
    growth = costs[-1] - costs[0]
    growing = (np.diff(costs, axis=0) >= -scores.rounding).all(axis=0) & (growth > scores.rounding)
    if growing.any():
        # The slope between the two shortest probes, if it is larger: the cost of long ones may have reached a limit.
        slope = np.maximum((costs[1] - costs[0]) / (lengths[1] - lengths[0]), growth / (lengths[-1] - lengths[0]))
        slopes = {scores.names[k]: float(slope[k]) for k in np.flatnonzero(growing)}
        short, long = (
            f"from {format_score(scores.total(name))} to {format_score(scores.total(name + NO_LAST_BREAK))}"
            for name in names[::3]
        )
        text = (
            f"A missing last line break is charged for the whole completion, {format_score(sum(slopes.values()))} per "
            f"character{caused_by(slopes)}: a right answer of {lengths[0]} characters falls {short}, one of "
            f"{lengths[-1]} {long}."
        )
        yield Finding("warning", text, tuple(name + NO_LAST_BREAK for name in names))
        return
    largest = int(np.argmax(np.abs(costs.sum(axis=1))))
    cost = float(costs[largest].sum())
    # A reward of length charges for the line break as for any character; that is not about line breaks.
    if abs(cost) > 0.01 * float(np.abs(scores.totals).max()):
        subject = "A missing last line break" if cost > 0 else "A last line break"
        rewards = caused_by(scores.nonzero_parts(np.abs(costs[largest])))
        yield Finding("note", f"{subject} costs {format_score(abs(cost))}{rewards}.")


def _reasoning_length(scores: ProbeScores) -> Iterator[Finding]:
    """How longer reasoning changes the score of the same answer, with and without the last line break."""
    short, *longer = REASONING
    worst, losses, probes = 0.0, [], []
    for end in ("", NO_LAST_BREAK):
        changes = {name: scores.change(short + end, name + end) for name in longer}
        lowest = min(total for total, _ in changes.values())
        if lowest >= worst - scores.rounding:
            continue
        name = next(name for name in longer if changes[name][0] <= lowest + scores.rounding)
        losses.append(f"by {format_score(-lowest)} in '{name}{end}'{caused_by(changes[name][1])}")
        probes.append(name + end)
        worst = lowest
    if losses:
        text = f"More reasoning lowers the score of the same answer: {join_with_and(losses)}."
        yield Finding("warning", text, tuple(probes))
    pairs = [(short, "long line"), ("three lines", "many lines")]
    pairs += [(before + NO_LAST_BREAK, after + NO_LAST_BREAK) for before, after in pairs]
    before, after = max(pairs, key=lambda pair: scores.change(*pair)[0])
    total, parts = scores.change(before, after)
    if total > scores.rounding:
        filler = len(probe_named(after).completion) - len(probe_named(before).completion)
        text = f"Padding pays: {filler} characters of filler add {format_score(total)}{caused_by(parts)}."
        yield Finding("warning", text, (after,), after)


def _bare_answer(scores: ProbeScores) -> Iterator[Finding]:
    threshold = max(0.0, scores.total("empty text")) + scores.rounding
    if paid := tuple(name for name in ("bare number", "bare sentence") if scores.total(name) > threshold):
        highest = max(paid, key=scores.total)
        rewards = caused_by(scores.nonzero_parts(scores.weighted[PROBE_INDEX[highest]]))
        earned = f"{format_score(scores.total(highest))} of {format_score(scores.total(REFERENCE))}"
        yield Finding("warning", f"A bare answer without tags earns {earned}{rewards}.", paid)


def _misread_numbers(scores: ProbeScores) -> Iterator[Finding]:
    """Which of the rewards that read numbers misread some."""
    refused_forms: dict[str, list[str]] = {}
    for k, reward in enumerate(scores.names):
        parts = {name: float(scores.weighted[PROBE_INDEX[name], k]) for name in PROBE_INDEX}
        # Two words, one as long as the number: a reward that reads only the length does not read numbers.
        word = max(parts["eighteen"], parts["a word for an answer"])
        if parts["18"] - word <= scores.rounding:
            continue
        accepted = {name for name in _names_of_kind(NUMBER_FORMS) if parts[name] > (parts["18"] + word) / 2}
        refused = [name for name in ("-5", *COMMA_NUMBERS, "1080 for gold 1,080") if name not in accepted]
        non_ascii = [name for name in NON_ASCII_DIGITS if name in accepted]
        faults = _describe_refused(refused, accepted)
        if non_ascii:
            faults.append(f"pays for {join_with_and(non_ascii)}")
        if faults:
            text = f"{reward} reads numbers, but {', and '.join(faults)}."
            yield Finding("warning", text, (*refused, *non_ascii))
        if forms := [name for name in ("18.0", "$18", "18 pens") if name not in accepted]:
            refused_forms.setdefault(join_with_and(forms), []).append(reward)
    for answers, rewards in refused_forms.items():
        yield Finding("note", f"{answers} for 18: refused by {join_with_and(rewards)}.")


def _describe_refused(refused: Sequence[str], accepted: set[str]) -> list[str]:
    """The phrase on right answers that are refused, if any; a comma that is always refused is named once."""
    if not refused:
        return []
    if accepted.isdisjoint(COMMA_NUMBERS):
        refused = ["1,080" if name == COMMA_NUMBERS[0] else name for name in refused if name != COMMA_NUMBERS[1]]
    return [f"refuses the right answer{'s' if len(refused) > 1 else ''} {join_with_and(refused)}"]


def _below_zero(scores: ProbeScores) -> Iterator[Finding]:
    low, high = scores.weighted.min(axis=0), scores.weighted.max(axis=0)
    falls_below_zero = (low < -scores.rounding) & (high - low > scores.rounding)
    pays = high > scores.rounding
    if (falls_below_zero & pays).any():
        lowest = PROBES[int(np.argmin(scores.totals))].name
        ranges = join_with_and(
            f"{scores.names[k]} pays up to {format_score(high[k])} and falls to {format_score(low[k])}"
            for k in np.flatnonzero(falls_below_zero & pays)
        )
        text = f"{ranges}; the lowest total is {format_score(scores.total(lowest))}, of '{lowest}'."
        yield Finding("warning", text, (lowest,))
    if (falls_below_zero & ~pays).any():
        ranges = join_with_and(
            f"{scores.names[k]} (down to {format_score(low[k])})" for k in np.flatnonzero(falls_below_zero & ~pays)
        )
        yield Finding("note", f"Only a penalty, never above 0: {ranges}.")


def _wrong_outscores_right(scores: ProbeScores) -> Iterator[Finding]:
    right, wrong = scores.total(REFERENCE), scores.total("wrong as asked")
    if right - wrong <= scores.rounding:
        totals = f"{format_score(right)} and {format_score(wrong)}"
        text = f"A right answer earns no more than a wrong one in the same format: {totals}."
        yield Finding("warning", text, ("wrong as asked",))
    text, names = _probes_outscoring_right(scores, WRONG)
    if names:
        yield Finding("warning", f"Wrong outscores right: {text}.", names, names[0])


def _no_work(scores: ProbeScores) -> Iterator[Finding]:
    text, names = _probes_outscoring_right(scores, NO_WORK)
    if names:
        yield Finding("warning", f"Right without work outscores right with work: {text}.", names, names[0])
    if equal := [name for name in _probes_equal_to_reference(scores, _names_of_kind(NO_WORK)) if name not in names]:
        text = f"No work pays as much as work, {format_score(scores.total(REFERENCE))}: {join_with_and(equal)}."
        yield Finding("note", text, tuple(equal))


def _constant_reward(scores: ProbeScores) -> Iterator[Finding]:
    for k in np.flatnonzero(np.ptp(scores.weighted, axis=0) <= scores.rounding):
        score = format_score(scores.raw[0, k])
        text = f"{scores.names[k]} gives every probe the same score, {score}: it distinguishes none of them."
        yield Finding("warning", text)


def _repetition(scores: ProbeScores) -> Iterator[Finding]:
    once = format_score(scores.total(REFERENCE))
    if above := _probes_above(scores, _names_of_kind(REPEATED), REFERENCE):
        text = f"Repetition pays: {_names_with_totals(scores, above)}, against {once} without."
        yield Finding("warning", text, above, above[0])
    if equal := _probes_equal_to_reference(scores, _names_of_kind(REPEATED)):
        yield Finding("note", f"Repetition costs nothing, {once} with and without: {join_with_and(equal)}.", equal)


def _format_alone(scores: ProbeScores) -> Iterator[Finding]:
    right = scores.total(REFERENCE)
    if right - scores.total("wrong as asked") <= scores.rounding:
        return
    without_answer = ("wrong as asked", "no answer in the tags", "template copied")
    if paid := [name for name in without_answer if scores.total(name) > scores.rounding]:
        text = f"Format pays without a right answer: {_names_with_totals(scores, paid)}, of {format_score(right)}."
        yield Finding("note", text, tuple(paid))


def _names_of_kind(kind: str) -> list[str]:
    return [probe.name for probe in PROBES if probe.kind == kind]


def _names_with_totals(scores: ProbeScores, names: Iterable[str]) -> str:
    return join_with_and(f"'{name}' {format_score(scores.total(name))}" for name in names)


def _probes_above(scores: ProbeScores, names: Sequence[str], baseline: str) -> tuple[str, ...]:
    """The probes with a higher total than the probe `baseline`, the highest first."""
    above = [name for name in names if scores.total(name) > scores.total(baseline) + scores.rounding]
    return tuple(sorted(above, key=scores.total, reverse=True))


def _probes_equal_to_reference(scores: ProbeScores, names: Sequence[str]) -> tuple[str, ...]:
    """The probes with the same total as the reference, if the reference is paid at all."""
    if scores.total(REFERENCE) <= scores.rounding:
        return ()
    return tuple(name for name in names if abs(scores.total(name) - scores.total(REFERENCE)) <= scores.rounding)


def _probes_outscoring_right(scores: ProbeScores, kind: str) -> tuple[str, tuple[str, ...]]:
    """The probes of a kind that outscore the lowest right probe in the requested format, as text and by name."""
    phrases: list[str] = []
    names: list[str] = []
    # Only probes with the same end are compared: the last line break has its own score.
    for ends_with_break in (True, False):
        same_end = [probe for probe in PROBES if probe.completion.endswith("\n") is ends_with_break]
        lowest = min((probe.name for probe in same_end if probe.kind == AS_REQUESTED), key=scores.total)
        if above := _probes_above(scores, [probe.name for probe in same_end if probe.kind == kind], lowest):
            phrases.append(f"{_names_with_totals(scores, above)} over {_names_with_totals(scores, [lowest])}")
            names += above
    return "; ".join(phrases), tuple(names)
