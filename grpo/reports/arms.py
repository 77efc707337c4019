"""An arm of a sweep: the runs that differ only in their seed, named by the settings in which arms differ.

Used by `sweep_results` to sort runs into arms, and by the modules that show arms. The
factors, the settings that differ, are those of the saved runs: a folder may hold several sweeps. It reads no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import pandas as pd

from grpo.config.keys import flatten
from grpo.core.metric_names import ACCURACY_STRICT, PHANTOM, PROMPTS_CONSUMED, TRAIN_SECONDS
from grpo.core.text import format_setting
from grpo.runs.saved_run import SavedRun

PRIMARY_METRIC = ACCURACY_STRICT
COMPLETIONS_SAMPLED = "completions_sampled"  # for training, those of discarded groups included
# Settings that do not change the numbers of a run, and the seed, in which the runs of an arm differ.
NOT_FACTORS = {"seed", "resume", "tracking", "threads", "save_steps", "save_total_limit"}


@dataclass(frozen=True, eq=False)
class Arm:
    """The runs that differ only in their seed."""

    levels: dict[str, str]  # factor -> its level in this arm, as typed
    runs: dict[int, SavedRun]  # seed -> its run, for the seeds that have finished

    @property
    def name(self) -> str:
        return " ".join(f"{factor}={level}" for factor, level in self.levels.items()) or "all runs"

    def difference_from(self, baseline: "Arm", most: int = 300) -> str:
        """The levels that differ from the baseline, or all levels of the baseline itself; at most `most` characters."""
        levels = self.levels.items()
        different = [
            f"{factor}={truncate_text(level, 60)}" for factor, level in levels if baseline.levels.get(factor) != level
        ]
        return truncate_text(" ".join(different) or self.name, most)

    def short_name(self, baseline: "Arm") -> str:
        """A name that is short enough for a sentence."""
        if len(self.name) <= 100:
            return self.name
        return "the baseline" if self is baseline else self.difference_from(baseline, 100)

    def values(self, metric: str) -> dict[int, float]:
        """seed -> the metric after training, for the runs that have it."""
        values = {seed: final_value(run, metric) for seed, run in self.runs.items()}
        return {seed: value for seed, value in values.items() if value is not None}


def truncate_text(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def final_value(run: SavedRun, metric: str) -> float | None:
    """A metric after training, `train_seconds`, `completions_sampled`, or the mean over the steps of
    `advantage_share/phantom`.

    None if the run lacks it or it is not finite.
    """
    value: Any
    if metric == PHANTOM:
        value = run.history[PHANTOM].mean() if PHANTOM in run.history else None
    elif metric == COMPLETIONS_SAMPLED:
        sampled = completions_sampled(run)
        value = None if sampled.empty else sampled.iloc[-1]
    else:
        value = (run.results if metric == TRAIN_SECONDS else run.results["after"]).get(metric)
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def completions_sampled(run: SavedRun) -> pd.Series:
    """The number of completions sampled for training up to each logged step, those of discarded groups included."""
    if PROMPTS_CONSUMED in run.history:  # algorithm.resample
        return run.history[PROMPTS_CONSUMED].ffill() * run.settings["num_generations"]
    per_rollout = run.settings["num_generations"] * run.settings["prompts_per_step"]
    reused = run.settings.get("algorithm", {}).get("num_iterations", 1)
    return pd.Series(run.history.index * per_rollout / reused, run.history.index)


def settings_with_effect(run: SavedRun) -> dict[str, Any]:
    """The settings that may change the numbers of a run, by their full keys."""
    return {key: value for key, value in flatten(run.settings).items() if affects_results(key)}


def rewards_without(arm: Arm, other: Arm) -> list[str]:
    """The rewards that are off in `arm` and on in `other`, if that is all in which the two differ; else none."""
    here, there = (next(iter(each.runs.values())) for each in (arm, other))
    settings = [
        {key: value for key, value in settings_with_effect(run).items() if not key.startswith("rewards.")}
        for run in (here, there)
    ]
    different = [
        name for name in {**there.weights, **here.weights} if here.weights.get(name) != there.weights.get(name)
    ]
    only_off = all(there.weights.get(name) and not here.weights.get(name) for name in different)
    return different if only_off and settings[0] == settings[1] else []


def affects_results(key: str) -> bool:
    return key.partition(".")[0] not in NOT_FACTORS


def factor_levels(runs: Sequence[SavedRun]) -> list[dict[str, str]]:
    """The settings that distinguish the arms, from one run of each: typed settings if they are enough, or all settings.

    Returns:
        For each run factor -> level, the level as typed.
    """
    if len(runs) < 2:
        return [{} for _ in runs]
    run_overrides = [_typed_settings(run) for run in runs]
    composed = [settings_with_effect(run) for run in runs]
    keys = dict.fromkeys(key for overrides in run_overrides for key in overrides if affects_results(key))
    # Composed values, so that 1e-4 and 0.0001 are one value, and an expression equals its result.
    values = {
        key: [
            format_setting(settings[key])
            if key in settings
            else run.choices.get(key, overrides.get(key, format_setting(None)))
            for run, overrides, settings in zip(runs, run_overrides, composed, strict=True)
        ]
        for key in keys
    }
    levels = {
        key: [overrides.get(key, value) for overrides, value in zip(run_overrides, values[key], strict=True)]
        for key in keys
    }
    factors = [key for key in keys if len(set(values[key])) > 1 and len(set(levels[key])) > 1]
    if len(set(zip(*(levels[key] for key in factors), strict=True))) < len(runs):
        keys = dict.fromkeys(key for settings in composed for key in settings)
        levels = {key: [format_setting(settings.get(key)) for settings in composed] for key in keys}
        factors = [key for key in keys if len(set(levels[key])) > 1]
    return [{key: levels[key][i] for key in factors} for i in range(len(runs))]


def _typed_settings(run: SavedRun) -> dict[str, str]:
    """The typed overrides of a run: key -> value."""
    settings = {}
    for override in run.overrides:
        key, _, text = override.lstrip("+").partition("=")
        settings[key.removeprefix("~")] = "removed" if key.startswith("~") else text
    return settings


def parse_number(text: str) -> float | None:
    """The finite number that the text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
