"""The lock of a run directory or a sweep folder: at most one process writes to it.

Called by the commands that write to such a folder. It knows nothing of its content but the lock file.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from grpo.core.errors import UserError
from grpo.core.paths import display_path

LOCK = ".lock"


@contextmanager
def owned(folder: Path, kind: str = "run") -> Iterator[None]:
    """The folder belongs to this process meanwhile; the system ends that with the process, however it ends.

    Raises:
        UserError: it belongs to another.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{display_path(folder)} is in use by another {kind}; wait for that, or give this one another folder, "
            f"hydra.{kind}.dir=FOLDER."
        ) from error
    try:
        yield
    finally:
        lock.release()


def in_use(folder: Path) -> bool:
    """Whether a run is under way in it. Where one may start just now, asking could be in its way."""
    if not (folder / LOCK).exists():
        return False
    try:
        with owned(folder):
            return False
    except UserError:
        return True


@contextmanager
def removed_if_unused(folder: Path, idle: str = LOCK) -> Iterator[None]:
    """On exit, remove `folder` if it holds nothing but a file named `idle`, and parents that are empty then, up to the
    working directory."""
    try:
        yield
    finally:
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {idle}:
            (folder / idle).unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                folder.rmdir()
                for parent in folder.absolute().parents:
                    if parent == Path.cwd() or not parent.is_relative_to(Path.cwd()):
                        break
                    parent.rmdir()
