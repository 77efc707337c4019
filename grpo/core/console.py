"""The terminal: `say` prints text and tables to it, and writes them to train.log without colours.

Commands and the packages below them call it. Text is printed literally, never interpreted as console markup, because it
may come from a model or a data set. Lines wrap at spaces; paths and commands are not broken, so that they can be
copied. This module does not know what the messages are about.
"""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.text import Text

from grpo.core.text import printable

log = logging.getLogger("grpo")
console = Console(highlight=False)

# A command to copy: a program and its arguments (flags, paths, key=value, quoted text).
QUOTED_TEXT = r"""(?:'[^'\n]*'|"[^"\n]*")"""
ARGUMENT = rf"(?:-{{1,2}}\w[\w-]*(?: \d+)?|[^\s='\"]*=(?:{QUOTED_TEXT}|\S*)|{QUOTED_TEXT}|[^\s'\"]*/\S*)"
COMMAND_TO_COPY = re.compile(
    rf"(?:(?:python|torchrun|accelerate launch)(?: {ARGUMENT})*? -m [\w.]+|wandb sync|pip install \S+|ssh)"
    rf"(?: {ARGUMENT})*"
)
# Replaces a space at which a line must not break while text is wrapped; a private-use character.
UNBREAKABLE_SPACE = "\ue000"


def say(message: RenderableType) -> None:
    """Print a message to the terminal, and write it to the log without colours."""
    print_message(message, console)
    log_text = io.StringIO()
    # In a notebook, rich would display it in place of writing it to the file.
    print_message(message, Console(file=log_text, width=100, highlight=False, force_jupyter=False))
    log.info(log_text.getvalue().rstrip("\n"))


def print_message(message: RenderableType, to: Console) -> None:
    """Print text or a table to a console; a path longer than a line is not cropped."""
    if isinstance(message, str | Text):
        style = message.style if isinstance(message, Text) else ""
        text = Text(printable(str(message)), style)
        text = Text("\n").join(wrap_lines(text, to.width)) if to.is_terminal else text
        to.print(text, soft_wrap=True)
    else:
        to.print(message, crop=False)


def wrap_lines(text: Text, width: int) -> list[Text]:
    """Lines of at most `width` cells, broken at spaces only; continuation lines keep the indentation of their line."""
    lines = []
    for line in text.split("\n", allow_blank=True):
        indent = len(line.plain) - len(line.plain.lstrip(" "))
        body = line[indent:]
        body.plain = COMMAND_TO_COPY.sub(lambda command: command[0].replace(" ", UNBREAKABLE_SPACE), body.plain)
        body.overflow = "ignore"  # a word longer than a line is not broken
        for part in body.wrap(console, max(20, width - indent)):
            part.rstrip()
            part.plain = part.plain.replace(UNBREAKABLE_SPACE, " ")
            lines.append(Text(" " * indent, text.style) + part)
    return lines


def error_message(error: object) -> str:
    """An error as text for stderr: escaped, and in a terminal wrapped at spaces."""
    terminal, text = Console(stderr=True), printable(str(error))
    if not terminal.is_terminal:
        return text
    return "\n".join(line.plain for line in wrap_lines(Text(text), terminal.width))


@contextmanager
def quiet() -> Iterator[None]:
    """Inside this context nothing is printed to the terminal; train.log still receives every message."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before
