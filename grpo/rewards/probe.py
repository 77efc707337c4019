"""`Probe`: a completion whose score under a stack of rewards shows what the stack pays for, and the kinds of probes.

Made by grpo/rewards/probe_templates.py, answer_probes.py and user_probes.py, scored by probe_scores.py, and judged by
probe_rules.py. It knows no reward.
"""

from dataclasses import dataclass

from grpo.tasks.example import Example

AS_REQUESTED = "right, as asked"
FORMAT_OFF = "right, format off"
NO_WORK = "right, no work shown"
REPEATED = "repeated"
WRONG = "wrong"
RIGHT_FORMS = "right, in other forms"
WRONG_FORMS = "wrong, close to right"
UNCLEAR_FORMS = "neither right nor wrong"
LENGTHS = "the same, longer"
# Kinds of the user's own probes.
OWN_RIGHT = "right"
OWN_WRONG = "wrong"


@dataclass(frozen=True)
class Probe:
    """A completion to score.

    Attributes:
        name: its name in tables and findings.
        kind: a constant above.
        completion: the text.
        example: the problem that it answers.
        right: whether its answer is right; None if rewards may differ on that.
    """

    name: str
    kind: str
    completion: str
    example: Example
    right: bool | None
