"""The findings of a sweep as sentences, each as certain as the statistics allow.

Used by the terminal output and the page of a sweep. It computes no statistics of its own.
"""

from math import isnan

from grpo.core.metric_format import format_interval, format_metric, label_and_formatter
from grpo.core.statistics import holm_adjusted, t_interval
from grpo.core.text import plural
from grpo.reports.arms import PRIMARY_METRIC, Arm
from grpo.reports.sweep_results import Sweep
from grpo.reports.sweep_statistics import Contrast, compute_contrasts, factor_effects, mean_accuracy, search_trials


def verdict(sweep: Sweep, baseline: Arm | None = None) -> str:
    """What the sweep shows, as sure as the figures are: see `findings`."""
    return " ".join(findings(sweep, baseline))


def findings(sweep: Sweep, baseline: Arm | None = None) -> list[str]:
    """Sentences: what the settings show or cannot tell, then what else is to be known with it.

    Args:
        baseline: what the others are compared with; else the first setting.
    """
    if not sweep.compared:
        return [f"None of {sweep.jobs} {plural(sweep.jobs, 'job')} has finished: there is nothing to compare yet."]
    found = _search_findings(sweep) if sweep.maximize else _comparison_findings(sweep, baseline or sweep.compared[0])
    if baseline is None and not sweep.maximize and not (first := sweep.settings[0]).runs:
        base = sweep.compared[0]
        found.append(f"{first.brief(base)} has no finished run: the others are compared with {base.brief(base)}.")
    if missing := len(sweep.missing):
        found.append(f"{missing} of {sweep.jobs} jobs {'is' if missing == 1 else 'are'} missing from this.")
    return found


def _search_findings(sweep: Sweep) -> list[str]:
    found = search_trials(sweep)
    best, (figure, *others) = [trial for trial in found if trial.best], sweep.maximize
    names = " and ".join(label_and_formatter(name)[0] for name in sweep.maximize)
    if not best:
        return [f"No trial has a figure for {names}, which the search was after."]
    of = f"Of {len(found)} {plural(len(found), 'trial')},"
    if others:
        said = f"{of} {len(best)} {'is' if len(best) == 1 else 'are'} not beaten in {names} together."
    else:
        extreme = "highest" if sweep.maximize[figure] else "lowest"
        alike = f", and so had {len(best) - 1} {plural(len(best) - 1, 'other')}" if len(best) > 1 else ""
        reached = format_metric(figure, best[0].values[0] or 0.0)
        said = f"{of} {best[0].name} had the {extreme} figure for {names}, {reached}{alike}."
    return [said, "Each is a single run, and the best of many is partly luck: run it again with other seeds."]


def _comparison_findings(sweep: Sweep, baseline: Arm) -> list[str]:
    settings, found = sweep.compared, compute_contrasts(sweep, baseline)
    asked = sorted({int(run.results["after"]["n"]) for setting in settings for run in setting.runs.values()})
    problems = f"{' or '.join(f'{n:,}' for n in asked)} held-out {plural(asked[-1], 'problem')}"
    if len(settings) == 1:
        return [_single_arm(settings[0], problems)]
    tested = [contrast for contrast in found.values() if not isnan(contrast.paired.p)]
    if not tested:
        if max(len(setting.runs) for setting in settings) == 1:
            return [
                "A single seed a setting: how far seeds differ is unknown, so nothing can be concluded about the "
                "settings."
            ]
        base = baseline.brief(baseline)
        return [f"No setting shares two seeds with {base}, so nothing can be concluded about the settings."]
    pairs = sorted({contrast.paired.pairs for contrast in tested})
    seeds = f"{pairs[0]} to {pairs[-1]} seeds" if len(pairs) > 1 else f"{pairs[0]} seeds"
    sure = [contrast for contrast in tested if contrast.sure]
    untested = _untested_arms(len(settings) - 1 - len(tested), baseline)
    if not sure:
        return [*_no_significant_difference(baseline, tested, seeds), *untested, *_clearest_effect(sweep, baseline)]
    leader = max(settings, key=mean_accuracy)
    if (told := found.get(leader.name)) in sure and told and told.paired.difference > 0:
        said = (
            f"{leader.brief(baseline)} had the most right answers on {problems}, {_mean_over_seeds(leader)}: "
            f"{_more_or_fewer(told.paired.difference)} than {baseline.brief(baseline)}"
        )
    else:
        told = max(sure, key=lambda contrast: abs(contrast.paired.difference))
        reached = format_metric(PRIMARY_METRIC, mean_accuracy(baseline))
        said = (
            f"{told.setting.brief(baseline)} had {_more_or_fewer(told.paired.difference, ' right answers')} than "
            f"{baseline.brief(baseline)} on {problems}, {_mean_over_seeds(told.setting)} against {reached}"
        )
    return [f"{said} ({_interval_and_p(told)}).", *_other_arms(told, sure, len(tested), baseline, seeds), *untested]


