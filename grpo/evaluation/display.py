"""The output of `grpo.evaluate`: the differences of two evaluations, and completions side by side.

Called by `grpo.evaluate`. It computes no figures.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from grpo.core.console import say
from grpo.core.files import write_json
from grpo.core.metric_format import ordered_metrics
from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.core.paths import display_path
from grpo.core.tables import answers_table, comparison_table, key_value_table
from grpo.evaluation.description import protocol_differences
from grpo.evaluation.difference import PairedDifference, match_problems, paired_differences
from grpo.evaluation.evaluation import Evaluation
from grpo.evaluation.execution import StoredEvaluation
from grpo.tasks.answer_types import describe_correctness


def is_requested(figure: str, requested: Sequence[int] | None) -> bool:
    """Whether a figure is printed: of pass@k and maj@k only those with a `requested` k, unless that is None."""
    k = re.search(r"@(\d+)", figure)
    return k is None or requested is None or int(k[1]) in requested


def print_comparison(stored: dict[str, StoredEvaluation], k: Sequence[int] | None) -> None:
    """Print how the second of two evaluations differs from the first, and save it beside the second."""
    (before, first), (after, second) = stored.items()
    say(f"\n{before}, where it differs:")
    differing = protocol_differences(first.protocol, second.protocol)
    differing.pop("problems", None)  # the same problems, from whatever source
    say(key_value_table(differing or {"nothing": "the same policy under the same protocol"}))
    differences = paired_differences(second.evaluation, first.evaluation)
    for names in (
        ordered_metrics(differences),
        [name for name in differences if "@" in name and is_requested(name, k)],
    ):
        if names:
            selected = {name: differences[name] for name in names}
            figures = first.evaluation.figures, second.evaluation.figures
            say(comparison_table((before, after), *figures, selected, second.evaluation.labels))
    right = differences[ACCURACY_STRICT]
    if right.gained is not None:
        n = len(second.evaluation.examples)
        say(f"Right only under {after}: {right.gained:,} of {n:,}; only under {before}: {right.lost:,}.")
    report = {"evaluation": str(second.path), "baseline": str(first.path), "difference": _as_json(differences)}
    path = second.path.with_name(f"{second.path.stem}-vs-{first.path.stem}.json")
    write_json(path, report)
    say(f"The comparison: {display_path(path.absolute())}")


def _as_json(differences: dict[str, PairedDifference]) -> dict[str, Any]:
    return {name: asdict(difference) for name, difference in differences.items()}


def print_examples(count: int, evaluations: dict[str, Evaluation]) -> None:
    """Print the first completion of `count` problems side by side, starting with those on which the two differ."""
    sides = list(evaluations.values())
    columns = [
        range(len(sides[0].examples)),
        *([match_problems(sides[0].examples, sides[1].examples)] if sides[1:] else []),
    ]

    def are_correct(indices: tuple[int, ...], figure: str = ACCURACY_STRICT) -> list[bool]:
        return [bool(side.values[figure][side.starts[i]]) for side, i in zip(sides, indices, strict=True)]

    tags = sides[-1].rewards.answer_format.tags

    def answer_labels(indices: tuple[int, ...]) -> list[str]:
        flexible = are_correct(indices, ACCURACY_FLEXIBLE)
        return [
            describe_correctness(strict, anywhere, sides[0].labels)
            for strict, anywhere in zip(are_correct(indices), flexible, strict=True)
        ]

    rows = sorted(zip(*columns, strict=True), key=lambda indices: len(set(are_correct(indices))) < len(sides))
    for indices in rows[:count]:
        example = sides[0].examples[indices[0]]
        texts = {
            f"{title}: {label}": side.completions[i][0].text
            for (title, side), i, label in zip(evaluations.items(), indices, answer_labels(indices), strict=True)
        }
        say(answers_table(f"{example.question} (gold: {example.gold})", texts, tags))
