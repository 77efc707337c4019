"""SIGKILL at random moments: what is resumed ends with the numbers of an unbroken run, each time."""

import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.runs.test_resume import assert_same, lines

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
    assert start(*RUN, "hydra.run.dir=whole").ended() == 0
    # How often each comes up; the first of generation answer the held-out problems.
    calls = {"generation": 12, "backward": 16, "checkpoint": 4, "logging": 12, "anywhere": 1}
    chance = random.Random(0)
    begun_anew = gone_on = 0
    for number in range(20):
        point = list(POINTS)[number % len(POINTS)]
        kill = (point, chance.randint(1, calls[point]), chance.uniform(0, POINTS[point]))
        process = start(*RUN, "hydra.run.dir=run", kill=kill)
        code = process.ended()
        assert code == -signal.SIGKILL or (code == 0 and point == "anywhere"), (kill, code, process.complained())
        if (tmp_path / "run" / ".hydra" / "config.yaml").exists():
            process = start("resume=run")
            assert process.ended() == 0, (kill, process.said(), process.complained())
            begun_anew += "it starts at its first step" in process.said()
            gone_on += "Resuming from step" in process.said()
        else:  # killed before it had written anything
            assert start(*RUN, "hydra.run.dir=run").ended() == 0
        assert_same(tmp_path / "run", tmp_path / "whole")
        assert [line for line in lines(tmp_path / "run") if "reward" in line]
        shutil.rmtree(tmp_path / "run")
    assert begun_anew and gone_on > 8
