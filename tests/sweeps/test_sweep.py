"""Sweeps as they are typed: real jobs of the smallest size, under every launcher."""

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
from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext

from grpo.config.composition import config_search_path
from grpo.core.errors import UserError
from grpo.sweeps.launchers import build_launcher
from grpo.sweeps.search import run_search
from tests.conftest import LONG, SMALL, surroundings, wandb_records
from tests.helpers.import_times import imported
from tests.helpers.runs import assert_same, metrics
from tests.helpers.sweeps import jobs_of

FEW = [each for each in SMALL if not each.startswith("num_generations")] + ["tracking=none", "threads=1"]


def lines(said: str) -> list[str]:
    """What is said of jobs as they end, without the time."""
    return re.findall(r"^(\[\d+/\d+\] .*?), \d+ s", said, re.MULTILINE)


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_a_line_a_job_then_the_table_and_the_report(start, tmp_path: Path) -> None:
    run = start("-m", "num_generations=2,4", "seed=0,1", *FEW, "hydra.sweep.dir=sweep", "hydra.sweeper.step_seconds=2")
    assert run.ended() == 0, run.complained()
    said = run.said()
    assert said.startswith(
        "sweep   4 jobs: num_generations (2) x seed (2)\n"
        "folder  sweep\n"
        "time    about 16 seconds, by 2 s per step, the value of hydra.sweeper.step_seconds\n"
    )
    expected = []
    for number, (k, seed) in enumerate([(2, 0), (2, 1), (4, 0), (4, 1)]):
        after = results(tmp_path / "sweep" / str(number))["after"]
        right, form = f"{after['accuracy_strict'] * 100:.1f}%", f"{after['strict_format'] * 100:.1f}%"
        expected.append(f"[{number + 1}/4] num_generations={k} seed={seed}: {right} right, exact format {form}")
    assert lines(said) == expected
    assert said.rstrip().endswith("Report: sweep/report.html")
    assert "num_generations=2" in said.partition("[4/4]")[2]
    assert (tmp_path / "sweep" / "report.html").exists() and (tmp_path / "sweep" / "sweep.csv").exists()
    assert "Everything is in" not in said  # that stands in each job's own log
    assert "Everything is in sweep/2" in (tmp_path / "sweep" / "2" / "train.log").read_text()
    # How long another one takes is now known from this one.
    again = start("-m", "num_generations=2,4", *FEW, "max_steps=3", "hydra.sweep.dir=other")
    assert again.ended() == 0
    assert "estimated after the first steps" in again.said()
    again = start("-m", "num_generations=2,4", "seed=0,1", *FEW, "hydra.sweep.dir=sweep")
    assert again.ended() == 0 and not lines(again.said())
    assert again.said().startswith("sweep   4 jobs, 4 of them done: num_generations (2) x seed (2)\nfolder  sweep\n\n")


def test_an_earlier_run_tells_how_long_it_takes(start) -> None:
    assert start(*FEW, "num_generations=2", "hydra.run.dir=outputs/day/time").ended() == 0
    run = start("-m", "num_generations=2,4", *FEW)
    assert run.ended() == 0
    assert re.search(
        r"^time    about \d+ seconds?, by [\d.]+ s per step of 4 completions, as in outputs/day/time$", run.said(), re.M
    )


LEAK = """
import gc

from grpo.rewards import reward

calls = []


@reward
def alive(completions):
    calls.append(1)
    from grpo.training.trainer import Trainer

    return [float(sum(isinstance(each, Trainer) for each in gc.get_objects()) + 100 * len(calls))] * len(completions)
"""


def test_job_seven_is_that_setting_run_alone(start, tmp_path: Path) -> None:
    (tmp_path / "alive.py").write_text(LEAK)
    given = [*FEW, "reward_files=[alive.py]", "+rewards.alive=0", "eval_steps=2", "data.validation_problems=4"]
    sweep = start("-m", "algorithm=grpo,dapo", "num_generations=2,4", "seed=0,1", *given, "hydra.sweep.dir=sweep")
    assert sweep.ended() == 0, sweep.complained()
    alone = start("algorithm=dapo", "num_generations=4", "seed=1", *given, "hydra.run.dir=alone")
    assert alone.ended() == 0
    assert_same(tmp_path / "sweep" / "7", tmp_path / "alone")
    # One trainer lives at a time, and what a file of rewards remembers begins anew.
    for number in range(8):
        score = [line["rewards/alive/mean"] for line in metrics(tmp_path / "sweep" / str(number)) if "reward" in line]
        assert score == [line["rewards/alive/mean"] for line in metrics(tmp_path / "alone") if "reward" in line]
        said = (tmp_path / "sweep" / str(number) / "train.log").read_text()
        assert said.count("Everything is in") == 1 and f"Everything is in sweep/{number}" in said
    assert {score % 100 for score in map(int, score)} == {1}


