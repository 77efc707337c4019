"""Rules on the rewards: which of them would move the policy, and whether they agree with right answers.

Part of grpo/forecast/verdict.py. It knows no reward but `correct_by`.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from grpo.core.metric_names import PHANTOM, advantage_share, reward_zero_std
from grpo.core.text import plural
from grpo.forecast.advice import Advice
from grpo.forecast.forecast import Forecast
from grpo.forecast.signal_rules import FEW, format_is_missing, too_often_truncated
from grpo.rewards.finding import Level, format_score, join_with_and

DROWNED, DROWNING = 0.2, 0.6  # a share of right answers in the advantages below, and of another reward above
PHANTOM_MOST = 0.5
OPPOSED = -0.3  # a correlation of two rewards
INVERTED = 0.01  # a share of pairs


def _constant(forecast: Forecast) -> Iterator[Advice]:
    """Rewards with a weight that are equal for all completions of every group: never earned, or always."""
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
            measured = " ".join(f"rewards.{name}=0" for name in names)
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
    """Whether right answers vary within groups, and another reward takes the advantages all the same."""
    shares = {name: forecast.step.get(advantage_share(name)) for name in _weighted(forecast)}
    known = {name: share.value for name, share in shares.items() if share is not None}
    correct_by = forecast.evaluation.rewards.correct_by
    largest = max(known, key=lambda name: known[name], default=correct_by)
    drowned = correct_by in known and known[correct_by] < DROWNED and known[largest] > DROWNING
    if not drowned or not forecast.group.mixed.value:
        return
    weight = forecast.evaluation.rewards.weights[largest]
    evidence = (
        f"{correct_by} has {known[correct_by]:.1%} of the advantages of the first step, {largest} "
        f"{known[largest]:.1%}; {forecast.group.mixed.value:.1%} of the groups have right and wrong "
        "answers."
    )
    change = (
        f"Lower the weight, rewards.{largest}={format_score(weight / 4)}, or algorithm=gdpo, which scales each reward "
        "by its own spread."
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
    """Rewards with a negative share, and pairs of rewards of which one pays for what the other punishes."""
    names = _weighted(forecast)
    for name in names:
        share = forecast.step.get(advantage_share(name))
        if share is not None and share.value <= -0.005:
            evidence = f"{name} has a share of {share.value:.1%} in the advantages: it acts against the total."
            change = f"Set its weight to 0, rewards.{name}=0, or correct it."
            yield Advice("warning", "reward_opposes_total", evidence, change)
    correlations, scores = forecast.scores.correlations(), forecast.scores
    signs = np.sign(scores.weights)
    for first, second in combinations(names, 2):
        i, j = scores.names.index(first), scores.names.index(second)
        correlation = correlations[i, j] * signs[i] * signs[j]
        if correlation < OPPOSED:
            evidence = f"{first} and {second} pay for opposite completions: their correlation is {correlation:.2f}."
            change = f"Keep the one that you want, rewards.{first}=0 or rewards.{second}=0."
            yield Advice("note", "rewards_disagree", evidence, change)


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


REWARD_RULES = (_constant, _drowned, _phantom, _opposing, _inverted)
