"""The user's own probes: a file with a question, its reference answer, a completion, and whether it is right per line.

Called by `grpo.audit probes=FILE`. It knows no reward.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError
from grpo.rewards.probe import OWN_RIGHT, OWN_WRONG, Probe
from grpo.tasks.columns import completion_column, reference_column, text_column
from grpo.tasks.example import Example
from grpo.tasks.jsonl import read_jsonl


def read_probes(path: Path) -> tuple[Probe, ...]:
    """The probes of a file of JSON Lines: right ones first, those with the same question adjacent.

    `gold` is text, a number, or a list or an object, which is compared as its JSON text. `name` may be left out. All
    columns reach the rewards.

    Raises:
        UserError: the file cannot be read or is empty, a line lacks a value, or two lines have the same name.
    """
    probes: list[Probe] = []
    names: set[str] = set()
    for probe in read_jsonl(path, _parse_row, "probes"):
        name = probe.name or f"probe {len(probes) + 1}"
        if name in names:
            raise UserError(f"{path}: two probes have the name {name!r}; give each its own.")
        names.add(name)
        probes.append(replace(probe, name=name))
    if not probes:
        raise UserError(f"probes={path}: the file has no probes.")
    questions = {probe.example.question: order for order, probe in reversed(list(enumerate(probes)))}
    return tuple(sorted(probes, key=lambda probe: (not probe.right, questions[probe.example.question])))


def _parse_row(row: dict[str, Any]) -> Probe:
    right = row.get("right")
    if not isinstance(right, bool):
        raise UserError(f"'right' is {json.dumps(right)}; it must be true or false: whether the completion is right.")
    example = Example(text_column(row, "question").strip(), reference_column(row, "gold").strip(), columns=row)
    name = text_column(row, "name") if "name" in row else ""
    completion = completion_column(row, "completion")
    return Probe(name, OWN_RIGHT if right else OWN_WRONG, completion, example, right)
