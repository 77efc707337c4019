"""Rules on format: rewards that exclude each other, line breaks, tags, text around the blocks, and repetition.

Called by grpo/rewards/probe_rules.py. The rules know no reward by name.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from grpo.rewards.finding import Finding, Level, caused_by, format_score, join_with_and
from grpo.rewards.probe import FORMAT_OFF, REPEATED
from grpo.rewards.probe_comparisons import names_with_totals, probes_above, probes_equal_to_reference
from grpo.rewards.probe_scores import ProbeScores
from grpo.rewards.probe_templates import NO_LAST_BREAK, REASONING, REFERENCE

FORMAT_GAIN = 0.05  # the share of the total of the requested format that a reward must add for another format


def exclusive_rewards(scores: ProbeScores) -> Iterator[Finding]:
    """Whether one completion can have the best score of every reward."""
    best, best_per_reward = scores.total(scores.best.name), scores.weighted.max(axis=0)
    if best >= best_per_reward.sum() - scores.rounding:
        return
    paid = scores.weighted > (scores.weighted.min(axis=0) + best_per_reward) / 2
    exclusive = [pair for pair in combinations(range(len(scores.names)), 2) if not paid[:, pair].all(axis=1).any()]
    loss = (
        f"the best score found is {format_score(best)}; the best of each reward would sum to "
        f"{format_score(best_per_reward.sum())}"
    )
    if exclusive:
        text = f"{_describe_pairs(scores.names, exclusive)}: no probe is paid by both, so {loss}."
        yield Finding("warning", text)
    else:
        yield Finding("note", f"No probe has the best score of every reward: {loss}.")


def _describe_pairs(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    """Pairs of rewards as text; the pairs that share a reward are one phrase."""
    phrases = []
    while pairs:
        most_frequent, _ = Counter(k for pair in pairs for k in pair).most_common(1)[0]
        others = [names[sum(pair) - most_frequent] for pair in pairs if most_frequent in pair]
        if len(others) == 1:
            phrases.append(f"{names[most_frequent]} and {others[0]} exclude each other")
        else:
            phrases.append(f"{names[most_frequent]} excludes each of {join_with_and(others)}")
        pairs = [pair for pair in pairs if most_frequent not in pair]
    return "; ".join(phrases)


def _missing_line_break(scores: ProbeScores) -> Iterator[Finding]:
    """What a missing last line break costs, and whether the cost grows with the length of the completion."""
    names = sorted(REASONING, key=lambda name: len(scores.probe(name).completion))
    costs = np.array(
        [scores.weighted[scores.index[name]] - scores.weighted[scores.index[name + NO_LAST_BREAK]] for name in names]
    )
    lengths = [len(scores.probe(name).completion) for name in names]
    growth = costs[-1] - costs[0]
    growing = (np.diff(costs, axis=0) >= -scores.rounding).all(axis=0) & (growth > scores.rounding)
    if growing.any():
        # The slope between the two shortest probes, if it is larger: the cost of long ones may have reached a limit.
        slope = np.maximum((costs[1] - costs[0]) / (lengths[1] - lengths[0]), growth / (lengths[-1] - lengths[0]))
        slopes = {scores.names[k]: float(slope[k]) for k in np.flatnonzero(growing)}
        short, long = (
            f"from {format_score(scores.total(name))} to {format_score(scores.total(name + NO_LAST_BREAK))}"
            for name in names[::3]
        )
        text = (
            f"A missing last line break is charged for the whole completion, {format_score(sum(slopes.values()))} per "
            f"character{caused_by(slopes)}: a right answer of {lengths[0]} characters falls {short}, one of "
            f"{lengths[-1]} {long}."
        )
        yield Finding("warning", text, tuple(name + NO_LAST_BREAK for name in names))
        return
    largest = int(np.argmax(np.abs(costs.sum(axis=1))))
    cost = float(costs[largest].sum())
    # A reward of length charges for the line break as for any character; that is not about line breaks.
    if abs(cost) > 0.01 * float(np.ptp(scores.totals)):
        subject = "A missing last line break" if cost > 0 else "A last line break"
        rewards = caused_by(scores.nonzero_parts(np.abs(costs[largest])))
        yield Finding("note", f"{subject} costs {format_score(abs(cost))}{rewards}.")


def _bare_answer(scores: ProbeScores) -> Iterator[Finding]:
    """What a right answer without format and work earns; a warning if it earns more than a wrong one in the format."""
    nothing = scores.total("empty text")
    bare = ("bare answer", "bare sentence")
    if not (paid := tuple(name for name in bare if scores.total(name) > nothing + scores.rounding)):
        return
    highest = max(paid, key=scores.total)
    gain, rewards = scores.change("empty text", highest)
    earned = f"{format_score(gain)} of {format_score(scores.total(REFERENCE) - nothing)}"
    level: Level = "warning" if scores.total(highest) > scores.total("wrong as asked") + scores.rounding else "note"
    yield Finding(level, f"A bare answer in no format earns {earned}{caused_by(rewards)}.", paid)


def _other_format(scores: ProbeScores) -> Iterator[Finding]:
    """Whether the same reasoning and answer earn more in another format than in the requested one."""
    phrases, names = [], []
    for name in scores.names_of_kind(FORMAT_OFF):
        asked = REFERENCE if scores.probe(name).completion.endswith("\n") else REFERENCE + NO_LAST_BREAK
        gain, parts = scores.change(asked, name)
        # A reward of length pays a little for the different length of another format.
        if gain > scores.rounding and max(parts.values()) > FORMAT_GAIN * abs(
            scores.total(asked) - scores.total("empty text")
        ):
            phrases.append(
                f"{names_with_totals(scores, [name])} over {names_with_totals(scores, [asked])}{caused_by(parts)}"
            )
            names.append(name)
    if names:
        text = f"Another format pays more than the requested one: {'; '.join(phrases)}."
        yield Finding("warning", text, tuple(names), names[0])


def _text_after(scores: ProbeScores) -> Iterator[Finding]:
    after = ("short text after", "long text after")
    if free := probes_equal_to_reference(scores, after):
        text = f"Text after the answer costs nothing, {format_score(scores.total(REFERENCE))}: {join_with_and(free)}."
        yield Finding("note", text, free)


def _repetition(scores: ProbeScores) -> Iterator[Finding]:
    once = format_score(scores.total(REFERENCE))
    right = [name for name in scores.names_of_kind(REPEATED) if scores.probe(name).right is not False]
    if above := probes_above(scores, scores.names_of_kind(REPEATED), REFERENCE):
        text = f"Repetition pays: {names_with_totals(scores, above)}, against {once} without."
        yield Finding("warning", text, above, above[0])
    if equal := probes_equal_to_reference(scores, right):
        yield Finding("note", f"Repetition costs nothing, {once} with and without: {join_with_and(equal)}.", equal)


RULES_ON_FORMAT = (_missing_line_break, _bare_answer, _other_format, _text_after, _repetition)
