"""The program of a worker process that judges answers by a library. `VerifierProcess` starts it.

Its argument names the judge. It reads requests from stdin and writes replies to stdout, one line of JSON each. It
limits its own CPU time and memory, and the kernel ends it when a request exceeds them, also inside of code that takes
no signals. It imports nothing of grpo, which need not be on the path of this process, and so that it starts quickly.
"""

import faulthandler
import json
import logging
import resource
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

CPU_SECONDS = 2  # of one request
MEMORY = 4 * 2**30  # bytes of address space
# The wall-clock limit only ends a request that waits without computing. CPU time is the limit otherwise, because a
# request then has the same reply on a busy machine.
SECONDS = 120


def math_verify_judge() -> Callable[[list[str]], bool | None]:
    """`[reference, answer]` -> whether they are equal by math-verify; None if the reference is not mathematics."""
    from math_verify import parse, verify

    @lru_cache(maxsize=4096)
    def parse_text(text: str) -> Any:
        is_marked = any(mark in text for mark in ("$", "\\(", "\\[", "\\boxed"))
        return parse(text if is_marked else f"${text}$", parsing_timeout=None)

    def is_same(request: list[str]) -> bool | None:
        reference, answer = request
        if not (expected := parse_text(reference)):
            return None
        return bool(verify(expected, parse_text(answer), timeout_seconds=None))

    return is_same


def reasoning_gym_judge() -> Callable[[list[Any]], float]:
    """`[task, seed, size, index, answer]` -> the score of the answer by the task's own verifier."""
    from reasoning_gym import create_dataset

    dataset = lru_cache(maxsize=64)(lambda task, seed, size: create_dataset(task, seed=seed, size=size))

    def score(request: list[Any]) -> float:
        task, seed, size, index, answer = request
        problems = dataset(task, seed, size)
        return float(problems.score_answer(answer, problems[index]))

    return score


JUDGES: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "math_verify": math_verify_judge,
    "reasoning_gym": reasoning_gym_judge,
}


def main(name: str) -> None:
    judge = JUDGES[name]()
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CPU)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard_limit))
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.stderr)
        try:
            reply = judge(json.loads(line))
        except (Exception, RecursionError, MemoryError):  # of a library, on text that a policy wrote: a wrong answer
            reply = False
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
