"""The progress bar of training: its position, the phase of the current step and the figures of the last ones.

The recorder moves it, and the parts of the trainer show their phase on it. It knows no files and no tracker.
"""

from collections.abc import Callable

from rich.console import RenderableType

from grpo.core.metric_names import CORRECT, GROUPS_DRAWN, MEAN_LENGTH, REWARD
from grpo.core.progress import Bar

PHASE_WIDTH = len("sampling")  # of the longest phase: the bar does not change its length within a step


def no_bar(steps: int) -> Bar:
    """For a run without a progress bar."""
    return Bar()


class StepProgress:
    """Position and text of the progress bar; `start_bar` shows a bar of so many steps.

    Attributes:
        right: what counts as right, a label of `accuracy_labels`.
        logging_steps: the steps that the figures are means of.
    """

    def __init__(self, start_bar: Callable[[int], Bar], right: str, logging_steps: int) -> None:
        self.start_bar, self.right, self.logging_steps = start_bar, right, logging_steps
        self.bar: Bar | None = None
        self.last_step = 0
        self.figures = ""

    def start(self, max_steps: int) -> None:
        self.bar = self.start_bar(max_steps)

    def restore(self, last_step: int, figures: str) -> None:
        """Show what a checkpoint holds."""
        self.last_step, self.figures = last_step, figures
        if self.bar:
            self.bar(last_step, figures)

    def show_phase(self, phase: str) -> None:
        """Show the phase of the current step beside the bar."""
        if self.bar:
            self.bar(0, self.figures, phase.ljust(PHASE_WIDTH))

    def show_above(self, block: RenderableType) -> None:
        """Show a block above the bar."""
        if self.bar:
            self.bar.show_above(block)

    def move_to(self, step: int, metrics: dict[str, float] | None) -> None:
        """Advance to `step`; the figures change if it had a rollout, whose `metrics` are given."""
        assert self.bar, "nothing is logged before training begins"
        if metrics is not None:
            self.figures = figures_of(metrics, self.right, self.logging_steps)
        self.bar(step - self.last_step, self.figures, " " * PHASE_WIDTH)
        self.last_step = step


def figures_of(metrics: dict[str, float], right: str, logging_steps: int) -> str:
    """Mean reward, share of right completions, mean length and with resampling the groups drawn, in words."""
    parts = [f"mean reward {metrics[REWARD]:.2f}"]
    if CORRECT in metrics:
        parts.append(f"{metrics[CORRECT]:.0%} {right}")
    parts.append(f"mean length {metrics[MEAN_LENGTH]:.0f} tokens")
    if GROUPS_DRAWN in metrics:
        parts.append(f"{metrics[GROUPS_DRAWN]:.0f} groups drawn")
    steps = "last step" if logging_steps == 1 else f"last {logging_steps} steps"
    return f"{steps}: {', '.join(parts)}"
