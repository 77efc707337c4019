"""`Finding`, the unit of the report of `grpo.audit`, and the formatting of numbers and lists in its text.

Called by grpo/rewards/probe_rules.py and completion_scores.py, which create findings, and by audit_report.py, which
prints them. It knows no probe and no reward.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["warning", "note"]


@dataclass(frozen=True)
class Finding:
    """A fault of a stack of rewards (`warning`) or a limit of it (`note`), as text, with the probes that show it."""

    level: Level
    text: str
    probes: tuple[str, ...] = ()
    example: str | None = None  # the name of the probe that is printed with the finding


def format_score(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:z.4g}"


def join_with_and(items: Iterable[str]) -> str:
    *others, last = items
    return f"{', '.join(others)} and {last}" if others else last


def caused_by(parts: dict[str, float]) -> str:
    """The rewards that cause a difference, in brackets: `reward -> its part`."""
    if len(parts) == 1:
        return f" ({next(iter(parts))})"
    return f" ({', '.join(f'{name} {format_score(part)}' for name, part in parts.items())})" if parts else ""
