"""The sentences of the section on controls: what can be concluded from them, and what cannot.

`control_section` calls it. It computes no statistics.
"""

from collections.abc import Mapping
from math import isnan

from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.reports.control_statistics import Change

# How pass@1 and pass@k have changed -> the verdict on an arm.
VERDICTS = {
    ("up", "up"): "new to {k} samples",
    ("up", "unclear"): "elicited",
    ("up", "down"): "elicited, and narrowed",
    ("unclear", "up"): "wider",
    ("unclear", "unclear"): "no clear change",
    ("unclear", "down"): "narrowed",
    ("down", "up"): "wider, and less sure",
    ("down", "unclear"): "less sure",
    ("down", "down"): "lost",
}

# The share of problems that k samples did not solve before training, below which a gain there can hardly be seen.
LITTLE_ROOM = 0.02


def verdict_of(one: Change, most: Change, k: int) -> str:
    """The verdict on an arm in a few words, by its changes of pass@1 and of pass@k."""
    return VERDICTS[one.direction, most.direction].format(k=k)


def placebo_sentence(name: str, gains: Mapping[str, Change], labels: Mapping[str, str]) -> str:
    """Whether an arm gained anything over the placebo.

    Args:
        gains: accuracy -> the figure with the placebo, and in the arm.
        labels: of the two accuracies.
    """
    figures = "; ".join(
        f"{labels[accuracy]}, {percent(gain.after)} against {percent(gain.before)} ({interval(gain)})"
        for accuracy, gain in gains.items()
    )
    strict, flexible = gains[ACCURACY_STRICT].direction, gains[ACCURACY_FLEXIBLE].direction
    if all(isnan(gain.low) for gain in gains.values()):
        conclusion = "With a single seed this allows no conclusion."
    elif "down" in (strict, flexible):
        conclusion = "The same totals given at random did better in one of them."
    elif strict == flexible == "up":
        conclusion = "The gain comes from what the rewards say."
    elif strict == "up":
        conclusion = "What the rewards say taught the format; that it made more answers right is not shown."
    elif flexible == "up":
        conclusion = "What the rewards say made more answers right, but not in the format."
    else:
        conclusion = "Nothing shows that it matters what the rewards say: random ones may have done the same."
    return f"With {name} against a placebo: {figures}. {conclusion}"


def elicited_sentence(name: str, one: Change, most: Change, k: int, crossing: tuple[int, int] | None) -> str:
    """Whether the policy before training had the answers that an arm gives, among k samples.

    Args:
        one: the change of pass@1.
        most: that of pass@k.
        crossing: the two k between which the curves cross, if they do.
    """
    first = f"pass@1 {went(one)} from {percent(one.before)} to {percent(one.after)} ({interval(one)})"
    last = f"pass@{k} {went(most)} from {percent(most.before)} to {percent(most.after)} ({interval(most)})"
    crossed = f" The mean curves cross between k = {crossing[0]} and {crossing[1]}." if crossing else ""
    if one.direction == "down":
        conclusion = "Training made right answers less likely."
    elif one.direction == "unclear":
        conclusion = "That training made right answers more likely is not shown."
    elif most.direction == "up":
        conclusion = (
            f"Training solves problems that {k} samples of the policy before training did not; whether more samples "
            "would have, these do not say."
        )
    elif most.direction == "down":
        conclusion = (
            f"Elicited, not new: {k} samples of the policy before training solved more problems. Training made "
            "some of the answers more likely, and others less."
        )
    else:
        room = max(0.0, min(most.high, 1 - most.before))
        conclusion = (
            f"Elicited, as far as {k} samples show: the policy before training had the answers, and training "
            "made them more likely."
        )
        if most.before == 1:
            conclusion += f" Nothing was left to gain at k = {k}, so these problems could not show anything new."
        elif room >= 0.0005:
            conclusion += f" A gain of up to {room * 100:.1f} points at k = {k} is not ruled out."
        if 1 > most.before > 1 - LITTLE_ROOM:
            conclusion += " So little was left to gain that these problems could hardly show anything new."
    return f"With {name}, {first}, and {last}.{crossed} {conclusion}"


def went(change: Change) -> str:
    return {"up": "rose", "down": "fell", "unclear": "went"}[change.direction]


def format_sentence(before: float, after: Mapping[str, float]) -> str:
    """How many greedy answers have the exact format: before training, and in each arm."""
    arms = ", ".join(f"{percent(share)} with {name}" for name, share in after.items())
    return f"Exact format, {percent(before)} before training: {arms}."


def caveat(k: int | None, seeds: int) -> str:
    """What the controls do not show."""
    more = f"whether more than {k} samples would have solved what {k} did not, and " if k else ""
    single = " Nor what another seed gives: each arm has one." if seeds < 2 else ""
    return f"Not shown: {more}whether other policies and other problems give the same.{single}"


def percent(value: float) -> str:
    return f"{value * 100:.1f}%"


def interval(change: Change) -> str:
    """The change in points with its interval: `+61.9 points, +58.0 to +65.1`."""
    return f"{points(change)} points" + f", {bounds(change)}" * bool(bounds(change))


def points(change: Change) -> str:
    return f"{change.difference * 100:+z.1f}"


def bounds(change: Change) -> str:
    """The interval of the change in points; empty if it is unknown, "no spread" if it has no width."""
    if round(change.low, 12) == round(change.high, 12):
        return "no spread"
    return "" if isnan(change.low) else f"{change.low * 100:+z.1f} to {change.high * 100:+z.1f}"
