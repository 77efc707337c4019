"""Comparisons of probes by their totals, and their phrases, for the rules on the scores of probes.

Called by the rules in grpo/rewards/*_rules.py. It knows no rule.
"""

from collections.abc import Iterable, Sequence

from grpo.rewards.finding import format_score, join_with_and
from grpo.rewards.probe_scores import ProbeScores
from grpo.rewards.probe_templates import REFERENCE


def names_with_totals(scores: ProbeScores, names: Iterable[str]) -> str:
    return join_with_and(f"'{name}' {format_score(scores.total(name))}" for name in names)


def quoted(names: Sequence[str], most: int = 6) -> str:
    """Names in quotes, at most `most` of them."""
    shown = [f"'{name}'" for name in names[:most]]
    return join_with_and([*shown, f"{len(names) - most} more"] if len(names) > most else shown)


def probes_above(scores: ProbeScores, names: Sequence[str], baseline: str) -> tuple[str, ...]:
    """The probes with a higher total than the probe `baseline`, the highest first."""
    above = [name for name in names if scores.total(name) > scores.total(baseline) + scores.rounding]
    return tuple(sorted(above, key=scores.total, reverse=True))


def probes_equal_to_reference(scores: ProbeScores, names: Sequence[str]) -> tuple[str, ...]:
    """The probes with the total of the reference, if that is above the total of the empty text."""
    if scores.total(REFERENCE) - scores.total("empty text") <= scores.rounding:
        return ()
    return tuple(name for name in names if abs(scores.total(name) - scores.total(REFERENCE)) <= scores.rounding)
