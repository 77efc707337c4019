"""Rules on the order of probes: right answers above wrong ones, and work above no work.

Called by grpo/rewards/probe_rules.py. The rules know no reward by name.
"""

from collections.abc import Iterator

import numpy as np

from grpo.core.statistics import Floats
from grpo.rewards.finding import Finding, caused_by, format_score, join_with_and
from grpo.rewards.probe import AS_REQUESTED, LENGTHS, NO_WORK, OWN_RIGHT, WRONG, Probe
from grpo.rewards.probe_comparisons import names_with_totals, probes_above, probes_equal_to_reference, quoted
from grpo.rewards.probe_scores import ProbeScores
from grpo.rewards.probe_templates import REFERENCE

EXAMPLES = 3  # pairs that a finding shows


def wrong_outscores_right(scores: ProbeScores) -> Iterator[Finding]:
    """Every wrong probe against every right one of the same question."""
    probes = [
        (row, probe) for row, probe in enumerate(scores.probes) if probe.kind != LENGTHS and scores.is_scored[row]
    ]
    right = np.array([row for row, probe in probes if probe.right is True], dtype=int)
    wrong = np.array([row for row, probe in probes if probe.right is False], dtype=int)
    if not len(right) or not len(wrong):
        return
    numbers: dict[str, int] = {}
    questions = np.array([numbers.setdefault(probe.example.question, len(numbers)) for probe in scores.probes])
    same_question = questions[right][:, None] == questions[wrong]
    lead = np.where(same_question, scores.totals[wrong] - scores.totals[right][:, None], -np.inf)
    inverted = lead > scores.rounding
    # A right answer outside the format counts if it is right by the settings of the run.
    honest = np.array([scores.probes[row].kind in (AS_REQUESTED, OWN_RIGHT) for row in right])
    counted = honest | scores.is_correct[right] | scores.matches[right]
    if inverted[counted].any():
        examples, names = _describe_pairs(scores, lead[counted], right[counted], wrong)
        count = f"{inverted[counted].sum():,} of {same_question[counted].sum():,} pairs"
        yield Finding("warning", f"Wrong outscores right in {count}: {examples}.", names, names[0])
    if inverted[~counted].any():
        outscored = [scores.probes[row].name for row in right[~counted][inverted[~counted].any(axis=1)]]
        above = [scores.probes[row].name for row in wrong[inverted[~counted].any(axis=0)]]
        text = (
            f"Wrong outscores right, which {scores.correct_by} does not count as right: "
            f"{names_with_totals(scores, [max(above, key=scores.total)])} over {names_with_totals(scores, outscored)}."
        )
        yield Finding("note", text, tuple(above))


def _describe_pairs(scores: ProbeScores, lead: Floats, right: Floats, wrong: Floats) -> tuple[str, tuple[str, ...]]:
    """The right probes that wrong ones exceed by most, as text, and the names of these wrong probes.

    Args:
        lead: (right, wrong) how far each wrong probe is above each right one.
        right, wrong: the rows of the probes.
    """
    below: dict[str, list[str]] = {}
    for i in np.argsort(-lead.max(axis=1), kind="stable")[:EXAMPLES]:
        if lead[i].max() > scores.rounding:
            above = scores.probes[wrong[int(np.argmax(lead[i]))]].name
            below.setdefault(above, []).append(scores.probes[right[i]].name)
    phrases = []
    for above, names in below.items():
        _, parts = scores.change(names[0], above)
        rewards = caused_by({name: part for name, part in parts.items() if part > 0})
        phrases.append(f"{names_with_totals(scores, [above])} over {names_with_totals(scores, names)}{rewards}")
    return "; ".join(phrases), tuple(below)


