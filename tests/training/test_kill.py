"""SIGKILL at random moments: the resumed run ends with the numbers of an uninterrupted one, each time."""

import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.helpers.runs import assert_same, lines

RUN = [
    *SMALL[1:],
    "max_steps=8",
    "save_steps=2",
    "algorithm.num_iterations=2",
    "micro_batch_size=4",
    "eval_steps=3",
    "data.validation_problems=4",
    "tracking=none",
    "threads=1",
]
# Where to kill it, and the longest wait there in seconds.
POINTS = {"generation": 0.03, "backward": 0.03, "checkpoint": 0.08, "logging": 0.3, "anywhere": 4.0}


@pytest.mark.slow
def test_twenty_kills(start, tmp_path: Path) -> None:
    assert start(*RUN, "hydra.run.dir=uninterrupted").ended() == 0
    # Calls at each point; the first calls of generation answer the held-out problems.
    calls = {"generation": 12, "backward": 16, "checkpoint": 4, "logging": 12, "anywhere": 1}
    chance = random.Random(0)
    restarted = resumed = 0
    for number in range(20):
        point = list(POINTS)[number % len(POINTS)]
        kill = (point, chance.randint(1, calls[point]), chance.uniform(0, POINTS[point]))
        process = start(*RUN, "hydra.run.dir=run", kill=kill)
        code = process.ended()
        assert code == -signal.SIGKILL or (code == 0 and point == "anywhere"), (kill, code, process.complained())
        if (tmp_path / "run" / ".hydra" / "config.yaml").exists():
            process = start("resume=run")
            assert process.ended() == 0, (kill, process.said(), process.complained())
            restarted += "it starts at its first step" in process.said()
            resumed += "Resuming from step" in process.said()
        else:  # killed before it had written anything
            assert start(*RUN, "hydra.run.dir=run").ended() == 0
        assert_same(tmp_path / "run", tmp_path / "uninterrupted")
        assert [line for line in lines(tmp_path / "run") if "reward" in line]
        shutil.rmtree(tmp_path / "run")
    assert restarted and resumed > 8
