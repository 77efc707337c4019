"""Finds rewards that run the text of a completion as Python code, with `eval` or `exec`.

Called by grpo/rewards/probe_scores.py while a reward scores the probes. A policy is trained to write whatever such a
reward accepts. It knows no reward.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from types import CodeType
from typing import Any


@dataclass
class ExecutedCode:
    """The source texts that were executed, in order; `compiled` is the last text that was compiled."""

    sources: list[str] = field(default_factory=list)
    compiled: str = ""


_recorder: ContextVar[ExecutedCode | None] = ContextVar("executed_code", default=None)


@contextmanager
def recorded_execution() -> Iterator[ExecutedCode]:
    """Record the texts that this thread executes as Python code inside the context."""
    _add_hook()
    recorded = ExecutedCode()
    token = _recorder.set(recorded)
    try:
        yield recorded
    finally:
        _recorder.reset(token)


@cache
def _add_hook() -> None:
    sys.addaudithook(_record)


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    """Record an audit event of Python: `compile` has a source text, `exec` has code. `ast.parse` only compiles."""
    if event not in ("compile", "exec") or (recorder := _recorder.get()) is None:
        return
    if event == "compile":
        source = arguments[0]
        recorder.compiled = source.decode("utf-8", "replace") if isinstance(source, bytes) else str(source or "")
    elif isinstance(arguments[0], CodeType) and arguments[0].co_filename == "<string>":
        recorder.sources.append(recorder.compiled.strip())


def is_of_completion(source: str, completion: str) -> bool:
    """Whether the executed text `source` is a part of a completion, apart from white space."""
    text = "".join(source.split()).strip("()")
    return len(text) > 1 and text in "".join(completion.split())
