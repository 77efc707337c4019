"""`VerifierProcess`: a program in a process of its own that judges answers, because a judgement may never end.

Called by the answer types whose libraries compute with text that a policy wrote. The program limits its own time and
memory. This module knows no answer and no rule.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("verifier_program.py")


class VerifierProcess:
    """The process of one judge of grpo/tasks/verifier_program.py; it starts with the first request.

    A process that ends instead of a reply is started again for the next request. After a fork, the child starts a
    process of its own.
    """

    def __init__(self, judge: str) -> None:
        self.judge = judge
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # the id of the process that started it

    def ask(self, request: Any) -> Any:
        """The reply to `request`; None if the process ended instead."""
        process = self._running_process()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            if reply := process.stdout.readline():
                return json.loads(reply)
        except BrokenPipeError:
            pass
        process.kill()
        process.wait()
        self._process = None
        return None

    def _running_process(self) -> "subprocess.Popen[str]":
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            # -P: the folder of the program is not searched for modules. A new session: Ctrl-C ends the run first.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM), self.judge],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        return self._process
