"""Restores the state of this process that training depends on, after code of the user has run.

Entered when a reward file is loaded, and for each batch that its rewards score. It knows nothing of rewards, and
imports neither torch nor numpy: it restores their state if they are already imported.
"""

import decimal
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from grpo.core.signals import HANDLED_SIGNALS


@contextmanager
def restored_process_state(seed: int) -> Iterator[None]:
    """A context for user code; afterwards the state of this process that training depends on is restored.

    That is: the working directory, the umask, the recursion limit, the standard streams, signal handlers, the states of
    random number generators, the contexts of decimal and numpy, and torch's modes and defaults. Inside, random number
    generators are seeded with `seed`.
    """
    with ExitStack() as stack:
        for restore in _restorers():
            stack.callback(restore)
        stack.enter_context(_protected_streams())
        if numpy := _imported_module("numpy"):
            stack.callback(numpy.random.set_state, numpy.random.get_state())
            stack.enter_context(numpy.errstate())
        if torch := _imported_module("torch"):
            stack.enter_context(_restored_torch(torch))
        else:
            stack.callback(_reset_torch_defaults)
        seed_generators(seed)
        yield


def seed_generators(seed: int) -> None:
    """Seed the random number generators of Python, and those of numpy and torch if they are already imported."""
    seed %= 2**32  # numpy takes no larger one
    random.seed(seed)
    if numpy := _imported_module("numpy"):
        numpy.random.seed(seed)
    if torch := _imported_module("torch"):
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(seed)


def _imported_module(name: str) -> Any:
    """The module if it is already imported, else None."""
    return sys.modules.get(name)


def _restorers() -> Iterator[Callable[[], object]]:
    """Functions that restore the parts of the state to their values at the time of iteration."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was deleted
        pass
    else:
        yield lambda: os.chdir(folder)
    umask = os.umask(0o077)  # there is no function that only reads it
    os.umask(umask)
    yield lambda: os.umask(umask)
    recursion_limit = sys.getrecursionlimit()
    yield lambda: sys.setrecursionlimit(recursion_limit)
    random_state, decimal_context = random.getstate(), decimal.getcontext().copy()
    yield lambda: random.setstate(random_state)
    yield lambda: decimal.setcontext(decimal_context)
    if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
        handlers = {number: signal.getsignal(number) for number in (*HANDLED_SIGNALS, signal.SIGALRM)}
        timer = signal.getitimer(signal.ITIMER_REAL)
        yield lambda: _restore_signals(handlers, timer)


def _restore_signals(handlers: dict[signal.Signals, Any], timer: tuple[float, float]) -> None:
    if not timer[0]:  # an alarm that is left running would end the process later
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


class UnclosableStream:
    """A wrapper of a stream, or of its buffer, whose `close` does nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._stream, name)
        # A wrapper closes its buffer when it is garbage-collected.
        return UnclosableStream(value) if name == "buffer" else value

    def __enter__(self) -> "UnclosableStream":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def detach(self) -> Any:
        return self.buffer


@contextmanager
def _protected_streams() -> Iterator[None]:
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        if stream is not None:
            setattr(sys, name, UnclosableStream(stream))
    try:
        yield
    finally:
        for name, stream in streams.items():
            setattr(sys, name, stream)


@contextmanager
def _restored_torch(torch: Any) -> Iterator[None]:
    warn_only, module = torch.is_deterministic_algorithms_warn_only_enabled(), torch.utils.deterministic
    accessors = [
        (torch.are_deterministic_algorithms_enabled, partial(torch.use_deterministic_algorithms, warn_only=warn_only)),
        (lambda: module.fill_uninitialized_memory, partial(setattr, module, "fill_uninitialized_memory")),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    ]
    values = [get() for get, _ in accessors]
    device, grad = torch.get_default_device(), torch.is_grad_enabled()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with (
        torch.inference_mode(torch.is_inference_mode_enabled()),
        torch.set_grad_enabled(grad),
        torch.random.fork_rng(gpus),
    ):
        try:
            yield
        finally:
            for (get, put), value in zip(accessors, values, strict=True):
                if get() != value:
                    put(value)
            if torch.get_default_device() != device:
                torch.set_default_device(None if device.type == "cpu" else device)


def _reset_torch_defaults() -> None:
    """Reset torch's defaults, if user code was the first to import torch."""
    if torch := _imported_module("torch"):
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
