"""How many seeds a difference between arms needs, as a table for a terminal of 80 columns.

Called by `grpo.report --power`: before a sweep with the spreads of a measured one, after it with its own. It runs
nothing. The formula is `seeds_needed` in grpo/core/statistics.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from grpo.core.errors import UserError
from grpo.core.statistics import sd_factors, seeds_needed
from grpo.core.tables import empty_table, key_value_table
from grpo.core.text import plural
from grpo.reports.arms import Arm
from grpo.reports.baseline import choose_baseline
from grpo.reports.sweep_results import SweepResults, read_sweep
from grpo.reports.sweep_statistics import compute_contrasts
from grpo.runs.run_dir import resolve_link

POINTS = (0.5, 1, 2, 3, 5, 10, 20, 40)


@dataclass(frozen=True)
class Spread:
    """How much the paired difference between two arms varies, in points of right answers.

    Attributes:
        sd: standard deviation over seeds.
        problem_error: standard error over the held-out problems.
    """

    name: str
    sd: float
    problem_error: float


# Of `experiment=ablate_rewards`, embedded policy, seeds 0 to 4, 256 held-out problems; docs/sweeps.md has the run.
MEASURED = [
    Spread("without int, which makes no clear difference", 0.65, 0.43),
    Spread("without correctness, which does", 15.3, 1.9),
]
MEASURED_COMPARISONS = MEASURED_SEEDS = 5


def power_table(folder: Path | None, baseline: str | None) -> RenderableType:
    """The table with the spreads of the sweep in a folder, or without one, of the sweep that this project ships.

    Raises:
        UserError: the folder is not a sweep, or the spread of every arm is unknown.
    """
    if folder is None:
        return _seeds_table(MEASURED, MEASURED_COMPARISONS, MEASURED_SEEDS, "experiment=ablate_rewards, measured")
    sweep = read_sweep(resolve_link(folder))
    return _sweep_power(sweep, choose_baseline(sweep, baseline))


def _sweep_power(sweep: SweepResults, baseline: Arm) -> RenderableType:
    """The table with the smallest, median and largest spread of the arms."""
    if sweep.maximize:
        raise UserError(f"--power: {sweep.folder} is a search, whose trials have one seed each.")
    contrasts = [each for each in compute_contrasts(sweep, baseline).values() if each.seeds > 1 and each.sd > 0]
    if not contrasts:
        raise UserError(
            f"--power: no arm of {sweep.folder} has a difference from {baseline.short_name(baseline)} that varies over "
            "two seeds or more, so the spread is unknown. `python -m grpo.report --power` has measured ones."
        )
    contrasts.sort(key=lambda contrast: contrast.sd)
    chosen = dict.fromkeys([contrasts[0], contrasts[len(contrasts) // 2], contrasts[-1]])
    spreads = [
        Spread(contrast.arm.difference_from(baseline, 60), 100 * contrast.sd, 100 * contrast.problem_error)
        for contrast in chosen
    ]
    return _seeds_table(spreads, contrasts[0].comparisons, min(each.seeds for each in chosen), "this sweep")


def _seeds_table(spreads: Sequence[Spread], comparisons: int, seeds: int, source: str) -> RenderableType:
    table = empty_table(*(f"SD {spread.sd:.2g}" for spread in spreads))
    table.columns[0].header = "difference, points"
    for points in POINTS:
        needed = [seeds_needed(points, spread.sd, comparisons, spread.problem_error) for spread in spreads]
        table.add_row(f"{points:g}", *("–" if count is None else f"{count:,}" for count in needed))
    narrow, wide = sd_factors(seeds)
    notes = [
        f"Seeds for each arm, to find a difference in right answers in 80% of sweeps, with {comparisons} "
        f"{plural(comparisons, 'comparison')} (Holm) at 5%. –: no number of seeds is enough; it takes more held-out "
        "problems (data.eval_problems).",
        f"SD: of the paired difference over seeds. One over {seeds} seeds is known to a factor of {narrow:.1f} to "
        f"{wide:.1f} (95%), and the number of seeds goes with its square.",
    ]
    legend = {
        f"SD {spread.sd:.2g}": f"{spread.name}; standard error over problems {spread.problem_error:.2g}"
        for spread in spreads
    }
    return Group(table, *map(Text, notes), Text(f"Points, of {source}:"), key_value_table(legend))
