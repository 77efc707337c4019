"""Commands run with `-X importtime`, which names every imported module on stderr: a mistake must not import torch."""

import subprocess
import sys
from pathlib import Path


def run_command(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run `python -m module` with import times on stderr."""
    line = [sys.executable, "-X", "importtime", "-m", module, *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True)


def imported(done: subprocess.CompletedProcess, module: str) -> bool:
    """Whether the command imported `module`."""
    return any(line.rpartition("|")[2].strip() == module for line in done.stderr.splitlines())
