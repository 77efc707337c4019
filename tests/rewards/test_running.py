"""Slow rewards: async rewards on an event loop, rewards in worker processes, time limits, and clean ends."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from grpo.core.errors import UserError
from grpo.core.signals import SignalHandler, StoppedBySignal
from grpo.rewards.execution import ExecutionSettings
from grpo.rewards.scoring import NonFiniteReward
from grpo.rewards.stack import RewardStack, build_rewards
from tests.helpers.scoring import batch_of

NAN = pytest.approx(math.nan, nan_ok=True)
HEAD = "import asyncio, os, random, sys, time\nfrom grpo.rewards import reward\n"


@pytest.fixture
def stack(tmp_path):
    """Rewards from the text of a file, of which `mine` is in the stack; closed after the test."""

    def build(text: str, **settings) -> RewardStack:
        (tmp_path / "mine.py").write_text(HEAD + text)
        built.append(build_rewards({"mine": 1.0}, [str(tmp_path / "mine.py")], execution=ExecutionSettings(**settings)))
        return built[-1]

    built: list[RewardStack] = []
    yield build
    for each in built:
        each.executor.close()


def scored(stack: RewardStack, *completions: str) -> list[float]:
    return stack.score_one("mine", batch_of(completions))


def wait_for(condition) -> bool:
    deadline = time.monotonic() + 5
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# How a reward that waits is written: (decorator, head, line that waits for the completion).
SINGLE = (
    "{decorator}\n{kind} mine(completion):\n    {wait}(60 if completion == 'slow' else 0)\n    return len(completion)\n"
)
BATCH = (
    "{decorator}\n{kind} mine(completions):\n    {wait}(60 if 'slow' in completions else 0)\n"
    "    return [len(completion) for completion in completions]\n"
)
KINDS = {"async def": "await asyncio.sleep", "def": "time.sleep"}
FORMS = {"single": SINGLE, "batch": BATCH}


def waiting(form: str, kind: str, decorator: str = "@reward") -> str:
    return FORMS[form].format(decorator=decorator, kind=kind, wait=KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("form", "count"), [("single", 1), ("batch", 3)])
@pytest.mark.parametrize(("stated", "score", "got"), [("-1", -1.0, "got -1"), ("None", NAN, "have no score")])
def test_an_overdue_completion_gets_the_score_that_the_reward_states(
    stack, capsys, form, kind, count, stated, score, got
) -> None:
    rewards = stack(waiting(form, kind, f"@reward(on_timeout={stated})"), timeout=0.3)
    assert scored(rewards, "a", "slow", "bb") == ([1.0, score, 2.0] if count == 1 else [score] * 3)
    said = " ".join(capsys.readouterr().out.split())
    assert f"reward 'mine': {count} of 3 completions took longer than reward_timeout=0.3 seconds and {got}" in said
    assert scored(rewards, "a", "bbb") == [1.0, 3.0]  # the next batch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("form", "named"), [("single", "The completion: 'slow'"), ("batch", "The first of 2 completions: 'a'")]
)
@pytest.mark.parametrize(
    ("decorator", "on_overdue", "advice"),
    [
        ("@reward", "score", "or give the reward a score for this case: @reward(on_timeout=0.0)"),
        ("@reward(on_timeout=0)", "stop", "or on_reward_timeout=score"),
        ("@reward(on_timeout=None)", "stop", "or on_reward_timeout=score"),
    ],
)
def test_an_overdue_reward_stops_the_run(stack, form, kind, named, decorator, on_overdue, advice) -> None:
    rewards = stack(waiting(form, kind, decorator), timeout=0.2, on_overdue=on_overdue)
    with pytest.raises(UserError) as error:
        scored(rewards, "a", "slow")
    assert str(error.value) == (
        f"reward 'mine' took longer than reward_timeout=0.2 seconds. Set a higher reward_timeout, {advice}. {named}"
    )


COUNTING = """
active = most = 0

@reward
async def mine(completion):
    global active, most
    active += 1
    most = max(most, active)
    for _ in range(5):
        await asyncio.sleep(0)
    active -= 1
    return most + (completion == "last")
"""


@pytest.mark.parametrize(("concurrency", "most"), [(1, 1), (3, 3), (16, 10)])
def test_async_rewards_run_concurrently_up_to_a_bound(stack, concurrency: int, most: int) -> None:
    assert scored(stack(COUNTING, concurrency=concurrency), *"abcdefghi", "last")[-1] == most + 1


CANCELLED = """
ended = []

