"""Rules on length: what longer reasoning and filler earn, for right and for wrong answers.

Called by grpo/rewards/probe_rules.py. The rules know no reward by name.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from grpo.rewards.finding import Finding, Level, caused_by, format_score, join_with_and
from grpo.rewards.probe_scores import ProbeScores
from grpo.rewards.probe_templates import NO_LAST_BREAK, REASONING, REFERENCE, RIGHT_LENGTHS, WRONG_LENGTHS

TURN = 0.02  # the share of the range of totals from which a fall or a rise with the length counts


def _more_reasoning(scores: ProbeScores) -> Iterator[Finding]:
    """How longer reasoning lowers the score of the same answer, with and without the last line break."""
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


def _padding(scores: ProbeScores) -> Iterator[Finding]:
    """Whether filler raises the score, of a right answer or of a wrong one."""
    pairs = [(REFERENCE, "long line"), ("three lines", "many lines")]
    pairs += [(before + NO_LAST_BREAK, after + NO_LAST_BREAK) for before, after in pairs]
    before, after = max(pairs, key=lambda pair: scores.change(*pair)[0])
    gain, parts = scores.change(before, after)
    if gain > scores.rounding:
        text = f"Padding pays: {_filler(scores, before, after)} add {format_score(gain)}{caused_by(parts)}."
        yield Finding("warning", text, (after,), after)
    before, after = "wrong as asked", "wrong, padded"
    gain_if_wrong, parts = scores.change(before, after)
    if gain_if_wrong > max(gain, 0.0) + scores.rounding:
        text = (
            f"Padding a wrong answer pays: {_filler(scores, before, after)} add {format_score(gain_if_wrong)}"
            f"{caused_by(parts)}, and {format_score(gain)} to a right one."
        )
        yield Finding("warning", text, (after,), after)


def _filler(scores: ProbeScores, before: str, after: str) -> str:
    return f"{len(scores.probe(after).completion) - len(scores.probe(before).completion)} characters of filler"


def _reversal(scores: ProbeScores) -> Iterator[Finding]:
    """Whether a longer completion first scores more and then less, or the reverse.

    A reward that is periodic or ends at a limit does so. A right answer that gains and then loses may have a target
    length; that is a note.
    """
    for answer, names in (("right", RIGHT_LENGTHS), ("wrong", WRONG_LENGTHS)):
        totals = np.array([scores.total(name) for name in names])
        turn = TURN * float(np.ptp(scores.totals))
        for sign, first, second in ((-1.0, "falls", "rises"), (1.0, "rises", "falls")):
            if path := _turning_point(sign * totals, turn):
                level: Level = "note" if answer == "right" and second == "falls" else "warning"
                text = (
                    f"The score of the same {answer} answer {first} with its length and {second} again: "
                    f"{_lengths(scores, names, path)}{_turning_rewards(scores, names, path)}."
                )
                yield Finding(level, text, tuple(list(names)[i] for i in path[1:]))
                break


def _turning_point(totals: np.ndarray, turn: float) -> tuple[int, int, int] | None:
    """Indices i < j < k of which the middle one is the highest by more than `turn`; None if there are none."""
    for j in range(1, len(totals) - 1):
        i, k = int(np.argmin(totals[:j])), j + 1 + int(np.argmin(totals[j + 1 :]))
        if min(totals[j] - totals[i], totals[j] - totals[k]) > turn:
            return i, j, k
    return None


def _lengths(scores: ProbeScores, names: Mapping[str, int], path: tuple[int, ...]) -> str:
    chosen = [list(names)[i] for i in path]
    points = (f"{format_score(scores.total(name))} at {len(scores.probe(name).completion):,}" for name in chosen)
    return f"{join_with_and(points)} characters"


def _turning_rewards(scores: ProbeScores, names: Mapping[str, int], path: tuple[int, ...]) -> str:
    first, middle, last = (scores.weighted[scores.index[list(names)[i]]] for i in path)
    turning = (middle - first) * (middle - last)
    rewards = [scores.names[k] for k in np.flatnonzero(turning > scores.rounding**2)]
    return f" ({join_with_and(rewards)})" if rewards else ""


RULES_ON_LENGTH = (_more_reasoning, _padding, _reversal)
