"""The findings of a sweep as sentences. A sentence states no more than the statistics show.

The terminal output and the page of a sweep use them. This module computes no statistics.
"""

from math import ceil
from statistics import fmean

from grpo.core.metric_format import format_interval, format_metric, label_and_formatter
from grpo.core.metric_names import ACCURACY_FLEXIBLE
from grpo.core.statistics import holm_adjusted, t_interval
from grpo.core.text import join_words, plural
from grpo.reports.arms import PRIMARY_METRIC, Arm, rewards_without
from grpo.reports.sweep_results import SweepResults
from grpo.reports.sweep_statistics import Contrast, compute_contrasts, factor_effects, mean_accuracy, search_trials


def verdict(sweep: SweepResults, baseline: Arm | None = None) -> str:
    """The findings as one paragraph."""
    return " ".join(findings(sweep, baseline))


def findings(sweep: SweepResults, baseline: Arm | None = None) -> list[str]:
    """Sentences, the most important first: the fact, its test, the other arms, and what is missing.

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
    """The plain fact first, then the test, then the other arms."""
    arms, contrasts = sweep.arms_with_runs, [*compute_contrasts(sweep, baseline).values()]
    counts = sorted({int(run.results["after"]["n"]) for arm in arms for run in arm.runs.values()})
    problems = f"{' or '.join(f'{n:,}' for n in counts)} held-out {plural(counts[-1], 'problem')}"
    if len(arms) == 1:
        return [_single_arm(arms[0], problems)]
    tested = [contrast for contrast in contrasts if contrast.seeds > 1]
    if not tested:
        return _single_seeds(sweep, contrasts, baseline)
    untested = _untested_arms(len(arms) - 1 - len(tested), baseline)
    if all(contrast.difference == 0 and contrast.is_constant for contrast in tested):
        return [f"In each of {_seeds(tested)} all arms had the same share of right answers.", *untested]
    clear = [contrast for contrast in tested if contrast.is_clear]
    largest = max(clear or tested, key=lambda contrast: abs(contrast.difference))
    others = _other_arms([contrast for contrast in tested if contrast is not largest], baseline)
    difference = f"the difference on {problems}, {_points(largest.difference)},"
    if clear:
        test = _test_of(largest, f"{_agreement(largest, baseline)}: {difference}")
        return [
            f"{_fact(sweep, largest, baseline)}.",
            f"{test}.",
            *others,
            *untested,
            *_separation(sweep, largest, baseline),
        ]
    effect = _clearest_effect(sweep, baseline)
    if largest.is_separate:
        among = f" among {len(tested)} comparisons" if len(tested) > 1 else ""
        too_few, remedy = _seeds([largest]), f"{largest.seeds_needed} seeds find it in 80% of sweeps"
        if largest.seeds_needed is None:
            too_few, remedy = problems, "more seeds alone do not find it: more held-out problems are needed"
        chance = f"{_agreement(largest, baseline)}, but {too_few} are too few to exclude chance{among}"
        return [
            f"{_fact(sweep, largest, baseline)}.",
            f"{_test_of(largest, f'{chance}: {difference}')}.",
            *effect,
            f"If its size and spread are those of these seeds, {remedy}.",
            *others,
            *untested,
        ]
    subject = f"The largest difference on {problems}, {_points(largest.difference)} with {_name(largest, baseline)},"
    return [
        f"No arm differs significantly from {baseline.short_name(baseline)} over {_seeds(tested)}.",
        f"{_test_of(largest, subject)}.",
        *effect,
        *others,
        *untested,
    ]


def _fact(sweep: SweepResults, contrast: Contrast, baseline: Arm) -> str:
    """The shares of right answers of two arms: `Without int, 91.0% of answers are right; with it, 95.0%`.

    Both shares, if those in any format differ: `91.0% of answers are right inside <answer> and 92.0% as last number`.
    """
    first, second = _shares(contrast, baseline, PRIMARY_METRIC)
    right = "right"
    anywhere = _shares(contrast, baseline, ACCURACY_FLEXIBLE)
    if anywhere and anywhere != [first, second]:
        right = f"{sweep.labels[PRIMARY_METRIC]} and {anywhere[0]} {sweep.labels[ACCURACY_FLEXIBLE]}"
        second += f" and {anywhere[1]}"
    here, there = f"With {_name(contrast, baseline)}", f"with {baseline.short_name(baseline)}"
    if off := rewards_without(contrast.arm, baseline):
        here, there = f"Without {join_words(off)}", f"with {'it' if len(off) == 1 else 'them'}"
    elif on := rewards_without(baseline, contrast.arm):
        here, there = f"With {join_words(on)}", f"without {'it' if len(on) == 1 else 'them'}"
    return f"{here}, {first} of answers are {right}; {there}, {second}"


def _shares(contrast: Contrast, baseline: Arm, metric: str) -> list[str]:
    """A metric of an arm and of the baseline, means over the seeds that they share; empty if a run has none."""
    values = [arm.values(metric) for arm in (contrast.arm, baseline)]
    if not all(seed in of_arm for of_arm in values for seed in contrast.by_seed):
        return []
    return [format_metric(metric, fmean(of_arm[seed] for seed in contrast.by_seed)) for of_arm in values]


def _agreement(contrast: Contrast, baseline: Arm) -> str:
    """How many seeds differ in the direction of the mean: `All 3 seeds agree`."""
    agree, seeds = contrast.agreeing_seeds, contrast.seeds
    noun = "shared seeds" if seeds < max(len(contrast.arm.runs), len(baseline.runs)) else "seeds"
    if agree < seeds:
        return f"{agree} of {seeds} {noun} agree"
    return f"Both {noun} agree" if seeds == 2 else f"All {seeds} {noun} agree"


def _test_of(contrast: Contrast, subject: str) -> str:
    """The test of a difference, as a sentence without its full stop."""
    test = contrast.test
    if contrast.is_constant:
        return f"{subject} is the same in each of {contrast.seeds} seeds: without spread over seeds there is no test"
    over = "seeds and problems" if contrast.crossed else "seeds"
    p = f"p {format_p(test.p)}, Holm p {format_p(contrast.p_holm)} for {contrast.comparisons} comparisons"
    return (
        f"{subject} has a 95% interval over {over} from {_signed_points(test.low)} to {_signed_points(test.high)} "
        f"({p if contrast.comparisons > 1 else f'p {format_p(test.p)}'})"
    )


def _separation(sweep: SweepResults, contrast: Contrast, baseline: Arm) -> list[str]:
    """Whether every run of an arm lies below, or above, every other run; a fact without a test."""
    own = contrast.arm.values(PRIMARY_METRIC).values()
    rest = [v for arm in sweep.arms_with_runs if arm is not contrast.arm for v in arm.values(PRIMARY_METRIC).values()]
    side = "below" if max(own) < min(rest) else "above" if min(own) > max(rest) else None
    if side is None:
        return []
    runs = f"{len(own)} runs with {_name(contrast, baseline)}"
    return [f"Each of the {runs} is {side} each of the {len(rest)} other runs."]


def _single_seeds(sweep: SweepResults, contrasts: list[Contrast], baseline: Arm) -> list[str]:
    base = baseline.short_name(baseline)
    if not contrasts:
        return [f"No arm shares a seed with {base}, so no conclusion about the arms is possible."]
    largest = max(contrasts, key=lambda contrast: abs(contrast.difference))
    same = "All arms had the same share of right answers"
    return [
        f"{_fact(sweep, largest, baseline) if largest.difference else same}.",
        "This is one seed: the spread over seeds is unknown, so no conclusion about the arms is possible.",
    ]


def _untested_arms(count: int, baseline: Arm) -> list[str]:
    if not count:
        return []
    arms_have, are = ("arm has", "is") if count == 1 else ("arms have", "are")
    base = baseline.short_name(baseline)
    return [f"{count} {arms_have} fewer than two seeds in common with {base} and {are} not tested."]


def _other_arms(others: list[Contrast], baseline: Arm) -> list[str]:
    """Which other arms differ clearly from the baseline, and how large the differences of the rest can be."""
    sentences, base = [], baseline.short_name(baseline)
    if clear := [contrast for contrast in others if contrast.is_clear]:
        verb = "differs" if len(clear) == 1 else "differ"
        sentences.append(f"{_names_with_points(clear, baseline)} also {verb} from {base}.")
    if apart := [contrast for contrast in others if contrast.is_separate and not contrast.is_clear]:
        verb = "lies" if len(apart) == 1 else "lie"
        sentences.append(
            f"{_names_with_points(apart, baseline)} {verb} apart from every run of {base}, but not significantly."
        )
    if rest := [contrast for contrast in others if not (contrast.is_clear or contrast.is_separate)]:
        limit = max(max(-contrast.test.low, contrast.test.high) for contrast in rest)
        over = "seeds and problems" if all(contrast.crossed for contrast in rest) else "seeds"
        subject, intervals = f"The other {len(rest)} arms do", f"their 95% intervals over {over} exclude"
        if len(rest) == 1:
            subject, intervals = "The other arm does", f"its 95% interval over {over} excludes"
        size = f"differences above {ceil(limit * 1000) / 10:.1f} points" if limit < 1 else "no difference"
        sentences.append(f"{subject} not differ significantly from {base}; {intervals} {size}.")
    return sentences


def _names_with_points(contrasts: list[Contrast], baseline: Arm) -> str:
    """The first three arms with their differences: `num_generations=8 (-20.0) and 2 more`."""
    names = [f"{_name(contrast, baseline)} ({_signed_points(contrast.difference)})" for contrast in contrasts[:3]]
    return join_words([*names, f"{len(contrasts) - 3} more"] if len(contrasts) > 3 else names)


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


def _name(contrast: Contrast, baseline: Arm) -> str:
    return contrast.arm.short_name(baseline)


def _seeds(contrasts: list[Contrast]) -> str:
    """The numbers of seeds of some contrasts: `3 seeds`, `2 to 3 seeds`."""
    counts = sorted({contrast.seeds for contrast in contrasts})
    return f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seeds"


def _more_or_fewer(difference: float, noun: str = "") -> str:
    return f"{abs(difference) * 100:.1f} points {'more' if difference > 0 else 'fewer'}{noun}"


def _points(difference: float) -> str:
    return f"{_signed_points(difference)} points"


def _signed_points(difference: float) -> str:
    return f"{difference * 100:+z.1f}"


def format_p(p: float) -> str:
    """A p value in a sentence."""
    return f"{p:.2g}" if p >= 0.001 else "below 0.001"
