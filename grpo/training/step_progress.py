"""The progress bar of training: its position, the phase of the current step and the figures of the last one.

The recorder moves it, and the parts of the trainer show their phase on it. It knows no files and no tracker.
"""

from collections.abc import Callable

from grpo.core.metric_names import CORRECT, GROUPS_DRAWN, MEAN_LENGTH, REWARD

Advance = Callable[[int, str], None]  # (steps, text beside the bar)


def no_bar(steps: int) -> Advance:
    """For a run without a progress bar."""
    return lambda count, text: None


class StepProgress:
    """Position and text of the progress bar; `start_bar` shows a bar of so many steps and returns how to advance it."""

    def __init__(self, start_bar: Callable[[int], Advance]) -> None:
        self.start_bar = start_bar
        self.advance: Advance | None = None
        self.last_step = 0
        self.figures = ""

    def start(self, max_steps: int) -> None:
        self.advance = self.start_bar(max_steps)

    def restore(self, last_step: int, figures: str) -> None:
        """Show what a checkpoint holds."""
        self.last_step, self.figures = last_step, figures
        if self.advance:
            self.advance(last_step, figures)

    def show_phase(self, phase: str) -> None:
        """Show the phase of the current step beside the bar."""
        if self.advance:
            self.advance(0, ", ".join(filter(None, (phase, self.figures))))

    def move_to(self, step: int, metrics: dict[str, float] | None) -> None:
        """Advance to `step`; the figures change if it had a rollout, whose `metrics` are given."""
        assert self.advance, "nothing is logged before training begins"
        if metrics is not None:
            self.figures = figures_of(metrics)
        self.advance(step - self.last_step, self.figures)
        self.last_step = step


def figures_of(metrics: dict[str, float]) -> str:
    """Reward, share of correct completions, mean length and with resampling the groups drawn, in a few words."""
    parts = [f"reward {metrics[REWARD]:.2f}"]
    if CORRECT in metrics:
        parts.append(f"right {metrics[CORRECT]:.0%}")
    parts.append(f"{metrics[MEAN_LENGTH]:.0f} tokens")
    if GROUPS_DRAWN in metrics:
        parts.append(f"{metrics[GROUPS_DRAWN]:.0f} groups drawn")
    return ", ".join(parts)