async def judge(completion):
    try:
        await asyncio.sleep(60)
    finally:
        ended.append(completion)

@reward
async def mine(completion):
    if completion == "ended":
        return len(ended)
    if completion == "bad":
        await asyncio.sleep(0)
        {failure}
    return await judge(completion)
"""
FAILURES = {
    "raise ValueError('no answer')": r"raised ValueError: no answer \(mine.py:18\)",
    "sys.exit(3)": r"raised SystemExit: 3 \(mine.py:18\)",
    "raise asyncio.CancelledError": "raised CancelledError",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_an_async_reward_that_raises(stack, failure: str) -> None:
    rewards = stack(CANCELLED.format(failure=failure))
    with pytest.raises(UserError, match=f"reward 'mine' {FAILURES[failure]}.*The completion: 'bad'"):
        scored(rewards, "a", "bad", "b")
    assert scored(rewards, "ended") == [2.0]  # the other coroutines were cancelled and awaited, on the same loop


def test_an_async_reward_that_blocks_the_event_loop(stack) -> None:
    rewards = stack("@reward\nasync def mine(completion):\n    time.sleep(1)\n", timeout=0.1)
    with pytest.raises(UserError, match="'mine' is async and blocks the event loop .* The completion: 'a'"):
        scored(rewards, "a")


def test_an_async_reward_with_a_lock_of_its_own(stack) -> None:
    text = "lock = asyncio.Semaphore(1)\n@reward\nasync def mine(completion):\n    async with lock:\n        await asyncio.sleep(0)\n        return 1\n"
    rewards = stack(text)
    assert [scored(rewards, *"abc") for _ in range(2)] == [[1.0] * 3] * 2  # the lock belongs to one loop


RANDOM = """
import numpy as np

@reward
def mine(completion):
    return random.random() + np.random.random()

@reward
def batched(completions):
    return [random.random() + np.random.random() for _ in completions]
"""


def test_scores_in_workers_equal_those_of_this_process(stack) -> None:
    batch = batch_of(["a", "b", "a", "c", "d"])
    found = []
    for workers in (0, 1, 2):
        rewards = stack(RANDOM, workers=workers)
        found += [[rewards.score_one(name, batch) for name in ("mine", "batched")] for _ in range(2)]
    assert found == [found[0]] * 6 and len(set(found[0][0])) == 5


def test_a_worker_imports_no_torch_and_is_another_process(stack) -> None:
    rewards = stack(
        "@reward\ndef mine(completion):\n    return -1 if 'torch' in sys.modules else os.getpid()\n", workers=1
    )
    (pid,) = scored(rewards, "a")
    assert pid > 0 and pid != os.getpid() and scored(rewards, "b") == [pid]


DIES = {
    "os._exit(3)": "exited with code 3",
    "os.kill(os.getpid(), 11)": "was killed by SIGSEGV",
    "os.kill(os.getpid(), 9)": r"was killed by SIGKILL \(out of memory\?\)",
}


@pytest.mark.parametrize("end", DIES)
def test_a_worker_that_dies(stack, end: str) -> None:
    rewards = stack(f"@reward\ndef mine(completion):\n    if completion == 'bad': {end}\n    return 1\n", workers=1)
    with pytest.raises(UserError, match=f"^reward 'mine': its worker process {DIES[end]}. The completion: 'bad'$"):
        scored(rewards, "a", "bad")
    assert scored(rewards, "a", "b") == [1.0, 1.0]


SAME_ERRORS = {
    "raise ValueError('no')": (UserError, r"raised ValueError: no \(mine.py:5\). The completion: 'a'"),
    "return 'x'": (UserError, "returned 'x'; a reward is a finite number"),
    "return float('inf')": (NonFiniteReward, "returned inf; a reward is a finite number"),
    "sys.exit()": (UserError, "raised SystemExit"),
}


@pytest.mark.parametrize("body", SAME_ERRORS)
def test_errors_in_a_worker_read_as_in_this_process(stack, body: str) -> None:
    kind, message = SAME_ERRORS[body]
    texts = []
    for workers in (0, 1):
        with pytest.raises(UserError, match=message) as error:
            scored(stack(f"@reward\ndef mine(completion):\n    {body}\n", workers=workers), "a")
        assert type(error.value) is kind
        texts.append(str(error.value))
    assert texts[0] == texts[1]


def test_an_abstention_in_a_worker(stack) -> None:
    rewards = stack("@reward\ndef mine(completion):\n    return None if completion == 'b' else 1\n", workers=2)
    assert [math.isnan(score) for score in scored(rewards, "a", "b", "c")] == [False, True, False]


def test_a_file_that_only_a_worker_cannot_load(stack) -> None:
    text = (
        f"if os.getpid() != {os.getpid()}: raise OSError('no display')\n@reward\ndef mine(completion):\n    return 1\n"
    )
    with pytest.raises(UserError, match=r"A worker process of the rewards could not start: .*OSError: no display"):
        scored(stack(text, workers=1), "a")


STATEFUL = """
class Counter:
    __name__ = "mine"

    def __call__(self, completion):
        return 1

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