def correct_by_disagrees(scores: ProbeScores) -> Iterator[Finding]:
    """Probes that the reward `correct_by` counts as right although they are wrong, or the reverse."""
    named = f"{scores.correct_by}, which says what counts as right (correct_by),"
    wrong = [probe.name for probe, counted in _judged(scores) if probe.right is False and counted]
    if wrong:
        yield Finding("warning", f"{named} accepts wrong answers: {quoted(wrong)}.", tuple(wrong), wrong[0])
    honest = [(probe, counted) for probe, counted in _judged(scores) if probe.kind in (AS_REQUESTED, OWN_RIGHT)]
    if refused := [probe.name for probe, counted in honest if not counted]:
        listing = "every one" if len(refused) == len(honest) and len(honest) > 1 else quoted(refused)
        yield Finding("warning", f"{named} refuses right answers: {listing}.", tuple(refused), refused[0])


def _judged(scores: ProbeScores) -> Iterator[tuple[Probe, bool]]:
    return zip(scores.probes, scores.is_correct, strict=True)


def _right_pays_nothing(scores: ProbeScores) -> Iterator[Finding]:
    right, wrong = scores.total(REFERENCE), scores.total("wrong as asked")
    if right - wrong <= scores.rounding:
        totals = f"{format_score(right)} and {format_score(wrong)}"
        text = f"A right answer earns no more than a wrong one in the same format: {totals}."
        yield Finding("warning", text, ("wrong as asked",))


def _no_work(scores: ProbeScores) -> Iterator[Finding]:
    phrases: list[str] = []
    names: list[str] = []
    # Only probes with the same end are compared: the last line break has its own score.
    for ends_with_break in (True, False):
        same_end = [probe for probe in scores.probes if probe.completion.endswith("\n") is ends_with_break]
        lowest = min((probe.name for probe in same_end if probe.kind == AS_REQUESTED), key=scores.total)
        if above := probes_above(scores, [probe.name for probe in same_end if probe.kind == NO_WORK], lowest):
            phrases.append(f"{names_with_totals(scores, above)} over {names_with_totals(scores, [lowest])}")
            names += above
    if names:
        text = f"Right without work outscores right with work: {'; '.join(phrases)}."
        yield Finding("warning", text, tuple(names), names[0])
    same = probes_equal_to_reference(scores, scores.names_of_kind(NO_WORK))
    if equal := [name for name in same if name not in names]:
        text = f"No work pays as much as work, {format_score(scores.total(REFERENCE))}: {join_with_and(equal)}."
        yield Finding("note", text, tuple(equal))


def _wrong_answers_differ(scores: ProbeScores) -> Iterator[Finding]:
    """Whether wrong answers differ by more than right and wrong do: a group without a right answer then learns that."""
    gain = scores.total(REFERENCE) - scores.total("wrong as asked")
    wrong = scores.names_of_kind(WRONG)
    lowest, highest = min(wrong, key=scores.total), max(wrong, key=scores.total)
    spread, parts = scores.change(lowest, highest)
    if gain > scores.rounding and spread > gain + scores.rounding:
        text = (
            f"Wrong answers differ by {format_score(spread)}, more than the {format_score(gain)} that right adds: "
            f"{names_with_totals(scores, [lowest])} and {names_with_totals(scores, [highest])}{caused_by(parts)}."
        )
        yield Finding("warning", text, (lowest,))


def _format_alone(scores: ProbeScores) -> Iterator[Finding]:
    right, nothing = scores.total(REFERENCE), scores.total("empty text")
    if right - scores.total("wrong as asked") <= scores.rounding:
        return
    without_answer = ("wrong as asked", "empty answer block", "template copied")
    if paid := [name for name in without_answer if scores.total(name) - nothing > scores.rounding]:
        text = (
            f"Format pays without a right answer: {names_with_totals(scores, paid)}, of {format_score(right)}"
            f"{f'; the empty text {format_score(nothing)}' if abs(nothing) > scores.rounding else ''}."
        )
        yield Finding("note", text, tuple(paid))


RULES_ON_ORDER = (_right_pays_nothing, _no_work, _wrong_answers_differ, _format_alone)
