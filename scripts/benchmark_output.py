"""What the benchmark prints, draws and records: the table of a case, the figure of all cases, and the machine.

`scripts/benchmark.py` calls it with the figures that `scripts/benchmark_arms.py` has measured.
"""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.table import Table

from grpo.runs.provenance import checkout_state
from scripts.benchmark_arms import CUDA, PARTS, Case

COLOURS = ("#0072B2", "#E69F00", "#BBBBBB")


def results_table(case: Case, figures: dict[str, dict[str, Any]]) -> Table:
    """The times of the arms of a case, and the speed of each relative to `trl`."""
    table = Table("arm", "step, ms", *PARTS, "tokens/s", "speed", title=str(case), title_justify="left")
    reference = figures["trl"]["step"] if "trl" in figures else None
    for name, arm in figures.items():
        low, high = arm["quartiles"]
        table.add_row(
            name,
            f"{arm['step'] * 1e3:.0f} ({low * 1e3:.0f}-{high * 1e3:.0f})",
            *(f"{arm[part] * 1e3:.0f}" for part in PARTS),
            f"{arm['tokens_per_second']:,.0f}",
            f"{reference / arm['step']:.2f}x" if reference else "",
        )
    if "trl" in figures:
        table.caption = (
            f"the fastest settings of TRL: bf16={figures['trl']['bf16']}, micro-batch {figures['trl']['micro_batch']}"
        )
    return table


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw the median step of every arm as a bar of its parts."""
    bars = [(entry["title"], name, arm) for entry in results for name, arm in entry["arms"].items()]
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.34 * (len(bars) + 1.6 * len(results))), layout="constrained")
    y = 0.0
    ticks: list[float] = []
    labels: list[str] = []
    for entry in results:
        y += 1.0
        axes.text(0, y - 0.1, entry["title"], va="bottom", fontsize=9)
        for name, arm in entry["arms"].items():
            y += 0.8
            left = 0.0
            for part, colour in zip(PARTS, COLOURS, strict=True):
                axes.barh(y, arm[part], 0.6, left=left, color=colour, label=part if not ticks else None)
                left += arm[part]
            axes.text(left, y, f" {arm['step'] * 1e3:.0f} ms", va="center", fontsize=8)
            ticks.append(y)
            labels.append(name)
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.set_xlabel("median seconds per optimizer step")
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def machine() -> dict[str, Any]:
    """The hardware and the versions that a result depends on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if CUDA else None,
        "code": checkout_state(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "trl", "accelerate")},
    }
