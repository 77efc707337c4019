"""The page of a preflight: the verdict, what it rests on, and completions.

Called by `grpo.preflight`. It formats a forecast and computes no figure.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo.core.metric_names import advantage_flips, advantage_share, reward_zero_std
from grpo.forecast.advice import Advice
from grpo.forecast.display import answer_facts, cost_facts, group_note, percent, setup_facts, step_facts
from grpo.forecast.forecast import Forecast
from grpo.forecast.verdict import headline
from grpo.reports.page import write_page
from grpo.reports.preflight_figures import preflight_charts
from grpo.reports.run_figures import reward_colours
from grpo.reports.titles import setup_title
from grpo.rewards.finding import format_score


def write_preflight_report(
    path: Path, forecast: Forecast, advice: Sequence[Advice], command: str, provenance: dict[str, Any]
) -> Path:
    """Write the page.

    Args:
        provenance: as `collect_provenance` returns it.
    """
    return write_page(
        path,
        "preflight.html",
        kind="preflight",
        title=setup_title(asdict(forecast.config.model), asdict(forecast.config.data), shlex.split(command)[3:]),
        headline=headline(forecast, advice),
        advice=advice,
        charts=preflight_charts(forecast),
        answers=answer_facts(forecast) | setup_facts(forecast),
        costs=cost_facts(forecast),
        steps=step_facts(forecast),
        groups=group_rows(forecast),
        group_note=group_note(forecast),
        rewards=reward_rows(forecast),
        completions=completion_rows(forecast),
        tags=forecast.evaluation.rewards.answer_format.tags,
        facts=preflight_facts(forecast, provenance),
        command=command,
    )


def preflight_facts(forecast: Forecast, provenance: dict[str, Any]) -> dict[str, str]:
    """What was asked, and where."""
    config, model, code = forecast.config, provenance["model"], provenance["code"]
    changed = "" if code is None or code["clean"] else ", with changes"
    digest = model.get("sha256") or model.get("commit")
    return {
        "policy": config.model.name + (f" ({digest[:10]})" if digest else ""),
        "data": f"{config.data.name}, {provenance['data']['train']['n']:,} training problems",
        "rewards": forecast.evaluation.rewards.describe_weights(),
        "sampling": f"rollout={config.rollout.name}, temperature {config.temperature:g}, seed {config.seed}",
        "machine": f"{config.device}, {provenance['hardware']['threads']} threads",
        "code": "not in a git checkout" if code is None else f"revision {code['revision'][:10]}{changed}",
        "versions": ", ".join(f"{package} {number}" for package, number in provenance["versions"].items()),
    }


def group_rows(forecast: Forecast) -> list[dict[str, Any]]:
    """The groups of each size; the size of the run is marked."""
    return [
        {
            "k": k,
            "of_run": k == forecast.config.num_generations,
            "mixed": percent(group.mixed),
            "differing": percent(group.differing),
            "silent": percent(group.silent),
            "per_token": f"{group.mixed_per_1000_tokens:.2f}",
            "cheapest": k == forecast.cheapest_k,
        }
        for k, group in forecast.groups.items()
    ]


def reward_rows(forecast: Forecast) -> list[dict[str, Any]]:
    """What each reward would do at the first step; the largest share first."""
    scores, step = forecast.scores, forecast.step
    hues = reward_colours(scores.names)
    rows = []
    for name, weight in forecast.evaluation.rewards.weights.items():
        share, flips = step.get(advantage_share(name)), step.get(advantage_flips(name))
        mean = forecast.mean_score(name)
        rows.append(
            {
                "name": name,
                "colour": hues[name],
                "weight": format_score(weight),
                "mean": "abstains" if mean is None else format_score(mean),
                "constant": f"{step[reward_zero_std(name)].value:.0%}",
                "share": None if share is None or not weight else share,
                "flips": "" if flips is None or not weight else f"{flips.value:.1%}",
            }
        )
    return sorted(rows, key=lambda row: -(row["share"].value if row["share"] else 0))


def completion_rows(forecast: Forecast) -> list[dict[str, Any]]:
    """Typical completions, the best ones, and a wrong one with a higher total than a right one, if there is any."""
    scores = forecast.scores
    rows = {"typical": forecast.typical_rows, "best": forecast.best_rows}
    for wrong, right in scores.inverted_pairs.examples[:1]:
        rows["wrong above right"] = [wrong, right]
    return [
        {
            "title": title,
            "answers": [
                {
                    "question": scores.questions[row // forecast.samples],
                    "gold": forecast.evaluation.examples[row // forecast.samples].gold,
                    "total": format_score(scores.totals[row]),
                    "label": "right" if scores.is_correct[row] else "wrong",
                    "text": scores.completions[row],
                }
                for row in of_title
            ],
        }
        for title, of_title in rows.items()
    ]
