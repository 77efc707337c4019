"""The statistics of controls: pass@k before and after training, and gains over a placebo.

`control_section` calls it. It reads the samples that runs with `eval_samples` have saved, and formats nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean

import numpy as np
import pandas as pd

from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.core.statistics import Floats, crossed_t_test, pass_at_k, t_interval
from grpo.reports.arms import Arm
from grpo.reports.sweep_results import SweepResults
from grpo.reports.sweep_statistics import compute_contrasts
from grpo.runs.run_dir import RunDir
from grpo.runs.saved_run import SavedRun


@dataclass(frozen=True)
class Change:
    """A figure before and after training, or without and with something; means over seeds.

    Attributes:
        low: the 95% interval of the difference for new seeds and new problems; of a single seed for new problems, or
            nan if these are unknown, too.
    """

    before: float
    after: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def direction(self) -> str:
        """`up` or `down` if the interval excludes zero, else `unclear`."""
        return "up" if self.low > 0 else "down" if self.high < 0 else "unclear"


@dataclass(frozen=True, eq=False)
class PassAtK:
    """pass@k of an arm for S seeds, E problems and each k.

    Attributes:
        before: (S, E, len(ks)) of the policies before training.
        after: of the trained ones.
    """

    ks: list[int]
    before: Floats
    after: Floats

    @cached_property
    def changes(self) -> dict[int, Change]:
        """k -> the change of pass@k."""
        return {k: _change(self.before[:, :, i], self.after[:, :, i]) for i, k in enumerate(self.ks)}

    @property
    def crossing(self) -> tuple[int, int] | None:
        """The two k between which the curve after training falls below the one before; None if it does not."""
        signs = {k: round(change.difference, 12) for k, change in self.changes.items()}
        apart = [k for k in self.ks if signs[k]]
        crossings = [(low, high) for low, high in pairwise(apart) if signs[low] > 0 > signs[high]]
        return crossings[-1] if crossings and signs[apart[-1]] < 0 else None


def _change(before: Floats, after: Floats) -> Change:
    """The change of a figure by seed and problem, (S, E)."""
    differences = after - before
    test = crossed_t_test(differences)
    low, high = t_interval(differences[0]) if len(differences) == 1 else (test.low, test.high)
    return Change(float(before.mean()), float(after.mean()), low, high)


def pass_at_k_of(arm: Arm) -> dict[str, PassAtK]:
    """pass@k of an arm by accuracy, strict and flexible; empty if a run has no samples, or of other problems."""
    pairs = []
    for run in arm.runs.values():
        before, after = _samples(run, "before"), _samples(run, "after")
        if before is None or after is None:
            return {}
        pairs.append((before, after))
    tables = [table for pair in pairs for table in pair]
    if not all(table.index.equals(tables[0].index) for table in tables):
        return {}
    fewest = min(int(table["count"].min()) for table in tables)
    ks = [2**i for i in range(fewest.bit_length())]

    def curves(tables: Sequence[pd.DataFrame], accuracy: str) -> Floats:
        return np.array(
            [
                [[pass_at_k(n, c, k) for k in ks] for n, c in zip(table["count"], table[accuracy], strict=True)]
                for table in tables
            ]
        )

    before_all, after_all = zip(*pairs, strict=True)
    return {
        accuracy: PassAtK(ks, curves(before_all, accuracy), curves(after_all, accuracy))
        for accuracy in (ACCURACY_FLEXIBLE, ACCURACY_STRICT)
    }


def _samples(run: SavedRun, when: str) -> pd.DataFrame | None:
    """The number of samples of each problem, and of right ones by accuracy; None if there is no intact file."""
    accuracies = [ACCURACY_STRICT, ACCURACY_FLEXIBLE]
    try:
        table = pd.read_parquet(RunDir(run.folder).evaluation_table(f"{when}_samples"))
        groups = table.groupby(["problem", "question", "gold"])[accuracies]
    except (OSError, ValueError, KeyError):
        return None
    return groups.sum().astype(int).assign(count=groups.size())


def is_placebo(arm: Arm) -> bool:
    """Whether the runs of an arm were trained on permuted totals."""
    return any(run.settings.get("placebo", False) for run in arm.runs.values())


def gains_over(sweep: SweepResults, placebo: Arm) -> dict[str, dict[str, Change]]:
    """The gains of the other arms over a placebo, by arm and accuracy, in the greedy answers after training."""
    gains: dict[str, dict[str, Change]] = {}
    for accuracy in (ACCURACY_STRICT, ACCURACY_FLEXIBLE):
        for name, contrast in compute_contrasts(sweep, placebo, accuracy).items():
            after, before = (fmean(values) for values in zip(*contrast.by_seed.values(), strict=True))
            gains.setdefault(name, {})[accuracy] = Change(before, after, contrast.test.low, contrast.test.high)
    return gains
