"""What the embedded policy knows: a note for users whose questions are about something else.

Training and `grpo.sample` print it. It does not load the policy.
"""

from collections.abc import Sequence

from grpo.core.errors import shorten
from grpo.policy.hub import EMBEDDED_PREFIX
from grpo.tasks.arithmetic import MAX_NUMBER, unfamiliar_words


def embedded_policy_note(model_path: str, questions: Sequence[str]) -> str | None:
    """What the embedded policy knows, if `questions` have other words or numbers; None for other policies."""
    if not model_path.startswith(EMBEDDED_PREFIX) or not (unfamiliar := unfamiliar_words(questions)):
        return None
    words = ", ".join(shorten(word, 30) for word in unfamiliar[:6]) + ", ..." * (len(unfamiliar) > 6)
    knows = f"only word problems of data=arithmetic, numbers up to {MAX_NUMBER}"
    return f"The embedded policy knows {knows}. New to it: {words}"
