"""Sweeps under joblib, submitit and Slurm: real processes, killed, preempted and stopped."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import LONG, surroundings
from tests.helpers.runs import assert_same
from tests.helpers.sweeps import FEW, job_lines, results


@pytest.mark.slow
def test_joblib_resumes_after_it_was_killed(slow, tmp_path: Path) -> None:
    sweep = ["-m", "hydra/launcher=joblib", "seed=0,1,2", *LONG, "save_steps=2", "tracking=none"]
    line = [sys.executable, "-m", "grpo.train", *sweep, "hydra.sweep.dir=sweep", "hydra.sweeper.parallel=2"]
    parent = subprocess.Popen(line, cwd=tmp_path, env=surroundings("OMP_NUM_THREADS"), stdout=subprocess.PIPE)
    while not all((tmp_path / "sweep" / job / "metrics.jsonl").exists() for job in "01"):
        time.sleep(0.05)
    one, *_ = [child for child in psutil.Process(parent.pid).children() if "LokyProcess" in " ".join(child.cmdline())]
    workers = [child for child in psutil.Process(parent.pid).children() if "LokyProcess" in " ".join(child.cmdline())]
    parent.kill()  # which its workers outlive
    one.kill()
    done = subprocess.run(line, cwd=tmp_path, env=surroundings("OMP_NUM_THREADS"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sweep   3 jobs: seed (3); 2 in parallel" in done.stdout
    assert not psutil.wait_procs(workers, timeout=10)[1]  # once their jobs have ended
    assert {line.partition(":")[0] for line in job_lines(done.stdout)} == {
        "[1/3] seed=0",
        "[2/3] seed=1",
        "[3/3] seed=2",
    }
    resumed = [json.loads((tmp_path / "sweep" / job / "provenance.json").read_text())["resumed"] for job in "012"]
    assert sorted(map(len, resumed)) == [0, 0, 1]
    # Two jobs share two cores, and do not take both each.
    from grpo.core.device import usable_cores

    assert {results(tmp_path / "sweep" / job)["threads"] for job in "012"} == {max(1, usable_cores() // 2)}


@pytest.mark.slow
def test_submitit_requeues_preempted_and_killed_jobs(start, slow, tmp_path: Path) -> None:
    sweep = ["-m", "hydra/launcher=submitit_local", "seed=0,1", *LONG, "save_steps=2", "tracking=none"]
    line = [sys.executable, "-m", "grpo.train", *sweep, "hydra.sweep.dir=sweep", "hydra.sweeper.parallel=2"]
    parent = subprocess.Popen(
        line, cwd=tmp_path, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not all((tmp_path / "sweep" / job / "checkpoints" / "checkpoint-2").exists() for job in "01"):
        assert parent.poll() is None, parent.communicate()
        time.sleep(0.05)
    jobs = [
        process
        for process in psutil.Process(parent.pid).children(recursive=True)
        if "submitit.core._submit" in process.cmdline()
    ]
    jobs[0].send_signal(signal.SIGUSR2)  # as Slurm warns of a preemption
    jobs[1].kill()
    said, complained = parent.communicate(timeout=300)
    assert parent.returncode == 0, said + complained
    assert sorted(line.partition(":")[0] for line in job_lines(said)) == ["[1/2] seed=0", "[2/2] seed=1"]
    for seed in "01":
        origin = json.loads((tmp_path / "sweep" / seed / "provenance.json").read_text())
        assert len(origin["resumed"]) == 1 and origin["resumed"][0]["step"] >= 2
        assert start(*LONG, "tracking=none", f"seed={seed}", f"hydra.run.dir=whole{seed}").ended() == 0
        assert_same(tmp_path / "sweep" / seed, tmp_path / f"whole{seed}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_submitit_saves_and_stops_at_a_signal(slow, tmp_path: Path, name: str) -> None:
    sweep = ["-m", "hydra/launcher=submitit_local", "seed=0,1", *LONG, "tracking=none", "hydra.sweeper.parallel=1"]
    line = [sys.executable, "-m", "grpo.train", *sweep, "hydra.sweep.dir=sweep"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    parent = subprocess.Popen(line, cwd=tmp_path, env=surroundings(), text=True, start_new_session=True, **pipes)
    while not (tmp_path / "sweep" / "0" / "metrics.jsonl").exists():
        assert parent.poll() is None, parent.communicate()
        time.sleep(0.05)
    jobs = psutil.Process(parent.pid).children(recursive=True)
    # Ctrl-C reaches all of a terminal's processes.
    (os.killpg if name == "SIGINT" else os.kill)(parent.pid, signal.Signals[name])
    _, complained = parent.communicate(timeout=60)
    assert parent.returncode == 128 + signal.Signals[name]
    assert complained == (
        f"Waiting for 1 job to save.\nThe sweep was stopped by {name}. To resume it, type its command again with "
        "hydra.sweep.dir=sweep\n"
    )
    assert not psutil.wait_procs(jobs, timeout=1)[1]
    assert list((tmp_path / "sweep" / "0" / "checkpoints").glob("checkpoint-*"))
    assert not (tmp_path / "sweep" / "1").exists()


# A fake Slurm: sbatch runs the tasks of the array, sacct prints their states.
SBATCH = """#!{python}
import os, pathlib, re, subprocess, sys

