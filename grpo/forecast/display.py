"""The terminal output of `grpo.preflight`: the tables of the forecast, and the verdict.

Called by `grpo.preflight`. It computes no figure.
"""

from collections.abc import Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from grpo.core.console import say
from grpo.core.metric_names import (
    ACCURACY_FLEXIBLE,
    ACCURACY_STRICT,
    CORRECT,
    MEAN_COMPLETION_TOKENS,
    MIXED,
    PHANTOM,
    SOFT_FORMAT,
    STRICT_FORMAT,
    TRUNCATED,
    ZERO_STD,
    advantage_flips,
    advantage_share,
    reward_zero_std,
)
from grpo.core.tables import empty_table, key_value_table
from grpo.core.text import plural, printable
from grpo.forecast.advice import Advice
from grpo.forecast.forecast import Estimate, Forecast
from grpo.forecast.setup_rules import truncated_later
from grpo.forecast.verdict import headline
from grpo.rewards.audit_report import one_line
from grpo.rewards.finding import format_score

SHOWN_ANSWERS = 5


def print_forecast(forecast: Forecast) -> None:
    """Print the tables of a forecast."""
    say(key_value_table(answer_facts(forecast)))
    say(group_table(forecast))
    say(reward_table(forecast))
    facts = step_facts(forecast) | setup_facts(forecast) | cost_facts(forecast) | completion_facts(forecast)
    say(key_value_table(facts))


def print_verdict(forecast: Forecast, advice: Sequence[Advice]) -> None:
    """Print the verdict, with the evidence and what to type."""
    warned = any(each.level == "warning" for each in advice)
    say(Text(f"\n{headline(forecast, advice)}", style="bold yellow" if warned else "bold green"))
    for each in advice:
        table = Table.grid(padding=(0, 1))
        is_warning = each.level == "warning"
        style = "bold yellow" if is_warning else ""
        title = Text(each.cause.replace("_", " "), style=style)
        table.add_row(Text("!" if is_warning else "-", style=style), title + Text(f": {printable(each.evidence)}", ""))
        table.add_row("", Text(printable(each.change)))
        say(table)


def answer_facts(forecast: Forecast) -> dict[str, str]:
    """How often the problems are solved, and what else there is to say of the completions."""
    labels = forecast.evaluation.labels
    bins = ", ".join(f"{name} {count}" for name, count in forecast.histogram.items() if count)
    problems = f"{forecast.problems:,} training {plural(forecast.problems, 'problem')}"
    facts = {
        "asked": f"{problems}, {forecast.samples} completions each",
        labels[ACCURACY_STRICT]: percent(forecast.share(ACCURACY_STRICT)),
        labels[ACCURACY_FLEXIBLE]: percent(forecast.share(ACCURACY_FLEXIBLE)),
        "problems": bins,
        "exact format": percent(forecast.share(STRICT_FORMAT)),
        "reasoning, then answer": percent(forecast.share(SOFT_FORMAT)),
        "truncated": percent(forecast.share(TRUNCATED))
        + f" at {forecast.config.max_completion_length} tokens"
        + "".join(f", {share:.1%} at {tokens}" for tokens, share in truncated_later(forecast).items()),
    }
    tokens = forecast.share(MEAN_COMPLETION_TOKENS)
    facts["tokens"] = (
        f"{tokens.value:.1f} each ({tokens.low:.1f} to {tokens.high:.1f}), 95% have at most "
        f"{np.percentile(forecast.tokens, 95):.0f}; prompts have {forecast.prompt_tokens.mean():.0f}"
    )
    total = forecast.completions
    answers = [
        f"{_shortened(answer) or 'none'} {count / total:.0%}"
        for answer, count in forecast.frequent_answers[:SHOWN_ANSWERS]
    ]
    return facts | {"answers": ", ".join(answers)}


