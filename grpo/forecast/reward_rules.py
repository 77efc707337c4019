"""Rules on the rewards: which of them would move the policy, and whether they agree with right answers.

Part of grpo/forecast/verdict.py. It knows no reward but `correct_by`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from grpo.core.metric_names import PHANTOM, advantage_share, reward_zero_std
from grpo.core.statistics import wilson_interval
from grpo.core.text import plural
from grpo.forecast.advice import Advice
from grpo.forecast.forecast import Forecast
from grpo.forecast.signal_rules import FEW, format_is_missing, too_often_truncated
from grpo.rewards.finding import Level, format_score, join_with_and

DROWNED, DROWNING = 0.2, 0.6  # a share of right answers in the advantages below, and of another reward above
NEGATIVE = 0.005  # a share below its negative is not rounding
PHANTOM_MOST = 0.5
OPPOSED = -0.3  # a correlation of two rewards
INVERTED = 0.01  # a share of pairs


def _constant(forecast: Forecast) -> Iterator[Advice]:
    """Rewards with a weight that are equal for all completions of every group: never earned, or always."""
    _, most_varying = wilson_interval(0, forecast.problems)
    if most_varying >= FEW:  # too few groups to say that a reward hardly ever varies
        return
    constant = {name: forecast.mean_score(name) for name in _weighted(forecast) if _is_constant(forecast, name)}
    all_constant = len(constant) == len(_weighted(forecast))
    if format_is_missing(forecast) or too_often_truncated(forecast):  # which is why little is paid
        constant = {name: score for name, score in constant.items() if score is not None and score > 0}
    if not forecast.group.mixed.value:
        constant.pop(forecast.evaluation.rewards.correct_by, None)  # the rules on the signal say why
    never = [name for name, score in constant.items() if all_constant or score is None or score <= 0]
    always = [name for name in constant if name not in never]
    where = f"equal for all completions of each problem ({forecast.problems:,} groups of {forecast.samples})"
    by_level: dict[Level, list[str]] = {"warning": never, "note": always}
    for level, names in by_level.items():
        if names:
            scores = join_with_and(f"{name} ({_describe(constant[name])})" for name in names)
            measured = _weights_of_zero(names)
            rewards = plural(len(names), "reward")
            change = f"Correct the {rewards}, which python -m grpo.audit tests; or only measure, {measured}."
            if level == "note":
                change = f"If the policy should learn something from them, correct them; else measure only, {measured}."
            yield Advice(level, "constant_reward", f"{scores}: {where}.", change)


def _is_constant(forecast: Forecast, name: str) -> bool:
    return forecast.step[reward_zero_std(name)].value == 1.0


def _describe(score: float | None) -> str:
    return "abstained" if score is None else f"gave {format_score(score)}"


def _weighted(forecast: Forecast) -> list[str]:
    return [name for name, weight in forecast.evaluation.rewards.weights.items() if weight]


def _drowned(forecast: Forecast) -> Iterator[Advice]:
    """Whether another reward takes most of the advantages, although right answers vary within groups."""
    shares = {name: forecast.step.get(advantage_share(name)) for name in _weighted(forecast)}
    known = {name: share.value for name, share in shares.items() if share is not None}
    correct_by = forecast.evaluation.rewards.correct_by
    largest = max(known, key=lambda name: known[name], default=correct_by)
    drowned = correct_by in known and -NEGATIVE < known[correct_by] < DROWNED and known[largest] > DROWNING
    if not drowned or not forecast.group.mixed.value:
        return
    spreads = dict(zip(forecast.scores.names, forecast.scores.spreads, strict=True))
    weight = forecast.evaluation.rewards.weights[largest] * spreads[correct_by] / spreads[largest]
    evidence = (
        f"{correct_by} has {known[correct_by]:.1%} of the advantages of the first step, {largest} "
        f"{known[largest]:.1%}; {forecast.group.mixed.value:.1%} of the groups have right and wrong "
        "answers."
    )
    change = (
        f"Lower the weight, rewards.{largest}={weight:.1g}, at which both have the same spread within groups, or "
        "algorithm=gdpo, which scales each reward by its own spread."
    )
    yield Advice("warning", "reward_drowns_others", evidence, change)


def _phantom(forecast: Forecast) -> Iterator[Advice]:
    """Whether most of the advantages are in groups without a difference in right answers."""
    phantom = forecast.step.get(PHANTOM)
    if phantom is None or phantom.value <= PHANTOM_MOST or forecast.group.mixed.value < FEW:
        return
    correct_by = forecast.evaluation.rewards.correct_by
    evidence = (
        f"{phantom.value:.1%} of the squared advantages of the first step ({phantom.low:.1%} to "
        f"{phantom.high:.1%}) are in groups in which all answers are right or all wrong, where other rewards "
        f"than {correct_by} move the policy."
    )
    change = "algorithm.gate=correctness leaves them out in such groups; the first steps then learn less of the format."
    yield Advice("note", "phantom", evidence, change)


def _opposing(forecast: Forecast) -> Iterator[Advice]:
    """Rewards with a negative share: they act against the total, or the total against right answers."""
    shares = {name: forecast.step.get(advantage_share(name)) for name in _weighted(forecast)}
    known = {name: share.value for name, share in shares.items() if share is not None}
    negative = [name for name, share in known.items() if share <= -NEGATIVE]
    if not negative:
        return
    listed = join_with_and(f"{name} ({known[name]:.1%})" for name in negative)
    correct_by, largest = forecast.evaluation.rewards.correct_by, max(known, key=lambda name: known[name])
    evidence = f"{listed}: negative shares in the advantages, which act against the total."
    change = f"Set {_weights_of_zero(negative)}, or correct the {plural(len(negative), 'reward')}."
    if correct_by in negative:
        evidence = f"{listed}: negative shares in the advantages; the total acts against right answers, by {largest}."
        change = f"Set {_weights_of_zero([largest])}, or correct the reward."
    yield Advice("warning", "reward_opposes_total", evidence, change)


def _disagreeing(forecast: Forecast) -> Iterator[Advice]:
    """Pairs of rewards of which one pays for what the other punishes; those with one reward in common together."""
    correlations, scores = forecast.scores.correlations(), forecast.scores
    signs, correct_by = np.sign(scores.weights), forecast.evaluation.rewards.correct_by
    pairs: dict[tuple[str, str], float] = {}
    for first, second in combinations(_weighted(forecast), 2):
        i, j = scores.names.index(first), scores.names.index(second)
        if (correlation := correlations[i, j] * signs[i] * signs[j]) < OPPOSED:
            pairs[first, second] = correlation
    while pairs:
        counts = Counter(name for pair in pairs for name in pair)
        common = max(counts, key=lambda name: (counts[name], name != correct_by))
        others = {(set(pair) - {common}).pop(): pairs.pop(pair) for pair in [*pairs] if common in pair}
        listed = join_with_and(f"{name} ({correlation:.2f})" for name, correlation in others.items())
        change = f"Keep what you want, {_weights_of_zero([common])} or {_weights_of_zero([*others])}."
        if correct_by in (common, *others):
            change = f"Set {_weights_of_zero([*others] if common == correct_by else [common])}, or correct it."
        evidence = f"{common} pays for the opposite of what others pay for; its correlations: {listed}."
        yield Advice("note", "rewards_disagree", evidence, change)


def _weights_of_zero(names: Sequence[str]) -> str:
    """The settings that turn rewards off."""
    return " ".join(f"rewards.{name}=0" for name in names)


def _inverted(forecast: Forecast) -> Iterator[Advice]:
    """Pairs of completions of one problem of which the wrong one has the higher total."""
    scores = forecast.scores
    pairs = scores.inverted_pairs
    if pairs.inverted <= INVERTED * pairs.comparable:
        return
    wrong, right = pairs.examples[0]
    gain = scores.weighted[wrong] - scores.weighted[right]
    causes = [scores.names[k] for k in np.argsort(-gain) if gain[k] > 0]
    evidence = (
        f"A wrong completion has a higher total than a right one of the same problem in {pairs.inverted:,} of "
        f"{pairs.comparable:,} pairs ({pairs.inverted / pairs.comparable:.1%}), by {join_with_and(causes)}; the "
        f"largest lead is {format_score(scores.totals[wrong])} over {format_score(scores.totals[right])}."
    )
    change = (
        f"Raise rewards.{scores.stack.correct_by}, or lower {join_with_and(f'rewards.{name}' for name in causes)}: a "
        "right answer should be worth more than any format."
    )
    yield Advice("warning", "wrong_outscores_right", evidence, change)


REWARD_RULES = (_constant, _drowned, _phantom, _opposing, _disagreeing, _inverted)
