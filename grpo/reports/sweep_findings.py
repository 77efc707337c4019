"""The findings of a sweep as sentences. A sentence states no more than the statistics show.

The terminal output and the page of a sweep use them. This module computes no statistics.
"""

from math import isnan

from grpo.core.metric_format import format_interval, format_metric, label_and_formatter
from grpo.core.statistics import holm_adjusted, t_interval
from grpo.core.text import plural
from grpo.reports.arms import PRIMARY_METRIC, Arm
from grpo.reports.sweep_results import SweepResults
from grpo.reports.sweep_statistics import Contrast, compute_contrasts, factor_effects, mean_accuracy, search_trials


def verdict(sweep: SweepResults, baseline: Arm | None = None) -> str:
    """The findings as one paragraph."""
    return " ".join(findings(sweep, baseline))


def findings(sweep: SweepResults, baseline: Arm | None = None) -> list[str]:
    """Sentences: which arms differ, or that no difference is significant; then the number of missing jobs.

    Args:
        baseline: the arm that the others are compared with; None: the first arm that has runs.
    """
    if not sweep.arms_with_runs:
        jobs = f"{sweep.job_count} {plural(sweep.job_count, 'job')}"
        return [f"None of {jobs} has finished: there is nothing to compare yet."]
    first_with_runs = sweep.arms_with_runs[0]
    if sweep.maximize:
        sentences = _search_findings(sweep)
    else:
        sentences = _comparison_findings(sweep, baseline or first_with_runs)
        if baseline is None and not (first := sweep.arms[0]).runs:
            base = first_with_runs.short_name(first_with_runs)
            name = first.short_name(first_with_runs)
            sentences.append(f"{name} has no finished run: the others are compared with {base}.")
    if missing := len(sweep.missing):
        sentences.append(f"{missing} of {sweep.job_count} jobs {'is' if missing == 1 else 'are'} missing from this.")
    return sentences


def _search_findings(sweep: SweepResults) -> list[str]:
    trials = search_trials(sweep)
    best = [trial for trial in trials if trial.best]
    names = " and ".join(label_and_formatter(name, sweep.labels)[0] for name in sweep.maximize)
    if not best:
        return [f"No trial has a value of {names}, the objective of the search."]
    of_trials = f"Of {len(trials)} {plural(len(trials), 'trial')},"
    if len(sweep.maximize) > 1:
        result = f"{of_trials} {len(best)} {'is' if len(best) == 1 else 'are'} on the Pareto front of {names}."
    else:
        ((metric, maximize),) = sweep.maximize.items()
        extreme = "highest" if maximize else "lowest"
        ties = f", as had {len(best) - 1} {plural(len(best) - 1, 'other')}" if len(best) > 1 else ""
        value = format_metric(metric, best[0].values[0] or 0.0)
        result = f"{of_trials} {best[0].name} had the {extreme} value of {names}, {value}{ties}."
    return [result, "Each is a single run, and the best of many is partly luck: run it again with other seeds."]


def _comparison_findings(sweep: SweepResults, baseline: Arm) -> list[str]:
    arms, contrasts = sweep.arms_with_runs, compute_contrasts(sweep, baseline)
    counts = sorted({int(run.results["after"]["n"]) for arm in arms for run in arm.runs.values()})
    problems = f"{' or '.join(f'{n:,}' for n in counts)} held-out {plural(counts[-1], 'problem')}"
    if len(arms) == 1:
        return [_single_arm(arms[0], problems)]
    tested = [contrast for contrast in contrasts.values() if not isnan(contrast.paired.p)]
    if not tested:
        if max(len(arm.runs) for arm in arms) == 1:
            return [
                "Each arm has a single seed: the spread over seeds is unknown, so no conclusion about the arms is "
                "possible."
            ]
        base = baseline.short_name(baseline)
        return [f"No arm shares two seeds with {base}, so no conclusion about the arms is possible."]
    pairs = sorted({contrast.paired.pairs for contrast in tested})
    seeds = f"{pairs[0]} to {pairs[-1]} seeds" if len(pairs) > 1 else f"{pairs[0]} seeds"
    significant = [contrast for contrast in tested if contrast.is_significant]
    untested = _untested_arms(len(arms) - 1 - len(tested), baseline)
    if not significant:
        return [*_no_significant_difference(baseline, tested, seeds), *untested, *_clearest_effect(sweep, baseline)]
    leader = contrasts.get(max(arms, key=mean_accuracy).name)
    if leader in significant and leader and leader.paired.difference > 0:
        described, sentence = leader, _leader_sentence(leader, baseline, problems)
    else:
        described = max(significant, key=lambda contrast: abs(contrast.paired.difference))
        sentence = _difference_sentence(described, baseline, problems)
    others = [contrast for contrast in significant if contrast is not described]
    return [sentence, *_other_arms(others, len(tested) - len(significant), baseline, seeds), *untested]


def _leader_sentence(leader: Contrast, baseline: Arm, problems: str) -> str:
    return (
        f"{leader.arm.short_name(baseline)} had the most right answers on {problems}, "
        f"{_mean_over_seeds(leader.arm)}: {_more_or_fewer(leader.paired.difference)} than "
        f"{baseline.short_name(baseline)} ({_interval_and_p(leader)})."
    )


