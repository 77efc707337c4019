"""Rules on answers: which right ones a reward refuses, and which wrong ones it pays.

Part of grpo/rewards/probe_rules.py. It knows no reward by name: a reward reads answers if it pays more for the right
answer than for another one in the same text.
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
# The share of the pay for a right answer from which a wrong one counts as paid, and as paid in full. Between them, it
# is credit for a near miss. A reward of answer and length together pays a little more or less for each.
PAID, PAID_IN_FULL = 0.05, 0.99


def _pays_wrong_answers(scores: ProbeScores) -> Iterator[Finding]:
    """Wrong answers that a reward pays as right ones, or more than an answer that is far off."""
    in_full: dict[tuple[str, ...], list[str]] = {}
    near_misses = []
    for k, reward in enumerate(scores.names):
        parts = scores.weighted[:, k]
        far, right = parts[scores.index[FAR_OFF]], parts[scores.index[REFERENCE]]
        if right - far <= scores.rounding:
            continue
        shares = {
            probe.name: float((parts[row] - far) / (right - far))
            for row, probe in enumerate(scores.probes)
            if probe.right is False and probe.kind != LENGTHS
        }
        paid = {name for name, share in shares.items() if share >= PAID_IN_FULL}
        if reward == scores.correct_by:  # `correct_by_disagrees` names those that it counts as right
            paid -= {probe.name for probe, counted in zip(scores.probes, scores.is_correct, strict=True) if counted}
        if paid:
            in_full.setdefault(tuple(name for name in shares if name in paid), []).append(reward)
        partial = {name: share * (right - far) for name, share in shares.items() if PAID <= share < PAID_IN_FULL}
        near_misses += list(_near_miss(scores, reward, partial, float(right - far)))
    for names, rewards in in_full.items():
        verb = "pays" if len(rewards) == 1 else "pay"
        text = f"{join_with_and(rewards)} {verb} for wrong answers as for right ones: {quoted(names)}."
        yield Finding("warning", text, names, names[0])
    yield from near_misses


def _near_miss(scores: ProbeScores, reward: str, paid: dict[str, float], right: float) -> Iterator[Finding]:
    """Whether a reward pays a part of `right` for an answer that is almost right; `paid`: probe -> its pay."""
    # Only probes of the same length: a reward may depend on answer and length.
    near = [name for name in paid if scores.probe(name).kind == WRONG_FORMS or name in NEAR_MISSES]
    if near:
        near.sort(key=paid.__getitem__, reverse=True)
        listing = join_with_and(f"'{name}' {format_score(paid[name])}" for name in near[:4])
        more = f", and {len(near) - 4} more" if len(near) > 4 else ""
        text = f"{reward} gives credit for near misses, of {format_score(right)} for right: {listing}{more}."
        yield Finding("warning", text, tuple(near), near[0])


def _misread_numbers(scores: ProbeScores) -> Iterator[Finding]:
    """Which of the rewards that read numbers misread some."""
    if "-5" not in scores.index:
        return
    misread: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for reward, parts, threshold in _readers(scores):
        accepted = {probe.name for row, probe in enumerate(scores.probes) if parts[row] > threshold}
        refused = [name for name in OTHER_NUMBERS if name not in accepted]
        non_ascii = [name for name in NON_ASCII_DIGITS if name in accepted]
        faults = _describe_refused(refused, accepted)
        if non_ascii:
            faults.append(f"pays for {join_with_and(non_ascii)}")
        if faults:
            rewards, _ = misread.setdefault(tuple(faults), ([], [*refused, *non_ascii]))
            rewards.append(reward)
    for phrases, (rewards, probes) in misread.items():
        subject = f"{rewards[0]} reads" if len(rewards) == 1 else f"Each of {join_with_and(rewards)} reads"
        yield Finding("warning", f"{subject} numbers, but {', and '.join(phrases)}.", tuple(probes))


def _refused_forms(scores: ProbeScores) -> Iterator[Finding]:
    """The right answers in another form that a reward refuses."""
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


def _describe_refused(refused: Sequence[str], accepted: set[str]) -> list[str]:
    """The phrase on right answers that are refused, if any; a comma that is always refused is named once."""
    if not refused:
        return []
    if accepted.isdisjoint(COMMA_NUMBERS):
        refused = ["1,080" if name == COMMA_NUMBERS[0] else name for name in refused if name != COMMA_NUMBERS[1]]
    return [f"refuses the right answer{'s' if len(refused) > 1 else ''} {join_with_and(refused)}"]


ANSWER_RULES = (_pays_wrong_answers, _misread_numbers, _refused_forms)
