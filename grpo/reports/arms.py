"""An arm of a sweep: the runs that differ only in their seed, named by the settings in which arms differ.

Used by `sweep_results` to sort runs into arms, and by everything that shows them. It reads no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from grpo.config.keys import flatten
from grpo.core.text import format_setting
from grpo.runs.saved_run import SavedRun

PRIMARY_METRIC = "accuracy_strict"
# What of a run's settings tells nothing of its numbers, but for the seed, whose runs are one setting's.
APART = {"seed", "resume", "tracking", "threads", "save_steps", "save_total_limit"}


@dataclass(frozen=True, eq=False)
class Arm:
    """The runs that are alike in all but their seed."""

    levels: dict[str, str]  # factor -> its level here, as it was typed
    runs: dict[int, SavedRun]  # seed -> its run, of those that are whole

    @property
    def name(self) -> str:
        return " ".join(f"{factor}={level}" for factor, level in self.levels.items()) or "all runs"

    def beside(self, baseline: "Arm", most: int = 300) -> str:
        """The levels that differ from the baseline, or all levels of the baseline itself, in `most` characters."""
        levels = self.levels.items()
        other = [
            f"{factor}={truncate_text(level, 60)}" for factor, level in levels if baseline.levels.get(factor) != level
        ]
        return truncate_text(" ".join(other) or self.name, most)

    def brief(self, baseline: "Arm") -> str:
        """A name that is short enough for a sentence."""
        if len(self.name) <= 100:
            return self.name
        return "the baseline" if self is baseline else self.beside(baseline, 100)

    def values(self, figure: str) -> dict[int, float]:
        """By seed, the figure after training."""
        found = {seed: final_value(run, figure) for seed, run in self.runs.items()}
        return {seed: each for seed, each in found.items() if each is not None}


def truncate_text(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def final_value(record: SavedRun, figure: str) -> float | None:
    """A figure after training, or `train_seconds`; None where there is none."""
    found = (record.results if figure == "train_seconds" else record.results["after"]).get(figure)
    return float(found) if isinstance(found, int | float) and isfinite(found) else None


def settings_with_effect(record: SavedRun) -> dict[str, Any]:
    """The settings that tell of a run's numbers, by their full keys."""
    return {key: of for key, of in flatten(record.settings).items() if affects_results(key)}


def affects_results(key: str) -> bool:
    return key.partition(".")[0] not in APART


def factor_levels(records: Sequence[SavedRun]) -> list[dict[str, str]]:
    """For a run of each setting, what tells it from the others: of what was typed, else of all settings."""
    if len(records) < 2:
        return [{} for _ in records]
    typed, settings = (
        [_typed_settings(record) for record in records],
        [settings_with_effect(record) for record in records],
    )
    keys = dict.fromkeys(key for each in typed for key in each if affects_results(key))
    # In YAML's words, so that 1e-4 and 0.0001 are one value, and an expression is as good as what comes of it.
    values = {
        key: [
            format_setting(of[key]) if key in of else record.choices.get(key, each.get(key, format_setting(None)))
            for record, each, of in zip(records, typed, settings, strict=True)
        ]
        for key in keys
    }
    words = {key: [each.get(key, of) for each, of in zip(typed, values[key], strict=True)] for key in keys}
    factors = [key for key in keys if len(set(values[key])) > 1 and len(set(words[key])) > 1]
    if len(set(zip(*(words[key] for key in factors), strict=True))) < len(records):
        keys = dict.fromkeys(key for of in settings for key in of)
        words = {key: [format_setting(of.get(key)) for of in settings] for key in keys}
        factors = [key for key in keys if len(set(words[key])) > 1]
    return [{key: words[key][i] for key in factors} for i in range(len(records))]


def _typed_settings(record: SavedRun) -> dict[str, str]:
    """key -> value, of what was typed for a run."""
    typed = {}
    for override in record.overrides:
        key, _, text = override.lstrip("+").partition("=")
        typed[key.removeprefix("~")] = "removed" if key.startswith("~") else text
    return typed


def parse_number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if isfinite(found) else None
