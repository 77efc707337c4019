"""`Advice`, the unit of the verdict of `grpo.preflight`: what is wrong, the evidence, and what to type.

Called by grpo/forecast/*_rules.py, which create it, and by the output. It knows no rule.
"""

from dataclasses import dataclass

from grpo.rewards.finding import Level


@dataclass(frozen=True)
class Advice:
    """A fault of a set-up (`warning`), or something to know of it (`note`).

    Attributes:
        cause: its name, one of a rule.
        evidence: what was measured.
        change: what to do, with the settings to type.
    """

    level: Level
    cause: str
    evidence: str
    change: str
