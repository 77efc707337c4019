"""Sweeps that cannot run: one message, before the first job starts."""

import os
import signal
import sys
import time
from pathlib import Path

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
from tests.conftest import LONG
from tests.helpers.sweeps import FEW


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
        # The stack of rewards is that of each job's dataset.
        (
            ["data=arithmetic,countdown", "rewards.int=0.5"],
            "1 of 2 jobs cannot run, so none was started.\n  data=countdown: rewards.int: the composed stack has no such",
        ),
        (
            ["seed=0,1", "reward_files=[mine.py]", "+rewards.mine=0.1,0.2"],
            "rewards.mine: the reward takes 'level', and data=arithmetic has no column 'level', only 'question', 'answer'.",
        ),
        (["correct_by=correctness,nope"], "correct_by=nope: there is no reward 'nope'."),
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
        (["seed=0,1", "hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: each job needs a separate folder below the"),
        (["seed=0,1", "hydra.sweep.subdir=."], "hydra.sweep.subdir=.: each job needs a separate folder below the"),
        (["seed=0,1", "hydra.sweep.subdir=../x"], "hydra.sweep.subdir=../x: each job needs a separate folder below"),
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
def test_invalid_jobs_are_refused_before_the_first_job(light, tmp_path, arguments: list[str], message: str) -> None:
    (tmp_path / "mine.py").write_text(
        "from grpo.rewards import reward\n\n\n@reward\ndef mine(completion, level):\n    return level\n"
    )
    done = light("grpo.train", "-m", *arguments, PATH="/nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr and "Traceback" not in done.stderr
    assert "torch" not in done.modules and not list(tmp_path.rglob("metrics.jsonl"))


def test_a_missing_device_is_reported_once(tmp_path: Path, light) -> None:
    done = light("grpo.train", "experiment=[gsm8k,sweep_k]")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: device=cuda: no CUDA device is found.") and done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("train.log"))


def test_the_multirun_flag_may_be_anywhere(light) -> None:
    done = light("grpo.train", "num_generations=1", "-m", "seed=0,1")
    assert done.returncode == 1 and done.stderr.startswith("error: num_generations=1: must be between 2")
    done = light("grpo.train", "-m", "--cfg", "job")
    assert "cannot be written" not in done.stderr


def test_a_missing_package_is_named(monkeypatch) -> None:
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


def test_folders_of_other_sweeps_and_runs_are_refused(start, tmp_path: Path) -> None:
    assert start("-m", "seed=0,1", "num_generations=2", *FEW, "hydra.sweep.dir=sweep").ended() == 0
    for arguments, folder, message in (
        (
            ["-m", "seed=0,1,2", "num_generations=2"],
            "sweep",
            "sweep contains another sweep, of 2 jobs; its own command",
        ),
        (["-m", "seed=0,1", "num_generations=4"], "sweep", "sweep contains another sweep, of 2 jobs; its own command"),
        (["-m", "seed=0,1", "num_generations=2"], "sweep/0", "sweep/0 contains a run; give the sweep another"),
    ):
        run = start(*arguments, *FEW, f"hydra.sweep.dir={folder}")
        assert run.ended() == 1 and run.complained().startswith(f"error: {message}")
    run = start("-m", "seed=0,1", *FEW, "hydra.sweep.dir=.")
    assert run.ended() == 1
    assert run.complained().startswith(
        "error: . contains other runs, such as sweep/0; give the sweep a separate folder"
    )
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


def test_a_folder_in_use_by_a_sweep_is_refused(start, slow, light, tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1", *LONG, "tracking=none", "hydra.sweep.dir=sweep"]
    run = start(*sweep)
    while not (tmp_path / "sweep" / "0" / "metrics.jsonl").exists():
        time.sleep(0.01)
    other = light("grpo.train", *sweep)
    assert other.returncode == 1
    assert other.stderr == (
        "error: sweep is in use by another sweep; wait for that, or give this one another folder, "
        "hydra.sweep.dir=FOLDER.\n"
    )
    os.kill(run.pid, signal.SIGKILL)
    assert run.ended() == -signal.SIGKILL
