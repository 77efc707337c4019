"""Draw the reward curves of a run: `python scripts/plot_rewards.py outputs/DATE/TIME docs/reward_curves.png`."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"]
WINDOW = 9  # steps of the running mean


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the reward curves and completion length of a run.")
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("picture", type=Path, help="the file to write, .png or .svg")
    args = parser.parse_args()
    metrics = pd.read_json(args.run / "metrics.jsonl", lines=True).set_index("step")
    metrics = metrics[metrics["reward"].notna()]  # lines of their own hold evaluations, and passes without a rollout
    smooth = metrics.rolling(WINDOW, min_periods=1, center=True).mean()

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[3, 1.2], layout="constrained")
    names = [
        column.split("/")[1]
        for column in map(str, metrics)
        if column.startswith("rewards/") and column.endswith("/mean")
    ]
    ends = spread([float(smooth[f"rewards/{name}/mean"].iloc[-1]) for name in names], gap=0.14)
    for name, end, colour in zip(names, ends, COLOURS, strict=False):
        left.plot(metrics.index, metrics[f"rewards/{name}/mean"], color=colour, alpha=0.2, linewidth=0.8)
        left.plot(smooth.index, smooth[f"rewards/{name}/mean"], color=colour, linewidth=2)
        left.annotate(name, (smooth.index[-1], end), (6, 0), textcoords="offset points", color=colour, va="center")
    left.set(title="mean score of each reward", xlabel="optimizer step", xlim=(1, smooth.index[-1]))
    right.plot(smooth.index, smooth["completions/mean_length"], color="#444444", linewidth=2)
    right.set(
        title="mean completion length, tokens", xlabel="optimizer step", ylim=(0, None), xlim=(1, smooth.index[-1])
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(11)
    figure.savefig(args.picture, dpi=130)


def spread(heights: list[float], gap: float) -> list[float]:
    """The heights moved apart, upwards, until labels placed there do not overlap."""
    placed: dict[int, float] = {}
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        placed[i] = max(heights[i], max(placed.values(), default=float("-inf")) + gap)
    return [placed[i] for i in range(len(heights))]


if __name__ == "__main__":
    main()
