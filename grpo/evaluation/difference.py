"""The paired comparison of two evaluations over the same problems.

Called by training runs and `grpo.evaluate`. It does not know whose evaluations they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo.core.errors import UserError
from grpo.core.statistics import Floats, bootstrap_intervals, mcnemar_p_value
from grpo.evaluation.evaluation import Evaluation
from grpo.tasks.example import Example
from grpo.tasks.numbers import strict_number


@dataclass(frozen=True)
class PairedDifference:
    """A figure of one evaluation minus the same figure of another, over the same problems."""

    value: float
    low: float  # the 95% interval, by bootstrap over the differences of the problems
    high: float
    # Only for figures that are 0 or 1 per problem: the problems with 1 only in the evaluation, or only in the baseline.
    gained: int | None = None
    lost: int | None = None
    p: float | None = None  # of McNemar's exact two-sided test


def paired_differences(evaluation: Evaluation, baseline: Evaluation) -> dict[str, PairedDifference]:
    """The figures of `evaluation` minus those of `baseline`.

    Raises:
        UserError: the two are over different problems.
    """
    order = match_problems(evaluation.examples, baseline.examples)
    names = [name for name in evaluation.by_problem if name in baseline.by_problem]
    changes = {name: evaluation.by_problem[name] - baseline.by_problem[name][order] for name in names}
    # A reward that abstains for a problem on either side has no difference there.
    changes = {name: change for name, change in changes.items() if not np.isnan(change).all()}
    differences = {}
    for name, interval in zip(changes, bootstrap_intervals(np.stack(list(changes.values()))), strict=True):
        change: Floats = changes[name]
        value = float(np.nanmean(change))
        if name in evaluation.binary and name in baseline.binary:
            gained, lost = int((change > 0).sum()), int((change < 0).sum())
            differences[name] = PairedDifference(value, *interval, gained, lost, mcnemar_p_value(gained, lost))
        else:
            differences[name] = PairedDifference(value, *interval)
    return differences


def match_problems(examples: Sequence[Example], others: Sequence[Example]) -> list[int]:
    """The index among `others` of each of `examples`.

    Raises:
        UserError: they are different problems.
    """
    keys, other_keys = (
        [(problem.question, strict_number(problem.gold) or problem.gold) for problem in problems]
        for problems in (examples, others)
    )
    indices: dict[Any, list[int]] = {}
    for index, key in enumerate(other_keys):
        indices.setdefault(key, []).append(index)
    try:
        order = [indices[key].pop(0) for key in keys]
    except (KeyError, IndexError):
        order = []
    if len(order) != len(others):
        shared = len(set(keys) & set(other_keys))
        raise UserError(
            f"baseline: a paired comparison needs the same problems; {shared:,} of {len(examples):,} are among the "
            f"baseline's {len(others):,}. Two runs are evaluated on the same with data= or data.eval_problems=."
        )
    return order
