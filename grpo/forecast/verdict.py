"""The verdict of a preflight: go, the changes to make first, or too few problems to tell.

Called by `grpo.preflight`. The rules are in `signal_rules`, `reward_rules` and `setup_rules`; each is a function from
the forecast to `Advice`. It knows no output.
"""

from collections.abc import Sequence

from grpo.core.text import plural
from grpo.forecast.advice import Advice
from grpo.forecast.forecast import Forecast
from grpo.forecast.reward_rules import REWARD_RULES
from grpo.forecast.setup_rules import SETUP_RULES
from grpo.forecast.signal_rules import SIGNAL_RULES, silence

# Causes for which groups have no advantage.
OF_SILENCE = {"truncated", "no_end_token", "format_not_sampled", "too_hard", "too_easy", "constant_reward"}


def judge(forecast: Forecast) -> list[Advice]:
    """All advice, warnings first; a cause comes before what follows from it."""
    found = [advice for rule in (*SETUP_RULES, *SIGNAL_RULES, *REWARD_RULES) for advice in rule(forecast)]
    if not OF_SILENCE & {advice.cause for advice in found}:
        found += silence(forecast)
    return sorted(found, key=lambda advice: advice.level != "warning")


def headline(forecast: Forecast, advice: Sequence[Advice]) -> str:
    """The verdict in one sentence."""
    group = forecast.group
    signal = (
        f"{group.mixed.value:.0%} of groups of {group.k} have right and wrong answers ({group.mixed.low:.0%} to "
        f"{group.mixed.high:.0%}), and {group.silent.value:.0%} have no advantage"
    )
    warnings = sum(each.level == "warning" for each in advice)
    if not warnings:
        unsure = any(each.cause == "few_problems_asked" for each in advice)
        return f"{'Too few problems to tell' if unsure else 'Go'}: {signal}."
    first = next(each.cause for each in advice).replace("_", " ")
    more = f" and {warnings - 1} more {plural(warnings - 1, 'warning')}" * (warnings > 1)
    return f"Change the set-up first: {first}{more}. {signal}."
