"""A lock file: at most one process writes to a folder.

Called by `run_dir`, for run directories and sweep folders. It knows nothing else about the folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from grpo.core.errors import UserError
from grpo.core.paths import display_path


@contextmanager
def locked(lock_file: Path, kind: str) -> Iterator[None]:
    """This process holds the lock within the context; the system releases it when the process ends in any way.

    Args:
        kind: what the folder belongs to, `run` or `sweep`.

    Raises:
        UserError: another process holds it.
    """
    lock = FileLock(lock_file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{display_path(lock_file.parent)} is in use by another {kind}; wait for that, or give this one another "
            f"folder, hydra.{kind}.dir=FOLDER."
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(lock_file: Path) -> bool:
    """Whether a process holds the lock. Asking can make another process that wants it at the same moment fail."""
    if not lock_file.exists():
        return False
    try:
        with locked(lock_file, "run"):
            return False
    except UserError:
        return True