reward(Counter())
"""


def test_a_reward_with_a_state_is_refused_in_workers(stack) -> None:
    for settings, name in (({"workers": 2}, "reward_workers=2"), ({"timeout": 5.0}, "reward_timeout=5")):
        with pytest.raises(UserError, match=f"^{name}: runs the reward 'mine' in worker processes, and it has a state"):
            stack(STATEFUL, **settings)


def test_a_score_for_overdue_completions_is_a_number(stack) -> None:
    with pytest.raises(
        UserError, match="reward 'mine': on_timeout=low: must be a finite number, a score, or None to abstain"
    ):
        stack("@reward(on_timeout='low')\ndef mine(completion):\n    return 1\n")


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_ends_a_hung_reward(stack, kind: str) -> None:
    rewards = stack(waiting("single", kind), workers=1)
    scored(rewards, "a")
    with SignalHandler(), pytest.raises(StoppedBySignal):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        scored(rewards, "a", "slow")
    assert scored(rewards, "a", "bb") == [1.0, 2.0]


def test_nothing_is_left_after_the_end(stack) -> None:
    pids = set()
    for text in ("@reward\ndef mine(completion):\n    return os.getpid()\n", waiting("single", "async def")):
        rewards = stack(text, workers=2)
        pids |= {int(score) for score in scored(rewards, *"abcdefgh")} - {1}
        rewards.executor.close()
    assert pids and not any(is_running(pid) for pid in pids)
    assert not any(thread.name == "rewards" for thread in threading.enumerate())


# A program that scores and exits without closing anything.
PROGRAM = """
import sys
from grpo.rewards.execution import ExecutionSettings
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import build_rewards
from grpo.tasks.example import Example

stack = build_rewards({"mine": 1.0}, ["mine.py"], execution=ExecutionSettings(workers=1, timeout=60.0))
for name in sys.argv[1:]:
    print(stack.score_one(name, ScoringBatch(["x"], [Example("?", "1")])))
"""


def program(folder: Path, rewards: str, *names: str) -> "subprocess.Popen[str]":
    (folder / "mine.py").write_text(HEAD + rewards)
    command = [sys.executable, "-W", "default", "-c", PROGRAM, *names]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


CLIENTS = """
background = set()

@reward
async def judge(completion):
    background.add(asyncio.create_task(asyncio.sleep(60)))
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.kill()
    return 1

@reward
def mine(completion):
    return os.getpid()
"""


def test_a_program_that_exits_leaves_no_process_and_prints_no_warning(tmp_path) -> None:
    with program(tmp_path, CLIENTS, "judge", "mine") as ended:
        out, err = ended.communicate(timeout=30)
    pid = int(float(out.splitlines()[1].strip("[]")))
    assert (ended.returncode, err, is_running(pid)) == (0, "", False)


HANGS = """
import re

@reward
def mine(completion):
    open("pid", "w").write(str(os.getpid()))
    re.match("(a*)*b", "a" * 40)  # takes years, and the interpreter runs no other thread meanwhile
"""


def test_a_worker_ends_with_its_process(tmp_path) -> None:
    pid = tmp_path / "pid"
    with program(tmp_path, HANGS, "mine") as parent:
        assert wait_for(lambda: pid.is_file() and pid.read_text())
        assert is_running(int(pid.read_text()))
        parent.kill()
    assert wait_for(lambda: not is_running(int(pid.read_text())))