def test_a_job_that_fails_does_not_stop_the_rest(start, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(
        "from pathlib import Path\n\nfrom grpo.rewards import reward\n\n\n@reward\ndef faulty(completion):\n"
        "    if Path('faulty').exists() and Path('sweep/1').exists() and not Path('sweep/2').exists():\n"
        "        raise ValueError('no luck')\n    return 0.0\n"
    )
    (tmp_path / "faulty").touch()
    sweep = ["-m", "seed=0,1,2", *FEW, "num_generations=4", "reward_files=[faulty.py]", "+rewards.faulty=0"]
    run = start(*sweep, "hydra.sweep.dir=sweep")
    assert run.ended() == 1
    why = "reward 'faulty' raised ValueError: no luck (faulty.py:9)."
    assert f"[2/3] seed=1: failed: {why}" in run.said() and "Traceback" not in run.said() + run.complained()
    assert "no luck" in run.said().partition("[3/3]")[2]  # in the table, too
    assert (tmp_path / "sweep" / "1" / "error.txt").read_text().startswith(why)
    assert run.complained() == (
        "error: 1 of 3 jobs has no result. The same command with hydra.sweep.dir=sweep runs only that again.\n"
    )
    first = (tmp_path / "sweep" / "0" / "results.json").stat().st_mtime
    (tmp_path / "faulty").unlink()
    run = start(*sweep, "hydra.sweep.dir=sweep")
    assert run.ended() == 0, run.complained()
    assert [line.partition(":")[0] for line in lines(run.said())] == ["[2/3] seed=1"]
    assert (tmp_path / "sweep" / "0" / "results.json").stat().st_mtime == first
    assert not (tmp_path / "sweep" / "1" / "error.txt").exists()


def test_a_signal_ends_a_sweep_which_goes_on_where_it_was(start, slow, tmp_path: Path) -> None:
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


def test_killed_and_started_again(start, slow, tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1,2", *LONG, "max_steps=3", "save_steps=1", "tracking=none", "hydra.sweep.dir=sweep"]
    run = start(*sweep, kill=("backward", 5, 0.0))
    assert run.ended() == -signal.SIGKILL
    finished = (tmp_path / "sweep" / "0" / "results.json").read_bytes()
    assert not (tmp_path / "sweep" / "1" / "results.json").exists()
    run = start(*sweep)
    assert run.ended() == 0, run.complained()
    assert run.said().startswith("sweep   3 jobs, 1 of them done: seed (3)\n")
    assert [line.partition(":")[0] for line in lines(run.said())] == ["[2/3] seed=1", "[3/3] seed=2"]
    assert "Resuming from step" in (tmp_path / "sweep" / "1" / "train.log").read_text()
    assert (tmp_path / "sweep" / "0" / "results.json").read_bytes() == finished
    assert start(*LONG, "max_steps=3", "tracking=none", "seed=1", "hydra.run.dir=whole").ended() == 0
    assert_same(tmp_path / "sweep" / "1", tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=range(0,0)"], "seed=range(0,0): the list is empty, so there is no job to run."),
        (["seed=0,0"], "Two jobs would be the same, seed=0 and seed=0: list each value once."),
        (["optimizer.lr=1e-4,0.0001"], "Two jobs would be the same, optimizer.lr=0.0001 and optimizer.lr=0.0001: list"),
        (["optimizer.lr=interval(0,1)"], "a range without steps is for a search, hydra/sweeper=optuna."),
        (
            ["num_generations=1,4", "seed=0,1,2,3,4"],
            "5 of 10 jobs cannot run, so none was started.\n  num_generations=1 seed=0, num_generations=1 seed=1, "
            "num_generations=1 seed=2 and 2 more: num_generations=1: must be between 2",
        ),
        (
            ["rewards=default,nope"],
            "1 of 2 jobs cannot run, so none was started.\n  rewards=nope: rewards has no option",
        ),
        (
            ["experiment=sweep_k_equal_budget", "num_generations=5,8"],
            "num_generations=5 seed=1, num_generations=5 seed=2: prompts_per_step: 64 cannot be divided by 5.",
        ),
        (["num_generations=1", "seed=0,1"], "num_generations=1: must be between 2 and"),
        (
            ["seed=0,1", "hydra.sweeper.parallel=2"],
            "hydra.sweeper.parallel=2: the basic launcher runs one job at a time",
        ),
        (["seed=0,1", "hydra/launcher=joblib", "hydra.sweeper.parallel=0"], "parallel=0: must be between 1 and 1,000."),
        (["seed=0,1", "hydra.sweeper.parallel=foo"], "hydra.sweeper.parallel=foo: must be a whole number."),
        (["seed=0,1", "hydra.sweeper.step_seconds=-1"], "hydra.sweeper.step_seconds=-1.0: must be between 0.001 and"),
        (
            ["seed=0,1", "hydra.sweeper.nonsense=1"],
            "hydra.sweeper.nonsense: there is no such setting. Those of Hydra, its sweeper",
        ),
        (
            ["seed=0,1", "hydra/launcher=nonsense"],
            "hydra/launcher has no option 'nonsense'. Known: basic, joblib, submitit_local,",
        ),
        (["seed=0,1", "hydra.sweep.dir="], "hydra.sweep.dir=: give the sweep a folder, or leave it out."),
        (["seed=0,1", "hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: each job needs a folder of its own below the"),
        (["seed=0,1", "hydra.sweep.subdir=."], "hydra.sweep.subdir=.: each job needs a folder of its own below the"),
        (["seed=0,1", "hydra.sweep.subdir=../x"], "hydra.sweep.subdir=../x: each job needs a folder of its own below"),
        (["data=jsonl", "data.path=nowhere,there"], "data.path: there is no file nowhere/train.jsonl."),
        (
            ["model.path=/nowhere,embedded:tiny"],
            "1 of 2 jobs cannot run, so none was started.\n  model.path=/nowhere: there",
        ),
        (["experiment=sweep_k,sweep_lr"], "To combine experiments, stack them: experiment=[a,b]."),
        (["seed=0,1", "hydra/launcher=submitit_slurm"], 'Could not detect "srun"'),
        (["hydra/sweeper=optuna", "seed=3"], "hydra/sweeper=optuna: there is nothing to search"),
        (["hydra/sweeper=optuna", "optimizer.lr=interval(1,0)"], "interval(1,0): the range is empty"),
        (["hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(0,1))"], "with tag(log,...) it starts above 0"),
        (["hydra/sweeper=optuna", "num_generations=int(interval(1,8))"], "num_generations=1: must be between 2 and"),
        (["hydra/sweeper=optuna", "seed=0,1", "hydra.sweeper.n_trials=0"], "n_trials=0: must be between 1 and 10,000."),
        (
            ["hydra/sweeper=optuna", "seed=0,1", "hydra.sweeper.n_trials=2.5"],
            "hydra.sweeper.n_trials=2.5: must be a whole number.",
        ),
        (["hydra/sweeper=optuna", "seed=0,1", "hydra.sweeper.storage=foo://bar"], "the study cannot be opened: "),
        (["hydra/sweeper=optuna", "seed=0,1", "hydra.sweeper.maximize=foo"], "hydra.sweeper.maximize=foo: "),
        (["hydra/sweeper=optuna", "seed=0,1", "hydra.sweeper.maximize=[]"], "name one metric or several, each once."),
        (
            ["hydra/sweeper=optuna", "seed=0,1", "hydra.sweeper.maximize=[accuracy]"],
            "there is no metric accuracy. Did you mean 'accuracy_strict'?",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_the_first_job(tmp_path, arguments: list[str], message: str) -> None:
    line = [sys.executable, "-X", "importtime", "-m", "grpo.train", "-m", *arguments]
    done = subprocess.run(line, cwd=tmp_path, env=surroundings() | {"PATH": "/nowhere"}, capture_output=True, text=True)
    said = "\n".join(each for each in done.stderr.splitlines() if not each.startswith("import time:"))
    assert done.returncode == 1
    assert said.startswith("error: ") and message in said and "Traceback" not in said
    assert not imported(done, "torch") and not list(tmp_path.rglob("metrics.jsonl"))


def test_a_device_that_is_missing_is_said_once(tmp_path: Path, command) -> None:
    done = command("grpo.train", "experiment=[gsm8k,sweep_k]")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: device=cuda: no CUDA device is found.") and done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("train.log"))


def test_the_flag_may_stand_anywhere(command) -> None:
    done = command("grpo.train", "num_generations=1", "-m", "seed=0,1")
    assert done.returncode == 1 and done.stderr.startswith("error: num_generations=1: must be between 2")
    done = command("grpo.train", "-m", "--cfg", "job")
    assert "cannot be written" not in done.stderr


def test_what_is_not_installed_is_named(monkeypatch) -> None:
    plugin = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
    monkeypatch.delitem(Plugins.instance().class_name_to_class, plugin)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with config_search_path():
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
        master = compose("config", ["hydra/launcher=joblib"], return_hydra_config=True)
    with pytest.raises(
        UserError, match="hydra/launcher=joblib: it is not installed: pip install hydra-joblib-launcher"
    ):
        build_launcher(context, print, master)
    with pytest.raises(UserError, match="hydra/sweeper=optuna: Optuna is not installed: pip install optuna"):
        run_search(context, master, None, [])


def test_folders_of_others(start, tmp_path: Path) -> None:
    assert start("-m", "seed=0,1", "num_generations=2", *FEW, "hydra.sweep.dir=sweep").ended() == 0
    for arguments, folder, message in (
        (
            ["-m", "seed=0,1,2", "num_generations=2"],
            "sweep",
            "sweep holds another sweep, of 2 jobs; its own command",
        ),
        (["-m", "seed=0,1", "num_generations=4"], "sweep", "sweep holds another sweep, of 2 jobs; its own command"),
        (["-m", "seed=0,1", "num_generations=2"], "sweep/0", "sweep/0 holds a run; give the sweep another"),
    ):
        run = start(*arguments, *FEW, f"hydra.sweep.dir={folder}")
        assert run.ended() == 1 and run.complained().startswith(f"error: {message}")
    run = start("-m", "seed=0,1", *FEW, "hydra.sweep.dir=.")
    assert run.ended() == 1
    assert run.complained().startswith("error: . holds other runs, such as sweep/0; give the sweep a folder of its own")
    page = (tmp_path / "sweep" / "report.html").read_bytes()
    run = start(*FEW, "hydra.run.dir=sweep")
    assert run.ended() == 1 and run.complained().startswith("error: sweep holds a sweep, which is not overwritten")
    for folder in ("sweep", "sweep/0"):
        run = start("sweep/1", "--out", folder, module="report")
        assert run.ended() == 1 and f"error: {folder} holds a" in run.complained()
    assert (tmp_path / "sweep" / "report.html").read_bytes() == page
    (tmp_path / "sweep" / "sweep.json").unlink()
    run = start("-m", "seed=0,2", "num_generations=2", *FEW, "hydra.sweep.dir=sweep")
    assert run.ended() == 1
    assert "error: sweep/1 holds a job of another sweep: seed is 1 there and 2 here" in run.complained()


def test_two_sweeps_in_one_folder(start, slow, command, tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1", *LONG, "tracking=none", "hydra.sweep.dir=sweep"]
    run = start(*sweep)
    while not (tmp_path / "sweep" / "0" / "metrics.jsonl").exists():
        time.sleep(0.01)
    other = command("grpo.train", *sweep)
    assert other.returncode == 1
    assert other.stderr == (
        "error: sweep is in use by another sweep; wait for that, or give this one another folder, "
        "hydra.sweep.dir=FOLDER.\n"
    )
    os.kill(run.pid, signal.SIGKILL)
    assert run.ended() == -signal.SIGKILL


def test_each_job_is_a_wandb_run_named_by_its_overrides(start, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(
        "from pathlib import Path\n\nfrom grpo.rewards import reward\n\n\n@reward\ndef faulty(completion):\n"
        "    return float('nan') if Path('day/time/2').exists() else 0.0\n"
    )
    sweep = ["experiment=sweep_k", "seed=0", *FEW, "tracking=wandb", "+rewards.faulty=1", "reward_files=[faulty.py]"]
    run = start(*sweep, "hydra.sweep.dir=day/time")
    assert run.ended() == 1
    for number, k in enumerate((4, 8, 16)):
        records, _ = wandb_records(tmp_path / "day" / "time" / str(number))
        (of,) = [record["run"] for record in records if "run" in record]
        assert (of["display_name"], of["run_group"]) == (f"num_generations={k}", "day-time")
        assert of["tags"] == ["sweep_k"]
        (end,) = [record["exit"] for record in records if "exit" in record]
        assert end.get("exit_code", 0) == (number == 2)
    assert "To upload: wandb sync day/time/*/wandb/offline-run-*" in run.said()


@pytest.mark.parametrize(
    "name", ["sweep_k", "sweep_k_equal_budget", "sweep_lr", "ablate_rewards", "sweep_xmlcount_weight"]
)
def test_shipped_sweeps(name: str) -> None:
    for experiment in (name, f"[gsm8k,{name}]"):
        jobs = jobs_of(f"experiment={experiment}")
        seeds = [job.config.seed for job in jobs]
        assert set(seeds) == {0, 1, 2} and len(jobs) == 3 * len(jobs[0::3]) and seeds[:3] == [0, 1, 2]
        assert {job.config.data.name for job in jobs} == {"gsm8k" if "gsm8k" in experiment else "arithmetic"}
        budgets = {job.completions_per_step for job in jobs}
        assert budgets == ({16, 32, 64} if name == "sweep_k" else {64})
    if name == "ablate_rewards":
        stacks = [job.config.rewards for job in jobs[::3]]
        assert [[key for key, weight in each.items() if not weight] for each in stacks] == [
            [],
            *([key] for key in stacks[0]),
        ]


def test_a_typed_value_comes_before_a_shipped_one() -> None:
    jobs = jobs_of("experiment=sweep_k", "num_generations=2,4", "seed=7")
    assert [(job.config.num_generations, job.config.seed) for job in jobs] == [(2, 7), (4, 7)]


@pytest.mark.slow
def test_joblib_killed_and_started_again(slow, tmp_path: Path) -> None:
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
    assert {line.partition(":")[0] for line in lines(done.stdout)} == {"[1/3] seed=0", "[2/3] seed=1", "[3/3] seed=2"}
    resumed = [json.loads((tmp_path / "sweep" / job / "provenance.json").read_text())["resumed"] for job in "012"]
    assert sorted(map(len, resumed)) == [0, 0, 1]
    # Two jobs share two cores, and do not take both each.
    from grpo.core.device import usable_cores

    assert {results(tmp_path / "sweep" / job)["threads"] for job in "012"} == {max(1, usable_cores() // 2)}


@pytest.mark.slow
def test_submitit_queues_again_what_was_preempted_or_killed(start, slow, tmp_path: Path) -> None:
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
    assert sorted(line.partition(":")[0] for line in lines(said)) == ["[1/2] seed=0", "[2/2] seed=1"]
    for seed in "01":
        origin = json.loads((tmp_path / "sweep" / seed / "provenance.json").read_text())
        assert len(origin["resumed"]) == 1 and origin["resumed"][0]["step"] >= 2
        assert start(*LONG, "tracking=none", f"seed={seed}", f"hydra.run.dir=whole{seed}").ended() == 0
        assert_same(tmp_path / "sweep" / seed, tmp_path / f"whole{seed}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_submitit_stopped(slow, tmp_path: Path, name: str) -> None:
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


# What stands for Slurm: sbatch runs the tasks of the array it is given, sacct says how they are.
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
def test_what_is_submitted_to_slurm(tmp_path: Path, device: str) -> None:
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
        assert [line.partition(":")[0] for line in lines(done.stdout)] == ["[1/2] seed=0", "[2/2] seed=1"]
        assert not any("gpu" in flag for flag in flags)
    else:
        assert "--gpus-per-node=1" in flags
        # Here it is a machine without one that submits, and the job that misses it.
        assert done.returncode == 1 and "[2/2] seed=1: failed: device=cuda: no CUDA device is found." in done.stdout
