"""Two rewards of your own: `reward_files=[examples/my_rewards.py]`. docs/rewards.md says what they can receive.

python -m grpo.train reward_files=[examples/my_rewards.py] +rewards.equations=0.5 +rewards.brevity=0.1
"""

import re

from grpo.rewards import reward

EQUATION = re.compile(r"(\d+)\s*([-+*/])\s*(\d+)\s*=\s*(\d+)")


@reward
def equations(completion: str) -> float:
    """The share of the equations `a op b = c` in the completion that are true; 0 without any."""
    found = EQUATION.findall(completion)
    return sum(is_true(*equation) for equation in found) / len(found) if found else 0.0


@reward
def brevity(completion: str, limit: int = 200) -> float:
    """1 for an empty completion, falling to 0 at `limit` characters: `reward_args.brevity.limit=100` sets it."""
    return max(0.0, 1 - len(completion) / limit)


def is_true(left: str, operation: str, right: str, result: str) -> bool:
    a, b, c = int(left), int(right), int(result)
    return {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b != 0 and a == b * c}[operation]
