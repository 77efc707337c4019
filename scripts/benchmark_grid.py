"""The grid of the benchmark: step time and peak memory against K, and against the length of the completions.

`scripts/benchmark.py --grid` calls `measure_grid`, `grid_tables` and `draw_grid`. Every completion has as many tokens
as the limit, so a straight line can be fitted: milliseconds per completion, and per token of the limit.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import correlation, linear_regression
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.table import Table

from grpo.core.files import write_json
from scripts.benchmark_arms import SETTINGS, Case, console, measure, peak_memory
from scripts.benchmark_output import machine

WARM_UP = 2
MEMORY_STEPS = 2  # from the second step on, the optimizer has its state
# Seconds of a case apart from its steps: the problems are loaded, and two processes start for the peak memory.
SECONDS_PER_CASE = 30.0
COLOURS = {"trl": "#D55E00", "fast": "#0072B2"}
OTHER_COLOUR = "#666666"

Entry = dict[str, Any]  # a finished case: "case", "title", "arms"


@dataclass(frozen=True)
class Grid:
    """A case, the values of K that replace its own, and the limits that replace its own."""

    base: Case
    ks: tuple[int, ...]
    limits: tuple[int, ...]
    steps: int  # timed steps per arm
    # Seconds of a step of both arms on two CPU cores, fixed and per token: for the first estimate of the time left.
    seconds_per_step: float
    seconds_per_token: float

    def cases(self) -> list[Case]:
        by_k = [replace(self.base, num_generations=k) for k in self.ks]
        by_limit = [replace(self.base, limit=limit) for limit in self.limits]
        return list(dict.fromkeys([*by_k, *by_limit]))

    def lines(self, entries: Sequence[Entry]) -> dict[str, list[tuple[int, Entry]]]:
        """For "completion" and for "token": (completions or limit, entry) of the finished cases."""
        found = {json.dumps(entry["case"]): entry for entry in entries}
        by_k = [(replace(self.base, num_generations=k), k * self.base.prompts) for k in self.ks]
        by_limit = [(replace(self.base, limit=limit), limit) for limit in self.limits]
        return {
            unit: [(x, found[key]) for case, x in line if (key := json.dumps(asdict(case))) in found]
            for unit, line in (("completion", by_k), ("token", by_limit))
        }


GRIDS = {
    "tiny": Grid(Case("tiny", forced=True), (4, 8, 16, 32, 64), (64, 128, 256, 512), 5, 0.0, 0.7e-3),
    # A step of the cut policy, whose embeddings have 136 million parameters, takes seconds whatever its size.
    "qwen-cut": Grid(Case("qwen-cut", 4, 1, 16, forced=True), (4, 8, 16), (16, 32, 64), 3, 10.0, 50e-3),
    "qwen": Grid(
        Case("qwen", limit=64, forced=True, prompt_tokens=256), (4, 8, 16, 32, 64), (64, 128, 256, 512), 5, 1.0, 0.5e-3
    ),
}


def measure_grid(
    cases: Sequence[Case], names: Sequence[str], steps: int | None, memory: bool, path: Path
) -> list[Entry]:
    """Measure the cases that the file `path` does not have yet, and add each to the file when it is finished.

    `steps` is the number of timed steps per arm; None means that of the grid.

    Raises:
        SystemExit: the file has results of another machine, of other versions or settings.
    """
    report = {"machine": machine(), "arms": list(names), "warm_up": WARM_UP, "steps": steps, "memory": memory}
    entries = stored_entries(path, report)
    missing = [case for case in cases if asdict(case) not in [entry["case"] for entry in entries]]
    if len(missing) < len(cases):
        console.print(f"{path} has {len(cases) - len(missing)} of {len(cases)} cases, which are not measured again.")
    expected = {case: expected_seconds(case, steps, memory) for case in missing}
    began, finished = time.monotonic(), 0.0
    for case in missing:
        scale = (time.monotonic() - began) / finished if finished else 1.0
        minutes = scale * (sum(expected.values()) - finished) / 60
        console.print(f"Case {cases.index(case) + 1} of {len(cases)}; about {max(1, minutes):.0f} min left")
        entries.append(measure_entry(case, names, steps, memory))
        write_json(path, report | {"cases": entries})
        finished += expected[case]
    return [entry for entry in entries if entry["case"] in map(asdict, cases)]


def stored_entries(path: Path, report: dict[str, Any]) -> list[Entry]:
    """The finished cases in the file, whose other keys must be equal to those of `report`."""
    if not path.exists():
        return []
    stored = json.loads(path.read_text())
    for key, value in report.items():
        if stored.get(key) != value:
            raise SystemExit(
                f"{path} was measured with {key}={stored.get(key)}, and this is {key}={value}: their times cannot be "
                "compared. Move the file, or choose another folder with --out."
            )
    return stored["cases"]


def expected_seconds(case: Case, steps: int | None, memory: bool) -> float:
    """About how long a case takes on two CPU cores; only the proportions matter once a case is finished."""
    grid = GRIDS[case.model]
    # The warm-up tries several micro-batches of TRL.
    rounds = 2 * WARM_UP + (steps or grid.steps) + (MEMORY_STEPS if memory else 0)
    step = grid.seconds_per_step + grid.seconds_per_token * case.completions * case.limit
    return SECONDS_PER_CASE + step * rounds


def measure_entry(case: Case, names: Sequence[str], steps: int | None, memory: bool) -> Entry:
    """The times of the arms of a case, and the peak memory in bytes of each."""
    distinct = [name for name in names if not ("trl" in names and whole_batch(name, case))]
    figures = measure(case, distinct, steps or GRIDS[case.model].steps, WARM_UP)
    if memory:
        for arm in figures.values():
            sized = replace(case, micro_batch_size=arm["micro_batch"])
            arm["peak_memory_bytes"] = peak_memory(arm["settings"], sized, MEMORY_STEPS)
    return {"title": str(case), "case": asdict(case), "arms": figures}


def whole_batch(name: str, case: Case) -> bool:
    """Whether the micro-batch of an arm holds the batch: it is then the same arm as `trl`."""
    sizes = [int(setting.split("=")[1]) for setting in SETTINGS[name] if setting.startswith("micro_batch_size=")]
    return any(size >= case.completions for size in sizes)


def fit(line: Sequence[tuple[int, Entry]], arm: str) -> tuple[float, float, float]:
    """The least-squares line through the median steps: slope and intercept in milliseconds, and R squared."""
    points = [(x, entry["arms"][arm]["step"] * 1e3) for x, entry in line if arm in entry["arms"]]
    if len(points) < 2:
        return float("nan"), float("nan"), float("nan")
    xs, ys = zip(*points, strict=True)
    slope, intercept = linear_regression(xs, ys)
    return slope, intercept, correlation(xs, ys) ** 2


def milliseconds(slope: float) -> str:
    """A slope in milliseconds: three significant digits, from 100 on a whole number."""
    return f"{slope:,.0f} ms" if slope >= 100 else f"{slope:.3g} ms"


def arm_names(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(name for entry in entries for name in entry["arms"]))


def grid_tables(model: str, entries: Sequence[Entry]) -> list[Table]:
    """The cases of a model, and the slopes fitted to them."""
    entries = [entry for entry in entries if entry["case"]["model"] == model]
    names = arm_names(entries)
    times = Table("K", "limit", "completions", title=f"{model}: median step and peak memory")
    for name in names:
        times.add_column(f"{name}, ms")
    times.add_column("speed")
    for name in names:
        times.add_column(f"{name}, GB")
    for entry in entries:
        case, arms = Case(**entry["case"]), entry["arms"]
        steps = [f"{arms[name]['step'] * 1e3:,.0f}" if name in arms else "" for name in names]
        memory = [f"{arms.get(name, {}).get('peak_memory_bytes', float('nan')) / 1e9:.2f}" for name in names]
        speed = f"{arms['trl']['step'] / arms['fast']['step']:.2f}x" if {"trl", "fast"} <= arms.keys() else ""
        row = [str(case.num_generations), str(case.limit), str(case.completions), *steps, speed, *memory]
        times.add_row(*row)
    slopes = Table("slope per", *names, title=f"{model}: fitted slopes (R squared)")
    for unit, line in grid_of(entries).lines(entries).items():
        fits = [fit(line, name) for name in names]
        slopes.add_row(unit, *(f"{milliseconds(slope)} ({r_squared:.3f})" for slope, _, r_squared in fits))
    return [times, slopes]


def grid_of(entries: Sequence[Entry]) -> Grid:
    """The grid that the entries, all of one model, belong to."""
    case = entries[0]["case"]
    grid = GRIDS[case["model"]]
    return replace(grid, base=replace(grid.base, policy=case["policy"], cpu_time=case["cpu_time"]))


def draw_grid(entries: Sequence[Entry], path: Path) -> None:
    """Draw, for each model, the step times with their fitted lines above the peak memory."""
    models = list(dict.fromkeys(entry["case"]["model"] for entry in entries))
    ratios = [3, 2] * len(models)
    size = (9, 5.2 * len(models))
    figure, axes = plt.subplots(
        2 * len(models), 2, figsize=size, layout="constrained", squeeze=False, gridspec_kw={"height_ratios": ratios}
    )
    for row, model in enumerate(models):
        of_model = [entry for entry in entries if entry["case"]["model"] == model]
        base, names = grid_of(of_model).base, arm_names(of_model)
        fixed = {"completion": f"{base.limit} tokens each", "token": f"{base.completions} completions"}
        labels = {"completion": "completions per step", "token": "tokens per completion"}
        for column, (unit, line) in enumerate(grid_of(of_model).lines(of_model).items()):
            above, below = axes[2 * row, column], axes[2 * row + 1, column]
            above.set_title(f"{model}, {fixed[unit]}", fontsize=10)
            for name in names:
                draw_arm(above, below, line, name, unit)
            below.set_xlabel(labels[unit])
            below.sharex(above)
            for ax, label in ((above, f"{'CPU ' * base.cpu_time}seconds per step"), (below, "peak memory, GB")):
                if isfinite(ax.dataLim.y1):  # not with --no-memory
                    ax.set_ylim(0, 1.15 * ax.dataLim.y1)
                ax.set_xlim(left=0)
                ax.spines[["top", "right"]].set_visible(False)
                if column == 0:
                    ax.set_ylabel(label)
            above.tick_params(labelbottom=False)
            above.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_arm(above: Any, below: Any, line: Sequence[tuple[int, Entry]], name: str, unit: str) -> None:
    """Draw one arm of a line of cases: medians with quartiles and the fitted line above, peak memory below."""
    points = [(x, entry["arms"][name]) for x, entry in line if name in entry["arms"]]
    if not points:
        return
    xs, colour = [x for x, _ in points], COLOURS.get(name, OTHER_COLOUR)
    steps = [arm["step"] for _, arm in points]
    errors = [
        [arm["step"] - arm["quartiles"][0] for _, arm in points],
        [arm["quartiles"][1] - arm["step"] for _, arm in points],
    ]
    slope, intercept, _ = fit(line, name)
    above.errorbar(
        xs, steps, errors, fmt="o", markersize=4, color=colour, label=f"{name}: {milliseconds(slope)} per {unit}"
    )
    above.plot([0, xs[-1]], [intercept / 1e3, (intercept + slope * xs[-1]) / 1e3], color=colour, linewidth=1)
    memory = [arm.get("peak_memory_bytes", float("nan")) / 1e9 for _, arm in points]
    below.plot(xs, memory, "o-", markersize=4, linewidth=1, color=colour)
