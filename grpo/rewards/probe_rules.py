"""The rules on the scores of the probes: what each says about a stack of rewards.

Called by `grpo.audit`. Each rule is a function from scores to findings and knows no reward by name. A rule compares
the totals of probes that could be in one group, because only such differences make advantages: a constant that is added
to a reward changes no finding. The rules depend on what each probe is: whether its answer is right, and its format.
"""

from collections.abc import Iterator

import numpy as np

from grpo.rewards.answer_rules import RULES_ON_ANSWERS
from grpo.rewards.failures import THEN
from grpo.rewards.finding import Finding, format_score, join_with_and
from grpo.rewards.format_rules import RULES_ON_FORMAT, exclusive_rewards
from grpo.rewards.length_rules import RULES_ON_LENGTH
from grpo.rewards.order_rules import RULES_ON_ORDER, correct_by_disagrees, wrong_outscores_right
from grpo.rewards.probe_scores import ProbeScores
from grpo.rewards.probe_templates import REFERENCE
from grpo.rewards.registry import REWARDS
from grpo.rewards.signature import OF_COMPLETIONS

SCORES_SAMPLED = "completions=FILE scores sampled completions."


def judge_probes(scores: ProbeScores) -> list[Finding]:
    """All findings, warnings first."""
    rules = [_failure, wrong_outscores_right, correct_by_disagrees, exclusive_rewards]
    rules += [_constant_reward, _abstention, _executed]
    if REFERENCE in scores.index:  # built-in probes
        rules += [*RULES_ON_ANSWERS, *RULES_ON_ORDER, *RULES_ON_LENGTH, *RULES_ON_FORMAT]
    findings = [finding for rule in rules for finding in rule(scores)]
    return sorted(findings, key=lambda finding: finding.level != "warning")


def _failure(scores: ProbeScores) -> Iterator[Finding]:
    for reward, failed in scores.failures.items():
        probes = tuple(scores.probes[row].name for row in failed.errors)
        others = f" and {len(probes) - 1} others" if len(probes) > 2 else f" and '{probes[-1]}'" if probes[1:] else ""
        text = f"{reward} fails on '{probes[0]}'{others}: {failed.describe_first(reward)}. {THEN}"
        yield Finding("warning", text, probes, probes[0])


def _constant_reward(scores: ProbeScores) -> Iterator[Finding]:
    for k in np.flatnonzero(np.ptp(scores.weighted, axis=0) <= scores.rounding):
        name = scores.names[k]
        needed = [value for value in OF_COMPLETIONS if value in REWARDS[name].inputs]
        if not np.isnan(scores.raw[:, k]).all():
            score = format_score(scores.raw[0, k])
            text = f"{name} gives every probe the same score, {score}: it distinguishes none of them."
            yield Finding("warning", text)
        elif needed:
            values = join_with_and(needed)
            yield Finding("note", f"{name} abstains on every probe: {values} of a probe is not known. {SCORES_SAMPLED}")
        else:
            yield Finding("warning", f"{name} abstains on every probe.")


def _abstention(scores: ProbeScores) -> Iterator[Finding]:
    """How many probes a reward leaves to the others, and how many have no score at all."""
    abstains = np.isnan(scores.raw)
    for k, name in enumerate(scores.names):
        if name in scores.failures:
            abstains[list(scores.failures[name].errors), k] = False
    counts = abstains.sum(axis=0)
    partial = [k for k in np.flatnonzero(counts) if counts[k] < len(scores.raw)]
    if partial:
        listing = join_with_and(f"{scores.names[k]} ({counts[k]} of {len(scores.raw)} probes)" for k in partial)
        none = int((~scores.is_scored).sum())
        without = f"; {none} {'have' if none > 1 else 'has'} no score, so no advantage" if none else ""
        yield Finding("note", f"Abstentions of {listing}{without}.")


def _executed(scores: ProbeScores) -> Iterator[Finding]:
    for reward, probe in scores.executed.items():
        text = (
            f"{reward} executes the text of a completion as Python code, as in '{probe}': a policy can write "
            "`9**9**9`, or worse. Parse it with `ast`, and compute the operators that you allow."
        )
        yield Finding("warning", text, (probe,), probe)
