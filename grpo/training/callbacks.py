"""Small callbacks of transformers' `Trainer`: evaluation between steps, a stop on a signal, a call at the start.

`grpo.training.session` and `grpo.training.checkpointing` add them to the trainer. They know nothing of a run's files.
"""

import signal
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from grpo.core import distributed
from grpo.core.signals import Signals


class Looks(TrainerCallback):
    """Calls `look` with the step, before the first step and after every one; training ends where it says so."""

    def __init__(self, look: Callable[[int], bool]) -> None:
        self.look = look

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        if state.global_step == 0:  # else it was called after that step, before the run was interrupted
            self.look(0)

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        control.should_training_stop |= self.look(state.global_step)


class AtStart(TrainerCallback):
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        self.call()


class Stops(TrainerCallback):
    """Ends training after a step in which a signal came to any process, with a checkpoint."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        if number := int(distributed.max_over_processes(self.signals.received or 0)):
            self.signals.received = signal.Signals(number)
            control.should_save = control.should_training_stop = True