def _untested_arms(count: int, baseline: Arm) -> list[str]:
    if not count:
        return []
    has = f"{count} {'setting has' if count == 1 else 'settings have'}"
    return [f"{has} fewer than two seeds in common with {baseline.brief(baseline)}, which tells nothing."]


def _other_arms(told: Contrast, sure: list[Contrast], tested: int, baseline: Arm, seeds: str) -> list[str]:
    """What of the other settings is told from the baseline, and that the rest is not."""
    said, also, unsure = [], [contrast for contrast in sure if contrast is not told], tested - len(sure)
    base = baseline.brief(baseline)
    if also:
        named = ", ".join(
            f"{each.setting.brief(baseline)} ({_signed_points(each.paired.difference)})" for each in also[:3]
        )
        more = f" and {len(also) - 3} more" if len(also) > 3 else ""
        said.append(f"{named}{more} {'differs' if len(also) == 1 else 'differ'} from {base}, too.")
    if unsure:
        which = "The other" if unsure == 1 else f"The other {unsure}"
        differ = "differs" if unsure == 1 else "differ"
        said.append(f"{which} {differ} from {base} by less than {seeds} can tell.")
    return said


def _single_arm(setting: Arm, problems: str) -> str:
    values = [*setting.values(PRIMARY_METRIC).values()]
    if len(values) == 1:
        right = format_metric(PRIMARY_METRIC, values[0])
        return f"One run: {right} right answers on {problems}, and nothing to compare it with."
    right = format_metric(PRIMARY_METRIC, mean_accuracy(setting))
    return (
        f"One setting, and nothing to compare it with: {right} right answers on "
        f"{problems}, the mean of {len(values)} seeds (95% interval "
        f"{format_interval(PRIMARY_METRIC, *t_interval(values))})."
    )


def _no_significant_difference(baseline: Arm, tested: list[Contrast], seeds: str) -> list[str]:
    largest, base = max(tested, key=lambda contrast: abs(contrast.paired.difference)), baseline.brief(baseline)
    if all(contrast.paired.difference == contrast.reach == 0 for contrast in tested):
        return [f"In each of {seeds} every setting had the same share of right answers: nothing tells them apart."]
    apart = f"{_signed_points(largest.paired.difference)} points of {largest.setting.brief(baseline)}"
    around = f"95% interval from {_signed_points(largest.paired.low)} to {_signed_points(largest.paired.high)}"
    if largest.paired.p < 0.05:
        return [
            f"{seeds.capitalize()} are too few to settle which settings differ.",
            f"The largest difference in right answers from {base}, {apart}, would stand alone ({around}, p "
            f"{format_p(largest.paired.p)}), but as one of {len(tested)} comparisons it may be chance (Holm p "
            f"{format_p(largest.p_holm)}).",
        ]
    which = "the largest difference in right answers" if len(tested) > 1 else "the difference in right answers"
    return [
        f"These {seeds} cannot tell the settings apart: {which} from {base}, {apart}, has a {around} "
        f"(Holm p {format_p(largest.p_holm)})."
    ]


def _clearest_effect(sweep: Sweep, baseline: Arm) -> list[str]:
    """The clearest effect of a factor, of which all settings tell together where no single one does."""
    levels = [
        (level.paired, f"{effect.factor}={level.name}", f"{effect.factor}={effect.levels[0].name}")
        for effect in (factor_effects(sweep, baseline) if len(sweep.factors) > 1 else [])
        for level in effect.levels[1:]
        if level.paired and level.paired.low < level.paired.high
    ]
    adjusted = holm_adjusted([paired.p for paired, _, _ in levels])
    sure = [(p, *level) for p, level in zip(adjusted, levels, strict=True) if p < 0.05]
    if not sure:
        return []
    p, paired, name, first = min(sure, key=lambda each: each[0])
    return [
        f"Over all of them, though, {name} had {_more_or_fewer(paired.difference, ' right answers')} than {first} "
        f"(95% interval {_signed_points(paired.low)} to {_signed_points(paired.high)}, Holm p {format_p(p)})."
    ]


def _mean_over_seeds(setting: Arm) -> str:
    seeds = len(setting.runs)
    return f"{format_metric(PRIMARY_METRIC, mean_accuracy(setting))} over {seeds} {plural(seeds, 'seed')}"


def _more_or_fewer(difference: float, what: str = "") -> str:
    return f"{abs(difference) * 100:.1f} points {'more' if difference > 0 else 'fewer'}{what}"


def _signed_points(difference: float) -> str:
    return f"{difference * 100:+z.1f}"


def _interval_and_p(contrast: Contrast) -> str:
    paired = contrast.paired
    if paired.low == paired.high:
        return f"the same in each of {paired.pairs} seeds, so that its spread is unknown"
    low, high = _signed_points(paired.low), _signed_points(paired.high)
    return f"95% interval {low} to {high}, Holm p {format_p(contrast.p_holm)}"


def format_p(p: float) -> str:
    """A p value in prose."""
    return f"{p:.2g}" if p >= 0.001 else "below 0.001"
