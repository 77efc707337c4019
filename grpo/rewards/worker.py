"""The code of a worker process: it loads the reward files, then scores what grpo/rewards/worker_pool.py sends.

It scores with grpo/rewards/scoring.py, as the process does that started it, so scores and error messages are the same.
It must not import torch, which takes seconds and memory; a reward file may.
"""

import ctypes
import importlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from grpo.core.distributed import PR_SET_PDEATHSIG
from grpo.core.errors import UserError, one_line
from grpo.core.signals import HANDLED_SIGNALS
from grpo.rewards.binding import RewardSettings, UnknownValue
from grpo.rewards.registry import REWARDS
from grpo.rewards.reward_files import load_reward_files
from grpo.rewards.scoring import score_reward, score_rows
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.tasks import answer_types  # noqa: F401  (requests have one; its imports take a tenth of a second)


@dataclass(frozen=True)
class Request:
    """Completions to score with the reward `name`; random numbers are seeded with `seed`.

    The replies are one `Reply` for each completion if the reward has the single form, else one for all of them.
    """

    name: str
    batch: ScoringBatch
    settings: RewardSettings
    seed: int


@dataclass(frozen=True)
class Reply:
    """Scores, and the calls of log_metric and log_extra: (name of the function, arguments)."""

    scores: list[float]
    logged: list[tuple[str, tuple[Any, ...]]]


def open_connection(descriptor: int) -> tuple[Connection, "SimpleQueue[bytes]"]:
    """The connection to the process at the other end of the socket `descriptor`, and what arrives from it, pickled.

    This process ends with the other one, also while a reward runs.
    """
    os.set_inheritable(descriptor, False)
    # The other process decides when a signal ends the run; a reward's subprocesses get the default handlers.
    for number in HANDLED_SIGNALS:
        signal.signal(number, lambda *_: None)
    if sys.platform == "linux":  # ends this process also while a reward holds the interpreter
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    connection = Connection(descriptor)
    received: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    return connection, received


def main(descriptor: int) -> None:
    """Serve the process at the other end of the socket `descriptor` until it ends or kills this one."""
    connection, received = open_connection(descriptor)
    setup = pickle.loads(received.get())
    if setup.numpy:
        importlib.import_module("numpy")
    try:
        load_reward_files(setup.files)
    except UserError as error:
        connection.send(str(error))
        return
    connection.send(None)
    while True:
        request = pickle.loads(received.get())
        try:
            for reply in _score(request):
                connection.send(reply)
        except (UserError, UnknownValue) as error:
            connection.send(error)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            text = f"reward '{request.name}' logs a value that a worker process cannot send: {one_line(str(error))}"
            connection.send(UserError(text))


def _receive(connection: Connection, received: "SimpleQueue[bytes]") -> None:
    """The thread that reads messages: it ends this process, and what its rewards have started, with the connection."""
    while True:
        try:
            received.put(connection.recv_bytes())
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)


def _score(request: Request) -> Iterator[Reply]:
    name, batch, settings, seed = request.name, request.batch, request.settings, request.seed
    if REWARDS[name].form == "single":
        yield from (Reply([score], []) for score in score_rows(name, batch, settings, seed))
        return
    logged: list[tuple[str, tuple[Any, ...]]] = []
    batch = replace(
        batch,
        log_metric=lambda *arguments: logged.append(("log_metric", arguments)),
        log_extra=lambda *arguments: logged.append(("log_extra", arguments)),
    )
    yield Reply(score_reward(name, batch, settings, seed=seed), logged)