def _shortened(answer: str, longest: int = 40) -> str:
    text = " ".join(answer.split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def group_table(forecast: Forecast) -> Table:
    """The groups for each K; `*` marks that of the run."""
    table = empty_table("right and wrong", "totals differ", "no advantage", "mixed per\n1,000 tokens")
    table.columns[0].header = "groups of K"
    for k, group in forecast.groups.items():
        mark = " *" if k == forecast.config.num_generations else ""
        table.add_row(
            f"{k}{mark}",
            percent(group.mixed),
            f"{group.differing.value:.1%}",
            f"{group.silent.value:.1%}",
            Text(f"{group.mixed_per_1000_tokens:.2f}", style="bold" if k == forecast.cheapest_k else ""),
        )
    table.caption, table.caption_justify = f"* num_generations. {group_note(forecast)}", "left"
    return table


def group_note(forecast: Forecast) -> str:
    """The best K, and how the missing ones are measured; empty if there is nothing to say."""
    notes = []
    if forecast.cheapest_k is not None:
        notes.append(f"K = {forecast.cheapest_k} has the most mixed groups per token")
    if forecast.missing_k:
        notes.append(f"for K = {', '.join(map(str, forecast.missing_k))} type samples={max(forecast.missing_k)}")
    note = "; ".join(notes)
    return note[:1].upper() + note[1:]


def reward_table(forecast: Forecast) -> Table:
    """What each reward would do at the first step."""
    table = empty_table("weight", "mean", "constant", "share", "flips")
    table.columns[0].header = "rewards at step 1"
    scores, step = forecast.scores, forecast.step
    for name, weight in zip(scores.names, scores.weights, strict=True):
        mean = forecast.mean_score(name)
        share, flips = step.get(advantage_share(name)), step.get(advantage_flips(name))
        table.add_row(
            Text(name),
            format_score(float(weight)),
            "abstains" if mean is None else format_score(mean),
            f"{step[reward_zero_std(name)].value:.0%}",
            percent(share) if weight and share is not None else "",
            f"{flips.value:.1%}" if weight and flips is not None else "",
        )
    table.caption = (
        "constant: groups in which it does not vary; share: of the squared advantages, in 95% of first steps"
    )
    table.caption_justify = "left"
    return table


def step_facts(forecast: Forecast) -> dict[str, str]:
    """What the first step would log."""
    config, step = forecast.config, forecast.step
    groups = f"{config.prompts_per_step} {plural(config.prompts_per_step, 'group')} of {config.num_generations}"
    facts = {
        "first step": f"{groups}; in 95% of first steps: right {_range(step[CORRECT])}, groups with right and wrong "
        f"answers {_range(step[MIXED])}, without an advantage {_range(step[ZERO_STD])}"
    }
    if PHANTOM in step:
        facts["phantom share"] = (
            f"{percent(step[PHANTOM])} of the squared advantages are in groups with right or with wrong answers only"
        )
    if not any(advantage_share(name) in step for name in forecast.scores.names):
        estimator = config.algorithm.advantage_estimator
        facts["shares, flips"] = (
            f"unknown with algorithm.estimator={estimator}: its advantages are not a sum over rewards"
        )
    abstentions = {name: forecast.abstentions(name) for name in forecast.scores.names}
    if listed := ", ".join(f"{name} in {share:.1%}" for name, share in abstentions.items() if share):
        facts["abstentions"] = f"{listed} of the completions"
    return facts


def setup_facts(forecast: Forecast) -> dict[str, str]:
    """The chat template and the prompts."""
    setup = forecast.setup
    facts = {}
    if setup.template:
        opened = repr(setup.template["opened"]) if "opened" in setup.template else "nothing"
        role = "no system role" if setup.template.get("system_role") is False else "the system prompt in its own turn"
        ends = " or ".join(setup.template["stop"])
        facts["template"] = f"a completion ends with {ends}; opened: {opened}; {role}; the tokenizer keeps the tags"
    if setup.train:
        facts["prompts"] = (
            f"{setup.dropped:,} of {setup.train:,} dropped; {setup.duplicates:,} training problems are held-out "
            "problems but for case and punctuation"
        )
    return facts


def cost_facts(forecast: Forecast) -> dict[str, str]:
    """What a step costs."""
    return {} if forecast.costs is None else forecast.costs.facts()


def completion_facts(forecast: Forecast) -> dict[str, str]:
    """A typical and the best completion, and a wrong one with a higher total than a right one, if there is any."""
    rows = {"typical": forecast.typical_rows[1], "best": forecast.best_rows[0]}
    for wrong, right in forecast.scores.inverted_pairs.examples[:1]:
        rows |= {"a wrong one above": wrong, "this right one": right}
    totals = forecast.scores.totals
    return {title: f"{format_score(totals[row])}: {one_line(forecast.texts[row])}" for title, row in rows.items()}


def percent(estimate: Estimate) -> str:
    """`25.0% (18.4 to 31.9)`"""
    return f"{estimate.value:z.1%} ({100 * estimate.low:z.1f} to {100 * estimate.high:z.1f})"


def _range(estimate: Estimate) -> str:
    return f"{estimate.low:.0%} to {estimate.high:.0%}"
