"""Sweeps that are stopped by a signal or killed, and resumed."""

import os
import signal
import time
from pathlib import Path

from tests.conftest import LONG
from tests.helpers.runs import assert_same
from tests.helpers.sweeps import job_lines


def test_a_signal_stops_a_sweep_which_resumes(start, slow, tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1", *LONG, "max_steps=3", "tracking=none", "hydra.sweep.dir=sweep"]
    run = start(*sweep)
    while not (tmp_path / "sweep" / "0" / "metrics.jsonl").exists():
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGUSR1)
    assert run.ended() == 128 + signal.SIGUSR1
    assert run.complained().endswith(
        "The sweep was stopped by SIGUSR1. To resume it, type its command again with hydra.sweep.dir=sweep\n"
    )
    assert not (tmp_path / "sweep" / "1").exists()
    run = start(*sweep)
    assert run.ended() == 0, run.complained()
    assert "Resuming from step" in (tmp_path / "sweep" / "0" / "train.log").read_text()
    assert start(*LONG, "max_steps=3", "tracking=none", "seed=0", "hydra.run.dir=whole").ended() == 0
    assert_same(tmp_path / "sweep" / "0", tmp_path / "whole")


def test_a_killed_sweep_resumes(start, slow, tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1,2", *LONG, "max_steps=3", "save_steps=1", "tracking=none", "hydra.sweep.dir=sweep"]
    run = start(*sweep, kill=("backward", 5, 0.0))
    assert run.ended() == -signal.SIGKILL
    finished = (tmp_path / "sweep" / "0" / "results.json").read_bytes()
    assert not (tmp_path / "sweep" / "1" / "results.json").exists()
    run = start(*sweep)
    assert run.ended() == 0, run.complained()
    assert run.said().startswith("sweep   3 jobs, 1 of them done: seed (3)\n")
    assert [line.partition(":")[0] for line in job_lines(run.said())] == ["[2/3] seed=1", "[3/3] seed=2"]
    assert "Resuming from step" in (tmp_path / "sweep" / "1" / "train.log").read_text()
    assert (tmp_path / "sweep" / "0" / "results.json").read_bytes() == finished
    assert start(*LONG, "max_steps=3", "tracking=none", "seed=1", "hydra.run.dir=whole").ended() == 0
    assert_same(tmp_path / "sweep" / "1", tmp_path / "whole")