def _difference_sentence(contrast: Contrast, baseline: Arm, problems: str) -> str:
    return (
        f"{contrast.arm.short_name(baseline)} had {_more_or_fewer(contrast.paired.difference, ' right answers')} than "
        f"{baseline.short_name(baseline)} on {problems}, {_mean_over_seeds(contrast.arm)} against "
        f"{format_metric(PRIMARY_METRIC, mean_accuracy(baseline))} ({_interval_and_p(contrast)})."
    )


def _untested_arms(count: int, baseline: Arm) -> list[str]:
    if not count:
        return []
    arms_have, are = ("arm has", "is") if count == 1 else ("arms have", "are")
    base = baseline.short_name(baseline)
    return [f"{count} {arms_have} fewer than two seeds in common with {base} and {are} not tested."]


def _other_arms(significant: list[Contrast], not_significant: int, baseline: Arm, seeds: str) -> list[str]:
    """Which other arms differ from the baseline, and how many do not differ significantly."""
    sentences, base = [], baseline.short_name(baseline)
    if significant:
        names = ", ".join(
            f"{contrast.arm.short_name(baseline)} ({_signed_points(contrast.paired.difference)})"
            for contrast in significant[:3]
        )
        more = f" and {len(significant) - 3} more" if len(significant) > 3 else ""
        sentences.append(f"{names}{more} also {'differs' if len(significant) == 1 else 'differ'} from {base}.")
    if not_significant:
        subject = "The other arm does" if not_significant == 1 else f"The other {not_significant} arms do"
        sentences.append(f"{subject} not differ significantly from {base} over {seeds}.")
    return sentences


def _single_arm(arm: Arm, problems: str) -> str:
    values = [*arm.values(PRIMARY_METRIC).values()]
    if len(values) == 1:
        accuracy = format_metric(PRIMARY_METRIC, values[0])
        return f"One run: {accuracy} right answers on {problems}. There is no other arm to compare it with."
    accuracy = format_metric(PRIMARY_METRIC, mean_accuracy(arm))
    interval = format_interval(PRIMARY_METRIC, *t_interval(values))
    return (
        f"One arm: {accuracy} right answers on {problems}, the mean of {len(values)} seeds (95% interval {interval}). "
        "There is no other arm to compare it with."
    )


def _no_significant_difference(baseline: Arm, tested: list[Contrast], seeds: str) -> list[str]:
    if all(contrast.paired.difference == contrast.half_width == 0 for contrast in tested):
        return [f"In each of {seeds} all arms had the same share of right answers."]
    largest, base = max(tested, key=lambda contrast: abs(contrast.paired.difference)), baseline.short_name(baseline)
    difference = f"{_signed_points(largest.paired.difference)} points of {largest.arm.short_name(baseline)}"
    interval = f"95% interval from {_signed_points(largest.paired.low)} to {_signed_points(largest.paired.high)}"
    if largest.paired.p < 0.05:
        return [
            f"{seeds.capitalize()} are too few to decide which arms differ.",
            f"The largest difference in right answers from {base}, {difference}, would be significant alone "
            f"({interval}, p {format_p(largest.paired.p)}), but is not as one of {len(tested)} comparisons (Holm p "
            f"{format_p(largest.p_holm)}).",
        ]
    subject = "the largest difference in right answers" if len(tested) > 1 else "the difference in right answers"
    return [
        f"These {seeds} show no significant difference between the arms: {subject} from {base}, {difference}, has a "
        f"{interval} (Holm p {format_p(largest.p_holm)})."
    ]


def _clearest_effect(sweep: SweepResults, baseline: Arm) -> list[str]:
    """The most significant effect of a factor, averaged over all arms; none is printed unless it is significant.

    A factor can have a significant effect although no single arm differs significantly from the baseline.
    """
    levels = [
        (level.paired, f"{effect.factor}={level.name}", f"{effect.factor}={effect.levels[0].name}")
        for effect in (factor_effects(sweep, baseline) if len(sweep.factors) > 1 else [])
        for level in effect.levels[1:]
        if level.paired and level.paired.low < level.paired.high
    ]
    adjusted = holm_adjusted([paired.p for paired, _, _ in levels])
    significant = [(p, *level) for p, level in zip(adjusted, levels, strict=True) if p < 0.05]
    if not significant:
        return []
    p, paired, name, first = min(significant, key=lambda row: row[0])
    return [
        f"Averaged over the other factors, {name} had {_more_or_fewer(paired.difference, ' right answers')} than "
        f"{first} (95% interval {_signed_points(paired.low)} to {_signed_points(paired.high)}, Holm p {format_p(p)})."
    ]


def _mean_over_seeds(arm: Arm) -> str:
    seeds = len(arm.runs)
    return f"{format_metric(PRIMARY_METRIC, mean_accuracy(arm))} over {seeds} {plural(seeds, 'seed')}"


def _more_or_fewer(difference: float, noun: str = "") -> str:
    return f"{abs(difference) * 100:.1f} points {'more' if difference > 0 else 'fewer'}{noun}"


def _signed_points(difference: float) -> str:
    return f"{difference * 100:+z.1f}"


def _interval_and_p(contrast: Contrast) -> str:
    paired = contrast.paired
    if paired.low == paired.high:
        return f"the same in each of {paired.pairs} seeds, so its spread is unknown"
    low, high = _signed_points(paired.low), _signed_points(paired.high)
    return f"95% interval {low} to {high}, Holm p {format_p(contrast.p_holm)}"


def format_p(p: float) -> str:
    """A p value in a sentence."""
    return f"{p:.2g}" if p >= 0.001 else "below 0.001"
