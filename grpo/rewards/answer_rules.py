"""Rules on answers: which right ones a reward refuses, and which wrong ones it pays.

Called by grpo/rewards/probe_rules.py. The rules know no reward by name: a reward reads answers if it pays more for the
right answer than for another one in the same text.
"""

from collections.abc import Iterator, Sequence

from grpo.core.statistics import Floats
from grpo.rewards.finding import Finding, format_score, join_with_and
from grpo.rewards.probe import LENGTHS, RIGHT_FORMS, WRONG_FORMS
from grpo.rewards.probe_comparisons import quoted
from grpo.rewards.probe_scores import ProbeScores
from grpo.rewards.probe_templates import FAR_OFF, REFERENCE

COMMA_NUMBERS = ("1,080 for gold 1080", "1,080 for gold 1,080")
OTHER_NUMBERS = ("-5", *COMMA_NUMBERS, "1080 for gold 1,080", "0 for gold 0")
NON_ASCII_DIGITS = ("² (superscript)", "٣ (Arabic-Indic)", "１８ (full-width)")
WORD = "a word for an answer"
NEAR_MISSES = ("wrong as asked", "right work, wrong end", "3 answers in one")
# The shares of the pay for the right answer from which a wrong one counts as paid, and as paid in full; between the two
# it gets credit for a near miss. They are not 0 and 1, because a reward of answer and length pays a little more or less
# for each completion.
PAID, PAID_IN_FULL = 0.05, 0.99


def _paid_as_right(scores: ProbeScores) -> Iterator[Finding]:
    """Wrong answers for which rewards pay as much as for the right one."""
    paid_by: dict[tuple[str, ...], list[str]] = {}
    for reward, _, shares in _shares_of_wrong_answers(scores):
        # `correct_by_disagrees` names the wrong answers that correct_by counts as right.
        counted = _counted_as_right(scores) if reward == scores.correct_by else set()
        if paid := tuple(name for name, share in shares.items() if share >= PAID_IN_FULL and name not in counted):
            paid_by.setdefault(paid, []).append(reward)
    for names, rewards in paid_by.items():
        verb = "pays" if len(rewards) == 1 else "pay"
        text = f"{join_with_and(rewards)} {verb} for wrong answers as for right ones: {quoted(names)}."
        yield Finding("warning", text, names, names[0])


def _near_misses(scores: ProbeScores) -> Iterator[Finding]:
    """Answers that are almost right, for which a reward pays a part of what it pays for the right one."""
    for reward, gain, shares in _shares_of_wrong_answers(scores):
        # Only probes as long as the right one: a reward may depend on answer and length.
        near = [
            name
            for name, share in shares.items()
            if PAID <= share < PAID_IN_FULL and (scores.probe(name).kind == WRONG_FORMS or name in NEAR_MISSES)
        ]
        if not near:
            continue
        near.sort(key=shares.__getitem__, reverse=True)
        listing = join_with_and(f"'{name}' {format_score(shares[name] * gain)}" for name in near[:4])
        more = f", and {len(near) - 4} more" if len(near) > 4 else ""
        text = f"{reward} gives credit for near misses, of {format_score(gain)} for right: {listing}{more}."
        yield Finding("warning", text, tuple(near), near[0])


def _shares_of_wrong_answers(scores: ProbeScores) -> Iterator[tuple[str, float, dict[str, float]]]:
    """What the rewards that read answers pay for wrong ones.

    Yields:
        The reward; how much more it pays for the right answer than for one that is far off; and for each wrong probe
        the share of this that it pays for it.
    """
    for k, reward in enumerate(scores.names):
        parts = scores.weighted[:, k]
        far_off = parts[scores.index[FAR_OFF]]
        gain = float(parts[scores.index[REFERENCE]] - far_off)
        if gain > scores.rounding:
            shares = {
                probe.name: float((parts[row] - far_off) / gain)
                for row, probe in enumerate(scores.probes)
                if probe.right is False and probe.kind != LENGTHS
            }
            yield reward, gain, shares


def _counted_as_right(scores: ProbeScores) -> set[str]:
    """The probes that correct_by counts as right."""
    return {probe.name for probe, is_correct in zip(scores.probes, scores.is_correct, strict=True) if is_correct}


def _misread_numbers(scores: ProbeScores) -> Iterator[Finding]:
    """Which rewards that read numbers refuse right ones, or accept digits that are not ASCII."""
    if "-5" not in scores.index:
        return
    misread_by: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for reward, parts, threshold in _readers(scores):
        accepted = {probe.name for row, probe in enumerate(scores.probes) if parts[row] > threshold}
        refused = tuple(name for name in OTHER_NUMBERS if name not in accepted)
        non_ascii = tuple(name for name in NON_ASCII_DIGITS if name in accepted)
        if refused or non_ascii:
            misread_by.setdefault((refused, non_ascii), []).append(reward)
    for (refused, non_ascii), rewards in misread_by.items():
        subject = f"{rewards[0]} reads" if len(rewards) == 1 else f"Each of {join_with_and(rewards)} reads"
        faults = [_describe_refused(refused)] if refused else []
        faults += [f"pays for {join_with_and(non_ascii)}"] if non_ascii else []
        yield Finding("warning", f"{subject} numbers, but {', and '.join(faults)}.", refused + non_ascii)


def _describe_refused(numbers: Sequence[str]) -> str:
    """The phrase on right answers that are refused; a comma that is refused in both probes is named once."""
    names = list(numbers)
    if set(COMMA_NUMBERS) <= set(names):
        names.remove(COMMA_NUMBERS[1])
        names[names.index(COMMA_NUMBERS[0])] = "1,080"
    return f"refuses the right answer{'s' if len(names) > 1 else ''} {join_with_and(names)}"


def _refused_forms(scores: ProbeScores) -> Iterator[Finding]:
    """Other forms of the right answer that a reward refuses."""
    refused: dict[str, list[str]] = {}
    gold = scores.probe(REFERENCE).example.gold
    for reward, parts, threshold in _readers(scores):
        forms = [
            probe.name
            for row, probe in enumerate(scores.probes)
            if probe.kind == RIGHT_FORMS and probe.example.gold == gold and parts[row] <= threshold
        ]
        if forms:
            refused.setdefault(join_with_and(forms), []).append(reward)
    for answers, rewards in refused.items():
        yield Finding("note", f"{answers} for {gold}: refused by {join_with_and(rewards)}.")


def _readers(scores: ProbeScores) -> Iterator[tuple[str, Floats, float]]:
    """The rewards that read answers: their scores (N,), and the score above which they accept an answer."""
    plain = scores.names_of_kind(RIGHT_FORMS)[0]
    for k, reward in enumerate(scores.names):
        parts = scores.weighted[:, k]
        right = parts[scores.index[plain]]
        if "eighteen" in scores.index:
            # Two words, one of them as long as the number: a reward that reads only the length reads no numbers.
            gain = right - max(parts[scores.index[word]] for word in (WORD, "eighteen"))
        else:
            gain = parts[scores.index[REFERENCE]] - parts[scores.index[FAR_OFF]]
        if gain > scores.rounding:
            yield reward, parts, float(right - gain / 2)


RULES_ON_ANSWERS = (_paid_as_right, _near_misses, _misread_numbers, _refused_forms)
