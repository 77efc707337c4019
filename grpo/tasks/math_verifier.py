"""The program of a worker process that compares answers by math-verify. `MathAnswer` starts it.

It reads requests from stdin and writes replies to stdout, one line each: `[reference, answer]` in JSON, then `true`,
`false`, or `null` if the reference is not mathematics. It limits its own CPU time and memory, and the kernel ends it
when a comparison exceeds them, also inside of code that takes no signals. It imports nothing of grpo, so that it starts
quickly.
"""

import faulthandler
import json
import resource
import sys
from functools import lru_cache
from typing import Any

CPU_SECONDS = 2  # of one comparison
MEMORY = 4 * 2**30  # bytes of address space
# The wall-clock limit only ends a comparison that waits without computing. CPU time is the limit otherwise, because a
# comparison then has the same result on a busy machine.
SECONDS = 120


@lru_cache(maxsize=4096)
def parse_text(text: str) -> Any:
    """The expression in `text`, which is LaTeX with or without `$`; an empty list if there is none."""
    from math_verify import parse

    is_marked = any(mark in text for mark in ("$", "\\(", "\\[", "\\boxed"))
    return parse(text if is_marked else f"${text}$", parsing_timeout=None)


def is_same(reference: str, answer: str) -> bool | None:
    from math_verify import verify

    if not (expected := parse_text(reference)):
        return None
    return bool(verify(expected, parse_text(answer), timeout_seconds=None))


def main() -> None:
    import logging

    import math_verify  # noqa: F401  (imported before the time of the first comparison counts)

    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CPU)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard_limit))
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.stderr)
        try:
            same = is_same(*json.loads(line))
        except (Exception, RecursionError, MemoryError):  # of sympy, on text that a policy wrote: the answer is wrong
            same = False
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(same), flush=True)


if __name__ == "__main__":
    main()
