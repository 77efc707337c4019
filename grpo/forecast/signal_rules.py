"""Rules on the signal: whether groups have right and wrong answers, and why they do not.

Part of grpo/forecast/verdict.py. Of the causes that explain missing right answers only the first is reported:
truncation, then the format, then the difficulty. A rule on what is missing warns if the upper end of the interval is
low, too; else more problems are to be asked. It knows no reward but `correct_by`.
"""

from collections.abc import Iterator

from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT, SOFT_FORMAT, TRUNCATED
from grpo.core.text import plural
from grpo.forecast.advice import Advice
from grpo.forecast.forecast import Forecast
from grpo.forecast.other_formats import best_other_format
from grpo.tasks.answer_format import TagFormat

FEW = 0.25  # fewer groups with right and wrong answers teach little of what is right
NEVER = 0.01  # a share of completions so small that a group hardly has one


def too_often_truncated(forecast: Forecast) -> bool:
    """Whether so many completions end at the limit that neither format nor difficulty can be judged."""
    return forecast.share(TRUNCATED).value > FEW


def format_is_missing(forecast: Forecast) -> bool:
    """Whether hardly any completion has reasoning and answer in the format, and more problems would not change that."""
    share = forecast.share(SOFT_FORMAT)
    return share.value < NEVER and share.high < FEW and not too_often_truncated(forecast)


def _format(forecast: Forecast) -> Iterator[Advice]:
    if not format_is_missing(forecast):
        return
    requested = forecast.evaluation.rewards.answer_format
    evidence = (
        f"{forecast.share(SOFT_FORMAT).value:.1%} of the completions have reasoning and answer in the format "
        f"({requested.setting}); {forecast.share(ACCURACY_STRICT).value:.1%} are right in it, and "
        f"{forecast.share(ACCURACY_FLEXIBLE).value:.1%} anywhere in the text."
    )
    change = (
        "Show the format in the prompt, system_prompt=TEXT with an example, or use a policy that follows instructions, "
        "model=NAME."
    )
    other = best_other_format(forecast.texts, requested)
    if other is not None:
        evidence += f" {other.share:.1%} have both in another format."
        tags = "format=tags " * (isinstance(other.format, TagFormat) and not isinstance(requested, TagFormat))
        change = f"Type {tags}{other.format.setting}, the format that the policy writes."
    yield Advice("warning", "format_not_sampled", evidence, change)


def _few_mixed_groups(forecast: Forecast) -> Iterator[Advice]:
    """Too hard, too easy, or some of both."""
    group = forecast.group
    if group.mixed.high >= FEW or too_often_truncated(forecast) or format_is_missing(forecast):
        return
    solved = forecast.share(ACCURACY_STRICT)
    evidence = (
        f"{solved.value:.1%} of the completions are right; of groups of {group.k}, "
        f"{group.none_right.value:.1%} have no right answer, {group.all_right.value:.1%} only right ones, "
        f"and {group.mixed.value:.1%} both."
    )
    measure = (
        f"{forecast.difficulty_setting} trains on the problems that are solved sometimes; problems=1000 "
        "measures more of them"
    )
    if group.none_right.value >= group.all_right.value:
        easier = "data.max_steps=2 data.max_number=100" if forecast.config.data.name == "arithmetic" else "data=NAME"
        change = f"Use easier problems, {easier}, or a stronger policy, model=NAME. {measure}."
        yield Advice("warning", "too_hard", evidence, change)
    else:
        harder = "data.min_steps=4 data.max_number=1000" if forecast.config.data.name == "arithmetic" else "data=NAME"
        change = f"Use harder problems, {harder}. {measure}."
        yield Advice("warning", "too_easy", evidence, change)


def _uncertain(forecast: Forecast) -> Iterator[Advice]:
    """Whether enough groups have right and wrong answers, and an advantage, depends on the problems asked."""
    mixed, silent = forecast.group.mixed, forecast.group.silent
    if mixed.low < FEW <= mixed.high:
        share, what = mixed, "right and wrong answers"
    elif silent.low <= 1 - FEW < silent.high:
        share, what = silent, "no advantage"
    else:
        return
    if too_often_truncated(forecast) or format_is_missing(forecast):
        return
    evidence = (
        f"{share.low:.0%} to {share.high:.0%} of groups of {forecast.group.k} have {what}, by {forecast.problems:,} "
        f"{plural(forecast.problems, 'problem')}: too wide a range to tell."
    )
    yield Advice("note", "few_problems_asked", evidence, f"Ask more, problems={max(32, 4 * forecast.problems)}.")


def silence(forecast: Forecast) -> Iterator[Advice]:
    """Groups without an advantage, for which no other rule has a reason."""
    group, gate = forecast.group, forecast.config.algorithm.gate
    if group.silent.low <= 1 - FEW:
        return
    reason = "the totals of their completions are equal"
    if gate != "off":
        reason += f", or differ only in rewards that algorithm.gate={gate} leaves out"
    evidence = f"{group.silent.value:.1%} of groups of {group.k} have no advantage: {reason}."
    change = (
        f"Raise temperature={forecast.config.temperature:g}, so that completions differ more, or add a reward that "
        "differs within groups."
    )
    yield Advice("warning", "no_signal", evidence, change)


SIGNAL_RULES = (_format, _few_mixed_groups, _uncertain)
