"""A Python file of the user: executing it, and the modules that it imports from its own folder.

Called by grpo/rewards/reward_files.py once per run, and by grpo/rewards/scoring.py for each batch. It knows nothing of
rewards.
"""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo.core.errors import one_line


class UserFile:
    """A Python file of the user, and the modules that it imports from its own folder.

    Inside `imports` they are in `sys.modules` under their plain names, so that functions and classes can be pickled by
    name. Outside they are not: two files, or two runs in one process, may use the same names.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        is_taken = "." in path.stem or path.stem in sys.stdlib_module_names or path.stem in sys.modules
        self.name = f"reward_file_{path.stem}" if is_taken else path.stem
        self.modules: dict[str, ModuleType] = {}
        self.search_path = [str(self.folder)]  # added to sys.path: the folder, and what the file itself adds

    def load(self) -> None:
        """Execute the file, whose name ends in .py. Its exceptions are not caught."""
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        assert spec and spec.loader
        self.modules = {self.name: importlib.util.module_from_spec(spec)}
        importlib.invalidate_caches()  # a module in its folder may be new
        with self.imports():
            spec.loader.exec_module(self.modules[self.name])

    def functions(self) -> dict[str, Callable[..., Any]]:
        """The functions that the file defines or imports, by name."""
        return {name: value for name, value in vars(self.modules[self.name]).items() if inspect.isfunction(value)}

    @contextmanager
    def imports(self) -> Iterator[None]:
        """A context in which the file's modules are importable by name, as in a script that runs in its folder."""
        path_before, modules_before = list(sys.path), dict(sys.modules)
        sys.path[:0] = self.search_path
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            added = [entry for entry in sys.path if entry not in (*path_before, str(self.folder))]
            self.search_path = [str(self.folder), *added]
            sys.path[:] = path_before
            new_names = [name for name in list(sys.modules) if name.partition(".")[0] not in modules_before]
            self.modules |= {name: sys.modules[name] for name in new_names if self._is_in_folder(name)}
            for name in self.modules:
                sys.modules.pop(name, None)
                if name in modules_before:
                    sys.modules[name] = modules_before[name]

    def _is_in_folder(self, name: str) -> bool:
        """Whether the top-level module of `name` is in the file's folder."""
        spec = getattr(sys.modules.get(name.partition(".")[0]), "__spec__", None)
        if spec is None:
            return False
        locations = spec.submodule_search_locations or [spec.origin or ""]
        return any(Path(location).parent.resolve() == self.folder for location in locations)


def describe_error(error: BaseException, folder: Path | None = None) -> str:
    """The type, message, file and line of an exception, on one line.

    The line is the last one that ran in the user's `folder`: an error inside a library names the call that led to it.
    """
    try:
        text = one_line(f"{type(error).__name__}: {error}")
    except Exception:
        text = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if _is_own(Path(frame.filename), folder)), frames[-1])
    return text if isinstance(error, SyntaxError) else f"{text} ({Path(frame.filename).name}:{frame.lineno})"


def _is_own(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.is_relative_to(folder) and "site-packages" not in path.parts
