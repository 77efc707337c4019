"""Runs the code of a user's file: its modules, and the state of this process that it may not change.

The registry enters both contexts once for a file that is loaded and once for a batch that is scored. Nothing here
knows of rewards, and nothing here imports torch or numpy: their state is restored if they are imported already.
"""

import decimal
import importlib.util
import inspect
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo.core.signals import CAUGHT


class UserFile:
    """A Python file of the user, and the modules that it imports from its own folder.

    They have their plain names in `sys.modules`, so that functions and classes can be pickled by name, but only inside
    `imports`: two files, or two runs in one process, may use the same names.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        taken = "." in path.stem or path.stem in sys.stdlib_module_names or path.stem in sys.modules
        self.name = f"reward_file_{path.stem}" if taken else path.stem
        self.modules: dict[str, ModuleType] = {}
        self.search = [str(self.folder)]  # added to sys.path: the folder, and what the file adds itself

    def load(self) -> None:
        """Execute the file, whose name ends in .py; what it raises is not caught."""
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        assert spec and spec.loader
        self.modules = {self.name: importlib.util.module_from_spec(spec)}
        importlib.invalidate_caches()  # a module beside it may be new
        with self.imports():
            spec.loader.exec_module(self.modules[self.name])

    def functions(self) -> dict[str, Callable[..., Any]]:
        """The functions that the loaded file defines or imports, by name."""
        return {name: value for name, value in vars(self.modules[self.name]).items() if inspect.isfunction(value)}

    @contextmanager
    def imports(self) -> Iterator[None]:
        """Inside, the file's modules are importable by name, as in a script that is run from its folder."""
        path, modules = list(sys.path), dict(sys.modules)
        sys.path[:0] = self.search
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            added = [entry for entry in sys.path if entry not in (*path, str(self.folder))]
            self.search = [str(self.folder), *added]
            sys.path[:] = path
            new = [name for name in list(sys.modules) if name.partition(".")[0] not in modules]
            self.modules |= {name: sys.modules[name] for name in new if self._has(name)}
            for name in self.modules:
                sys.modules.pop(name, None)
                if name in modules:
                    sys.modules[name] = modules[name]

    def _has(self, name: str) -> bool:
        """Whether the top-level module of `name` lies in the file's folder."""
        spec = getattr(sys.modules.get(name.partition(".")[0]), "__spec__", None)
        if spec is None:
            return False
        places = spec.submodule_search_locations or [spec.origin or ""]
        return any(Path(place).parent.resolve() == self.folder for place in places)


@contextmanager
def unchanged(seed: int) -> Iterator[None]:
    """Inside, user code may change this process; afterwards what training depends on is as it was.

    That is: the working directory, the file mode mask, the recursion limit, the standard streams, the handlers of
    signals, the state of random numbers, the contexts of decimal and numpy, and torch's modes and defaults. Random
    numbers inside are drawn from `seed`.
    """
    with ExitStack() as stack:
        for restore in _restorers():
            stack.callback(restore)
        random.seed(seed)
        stack.enter_context(_streams())
        if numpy := _imported("numpy"):
            stack.callback(numpy.random.set_state, numpy.random.get_state())
            stack.enter_context(numpy.errstate())
            numpy.random.seed(seed)
        if torch := _imported("torch"):
            stack.enter_context(_torch(torch, seed))
        else:
            stack.callback(_torch_defaults)
        yield


def _imported(name: str) -> Any:
    return sys.modules.get(name)


def _restorers() -> Iterator[Callable[[], object]]:
    """What sets each part of the state back to what it is when this is iterated."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it is deleted
        pass
    else:
        yield lambda: os.chdir(folder)
    mask = os.umask(0o077)  # there is no call that only reads it
    os.umask(mask)
    yield lambda: os.umask(mask)
    depth = sys.getrecursionlimit()
    yield lambda: sys.setrecursionlimit(depth)
    numbers, context = random.getstate(), decimal.getcontext().copy()
    yield lambda: random.setstate(numbers)
    yield lambda: decimal.setcontext(context)
    if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
        handlers = {number: signal.getsignal(number) for number in (*CAUGHT, signal.SIGALRM)}
        timer = signal.getitimer(signal.ITIMER_REAL)
        yield lambda: _signals(handlers, timer)


def _signals(handlers: dict[signal.Signals, Any], timer: tuple[float, float]) -> None:
    if not timer[0]:  # an alarm that is left behind would end the process later
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


class Unclosable:
    """A stream, or its buffer, whose `close` does nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._stream, name)
        return Unclosable(value) if name == "buffer" else value  # a wrapper closes its buffer when it is collected

    def __enter__(self) -> "Unclosable":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def detach(self) -> Any:
        return self.buffer


@contextmanager
def _streams() -> Iterator[None]:
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in before.items():
        if stream is not None:
            setattr(sys, name, Unclosable(stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


@contextmanager
def _torch(torch: Any, seed: int) -> Iterator[None]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    plain = [
        (torch.are_deterministic_algorithms_enabled, partial(torch.use_deterministic_algorithms, warn_only=warn_only)),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    ]
    before = [get() for get, _ in plain]
    device, grad = torch.get_default_device(), torch.is_grad_enabled()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with (
        torch.inference_mode(torch.is_inference_mode_enabled()),
        torch.set_grad_enabled(grad),
        torch.random.fork_rng(gpus),
    ):
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            for (get, put), value in zip(plain, before, strict=True):
                if get() != value:
                    put(value)
            if torch.get_default_device() != device:
                torch.set_default_device(None if device.type == "cpu" else device)


def _torch_defaults() -> None:
    """Reset torch's defaults after code that was the first to import it."""
    if torch := _imported("torch"):
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