script = pathlib.Path(sys.argv[-1])
there = pathlib.Path({there!r})
(there / "submitted.sh").write_text(script.read_text())
last = int(re.search(r"--array=0-(\\d+)", script.read_text())[1])
print("Submitted batch job 4242", flush=True)
if os.fork() == 0:
    os.setsid()
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    for task in range(last + 1):
        surroundings = dict(os.environ, SLURM_JOB_ID=str(4243 + task), SLURM_ARRAY_JOB_ID="4242")
        surroundings |= dict(SLURM_ARRAY_TASK_ID=str(task), SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1", SLURM_NODEID="0")
        surroundings |= dict(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_JOB_NODELIST="here")
        done = subprocess.run(["bash", str(script)], env=surroundings)
        (there / f"4242_{{task}}").write_text("COMPLETED" if done.returncode == 0 else "FAILED")
"""
SRUN = """#!/bin/bash
while [ "$1" != "{python}" ]; do shift; done
exec "$@"
"""
SACCT = """#!{python}
import pathlib

print("JobID|State|NodeList")
for task in range(4):
    file = pathlib.Path({there!r}) / f"4242_{{task}}"
    print(f"4242_{{task}}|{{file.read_text() if file.exists() else 'RUNNING'}}|here")
"""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_slurm_submission(tmp_path: Path, device: str) -> None:
    there = tmp_path / "bin"
    there.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (there / name).write_text(text.format(python=sys.executable, there=str(there)))
        (there / name).chmod(stat.S_IRWXU)
    sweep = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=long", "hydra.sweeper.parallel=1"]
    done = subprocess.run(
        [sys.executable, "-m", "grpo.train", "-m", *sweep, "seed=0,1", "num_generations=2", *FEW, f"device={device}"],
        cwd=tmp_path,
        env=surroundings() | {"PATH": f"{there}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    flags = set(re.findall(r"^#SBATCH (--.*)", (there / "submitted.sh").read_text(), re.MULTILINE))
    assert {
        "--array=0-1%1",
        "--partition=long",
        "--time=240",
        "--cpus-per-task=8",
        "--mem=32GB",
        "--signal=USR2@120",
        "--requeue",
        "--open-mode=append",
        "--job-name=train",
        "--nodes=1",
    } <= flags, flags
    if device == "cpu":
        assert done.returncode == 0, done.stdout + done.stderr
        assert [line.partition(":")[0] for line in job_lines(done.stdout)] == ["[1/2] seed=0", "[2/2] seed=1"]
        assert not any("gpu" in flag for flag in flags)
    else:
        assert "--gpus-per-node=1" in flags
        # Here it is a machine without one that submits, and the job that misses it.
        assert done.returncode == 1 and "[2/2] seed=1: failed: device=cuda: no CUDA device is found." in done.stdout
