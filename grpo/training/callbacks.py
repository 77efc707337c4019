"""Small callbacks of transformers' `Trainer`: evaluation between steps, a stop on a signal, a call at the start.

`grpo.training.session` and `grpo.training.checkpointing` add them to the trainer. They know nothing of a run's files.
The callback that records the steps is `Recorder`, in a file of its own.
"""

import signal
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from grpo.core import distributed
from grpo.core.signals import SignalHandler


class EvaluateCallback(TrainerCallback):
    """Calls `evaluate` with the step before the first step and after each one; training ends if it returns True."""

    def __init__(self, evaluate: Callable[[int], bool]) -> None:
        self.evaluate = evaluate

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        if state.global_step == 0:  # a resumed run has called it after the step of its checkpoint
            self.evaluate(0)

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        control.should_training_stop |= self.evaluate(state.global_step)


class OnTrainBegin(TrainerCallback):
    """Calls `call` once training begins, after transformers has restored its own state."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        self.call()


class StopOnSignal(TrainerCallback):
    """Ends training with a checkpoint after a step during which any process received a signal."""

    def __init__(self, signals: SignalHandler) -> None:
        self.signals = signals

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        if number := int(distributed.max_over_processes(self.signals.received or 0)):
            self.signals.received = signal.Signals(number)
            control.should_save = control.should_training_stop = True
