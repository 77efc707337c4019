"""The process of a command: its standard streams, its working directory, its command line.

Every command calls `guard_streams` first, then `check_process`. Nothing here knows about runs.
"""

import errno
import io
import logging
import os
import select
import sys
from typing import Any

from grpo.core.errors import UserError

log = logging.getLogger("grpo")


class DiscardingWriter(io.RawIOBase):
    """Writes to `file` until that fails, for example because a pipe is closed or a device is full; then discards."""

    def __init__(self, file: Any, label: str) -> None:
        self.file, self.label, self.name, self.lost = file, label, file.name, False

    def write(self, data: Any, /) -> int:
        left = memoryview(data)
        try:
            while left and not self.lost:
                written = self.file.write(left)
                if written is None:  # the stream does not block, and is full
                    select.select([], [self.file], [])
                left = left[written or 0 :]
        except OSError as error:
            self.lost = True  # before the note, which may be written here
            # A reader that stops early, as in `| head`, is normal.
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
    """A stream that writes where `stream` does and drops what cannot be written.

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
    """Guard standard output and error: a closed terminal or a full disk does not end the command."""
    for name, label in (("stdout", "Standard output"), ("stderr", "Standard error")):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, guard_stream(stream, label))
        else:  # replaced by a test or a notebook
            stream.reconfigure(errors="replace")


def check_process() -> None:
    """Check the working directory and the command line.

    Raises:
        UserError: the working directory is gone, or the command line is not text.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the working directory was deleted; change to one that exists, cd FOLDER.") from error
    for number, argument in enumerate(sys.argv[1:], 1):
        if argument.isascii() or not any("\udc80" <= character <= "\udcff" for character in argument):
            continue
        encoding = sys.getfilesystemencoding()
        shown = os.fsencode(argument).decode("utf-8", "replace")
        if encoding == "utf-8":
            raise UserError(f"argument {number}, {shown}: it is not UTF-8; type it again in UTF-8.")
        raise UserError(
            f"argument {number}, {shown}: the locale's encoding is {encoding}, which lacks some of its characters; "
            "set LC_ALL=C.UTF-8 (or PYTHONUTF8=1) and type it again."
        )
