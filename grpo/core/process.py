"""The process of a command: its standard streams, working directory and command line.

Every command calls `guard_streams`, then `prepare_process`, before anything else. It does not know what a run is.
"""

import atexit
import errno
import gc
import io
import logging
import os
import select
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError
from grpo.core.paths import display_path

log = logging.getLogger("grpo")


class DiscardingWriter(io.RawIOBase):
    """A raw stream that writes to `file` until a write fails (closed pipe, full disk), and then discards all data."""

    def __init__(self, file: Any, label: str) -> None:
        self.file, self.label, self.name, self.lost = file, label, file.name, False

    def write(self, data: Any, /) -> int:
        remaining = memoryview(data)
        try:
            while remaining and not self.lost:
                written = self.file.write(remaining)
                if written is None:  # the stream is non-blocking, and its buffer is full
                    select.select([], [self.file], [])
                remaining = remaining[written or 0 :]
        except OSError as error:
            self.lost = True  # set first, because the log message below may be written to this stream
            # A closed pipe is normal: `| head` stops reading early.
            level = logging.INFO if error.errno == errno.EPIPE else logging.WARNING
            log.log(level, "%s cannot be written (%s): the rest of it is dropped.", self.label, error.strerror)
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self.file.fileno())

    def isatty(self) -> bool:
        return bool(self.file.isatty())


def guard_stream(stream: io.TextIOWrapper, label: str) -> io.TextIOWrapper:
    """A text stream that writes to the file of `stream` and discards data that cannot be written.

    Characters that its encoding lacks become question marks.
    """
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return io.TextIOWrapper(
        DiscardingWriter(raw, label),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def guard_streams() -> None:
    """Replace stdout and stderr by guarded streams: a closed terminal or a full disk does not end the command."""
    for name, label in (("stdout", "Standard output"), ("stderr", "Standard error")):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, guard_stream(stream, label))
        else:  # a test or a notebook has replaced it
            stream.reconfigure(errors="replace")


def python_command() -> str:
    """What to type for the interpreter of this process: `python` if that is the same environment, else its path."""
    typed = shutil.which("python")
    if typed and Path(typed).parent.absolute() == Path(sys.executable).parent.absolute():
        return "python"
    return shlex.quote(display_path(Path(sys.executable).absolute()))


def prepare_process() -> None:
    """Check the working directory and the command line, and let the process end without garbage collection.

    Raises:
        UserError: the working directory was deleted, or an argument cannot be decoded.
    """
    # Garbage collection at exit would visit the objects of PyTorch and Transformers, which takes more than a second.
    atexit.register(gc.freeze)
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the working directory was deleted; change to one that exists, cd FOLDER.") from error
    for number, argument in enumerate(sys.argv[1:], 1):
        if argument.isascii() or not any("\udc80" <= character <= "\udcff" for character in argument):
            continue
        encoding = sys.getfilesystemencoding()
        decoded = os.fsencode(argument).decode("utf-8", "replace")
        if encoding == "utf-8":
            raise UserError(f"argument {number}, {decoded}: it is not UTF-8; type it again in UTF-8.")
        raise UserError(
            f"argument {number}, {decoded}: the locale's encoding is {encoding}, which lacks some of its characters; "
            "set LC_ALL=C.UTF-8 (or PYTHONUTF8=1) and type it again."
        )
