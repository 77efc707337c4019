"""Searches with Optuna: real trials of the smallest size, killed and resumed, pruned, with two objectives, on a dashboard."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from grpo.reports.sweep_findings import verdict
from grpo.reports.sweep_results import read_sweep
from grpo.reports.sweep_statistics import search_trials
from grpo.sweeps.study import JOURNAL, find_should_prune
from grpo.training.session import ShouldPrune
from tests.helpers.sweeps import FEW, job_lines, results

SEARCH = ["-m", "hydra/sweeper=optuna", "num_generations=2,4", "optimizer.lr=tag(log,interval(1e-5,1e-3))", *FEW]


def study(folder: Path) -> optuna.Study:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    return optuna.load_study(study_name="grpo", storage=storage)


def test_a_search_killed_in_a_trial_resumes(start, tmp_path: Path) -> None:
    search = [*SEARCH, "hydra.sweep.dir=search", "hydra.sweeper.maximize=[rewards/xmlcount]"]
    run = start(*search, "hydra.sweeper.n_trials=3", kill=("backward", 4, 0.0))  # in the second step of trial 1
    assert run.ended() == -signal.SIGKILL
    assert [trial.state for trial in study(tmp_path / "search").trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    interrupted = study(tmp_path / "search").trials[1].params
    study(tmp_path / "search").ask()  # as if it had been killed before anything was chosen for the next one
    with (tmp_path / "search" / JOURNAL).open("a") as journal:
        journal.write('{"op_code":6,"worker')  # half a line, as it may lie on the disk

    run = start(*search, "hydra.sweeper.n_trials=4")
    assert run.ended() == 0, run.complained()
    assert run.said().startswith("sweep   4 trials, 1 of them done: num_generations, optimizer.lr\nfolder  search\n")
    assert [line.partition("]")[0] for line in job_lines(run.said())] == ["[2/4", "[3/4", "[4/4"]
    done = study(tmp_path / "search").trials
    assert done.pop(2).state == TrialState.FAIL
    assert [trial.state for trial in done] == [TrialState.COMPLETE] * 4
    assert done[1].params == interrupted
    assert len({json.dumps(trial.params) for trial in done}) == 4
    for trial in done:
        folder = tmp_path / "search" / str(trial.number)
        settings = results(folder)["provenance"]["settings"]
        assert settings["optimizer"]["lr"] == trial.params["optimizer.lr"]
        assert settings["num_generations"] == int(trial.params["num_generations"])
        assert trial.values == [results(folder)["after"]["rewards/xmlcount"]]
    best = study(tmp_path / "search").best_trial
    assert str(best.number) in {trial.folder for trial in search_trials(read_sweep(tmp_path / "search")) if trial.best}
    assert "Of 4 trials, " in run.said()

    run = start(*search, "hydra.sweeper.n_trials=4")  # there is nothing left to do
    assert run.ended() == 0 and not job_lines(run.said())
    run = start(*search[:-1], "hydra.sweeper.n_trials=5")  # another objective
    assert run.ended() == 1 and "error: search contains another sweep, of 4 jobs" in run.complained()


def test_two_objectives_give_a_pareto_front(start, tmp_path: Path) -> None:
    goals = ["hydra.sweeper.maximize=[rewards/xmlcount]", "hydra.sweeper.minimize=[mean_completion_tokens]"]
    run = start(*SEARCH, *goals, "hydra.sweeper.n_trials=4", "hydra.sweep.dir=search")
    assert run.ended() == 0, run.complained()
    found = study(tmp_path / "search")
    expected = {str(trial.number) for trial in found.best_trials}
    sweep = read_sweep(tmp_path / "search")
    front = {trial.folder for trial in search_trials(sweep) if trial.best}
    values = {tuple(found.trials[int(number)].values) for number in front}
    assert expected <= front and values == {tuple(trial.values) for trial in found.best_trials}
    assert "Pareto front" in (tmp_path / "search" / "report.html").read_text()
    assert verdict(sweep) in run.said()


def test_a_failed_trial_is_stored_as_failed(start, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(
        "from pathlib import Path\n\nfrom grpo.rewards import reward\n\n\n@reward\ndef faulty(completion):\n"
        "    return float('nan') if not Path('search/1').exists() else 0.0\n"
    )
    given = ["reward_files=[faulty.py]", "+rewards.faulty=0", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=search"]
    run = start(*SEARCH, *given)
    assert run.ended() == 1
    assert "failed: reward 'faulty' returned nan" in run.said()
    assert [trial.state for trial in study(tmp_path / "search").trials] == [TrialState.FAIL, TrialState.COMPLETE]


def should_prune_of(tmp_path: Path, values: list[float]) -> ShouldPrune | None:
    """The pruning function of the last trial of a study in which the others had these values at step 2."""
    from omegaconf import OmegaConf

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL)))
    found = optuna.create_study(study_name="grpo", storage=storage, direction="maximize")
    for value in values:
        trial = found.ask()
        trial.report(value, 2)
        found.tell(trial, value)
    number = found.ask().number
    sweeper = {
        "trial": number,
        "pruning": True,
        "maximize": ["mean_completion_tokens"],
        "minimize": [],
        "storage": None,
        "study_name": "grpo",
    }
    return find_should_prune(OmegaConf.create({"sweeper": sweeper, "sweep": {"dir": str(tmp_path)}}))


@pytest.mark.parametrize(("others", "steps"), [(1000.0, 2), (0.0, 6)])
def test_a_trial_below_the_median_is_pruned(tmp_path, monkeypatch, others: float, steps: int) -> None:
    from grpo.config.composition import compose
    from grpo.runs.settings import save_settings
    from grpo.training.session import train_run

    monkeypatch.chdir(tmp_path)
    typed = [*FEW, "num_generations=4", "max_steps=6", "eval_steps=2", "data.validation_problems=4"]
    out = tmp_path / "run"
    out.mkdir()
    save_settings(out, compose(typed), typed)
    ended = train_run(compose(typed), out, should_prune=should_prune_of(tmp_path, [others] * 5))
    assert ended["steps"] == steps and ended["stopped_by"] == ("pruning" if steps == 2 else None)
    trial = study(tmp_path).trials[-1]
    assert list(trial.intermediate_values) == [2, 4, 6][: steps // 2]


def test_the_dashboard_opens_the_journal(tmp_path: Path) -> None:
    should_prune_of(tmp_path, [1.0, 2.0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [str(Path(sys.executable).with_name("optuna-dashboard")), JOURNAL, "--port", str(port)]
    dashboard = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=5) as answer:
                    (shown,) = json.load(answer)["study_summaries"]
                break
            except OSError:
                time.sleep(0.2)
        assert shown["study_name"] == "grpo"
    finally:
        dashboard.kill()
        dashboard.wait()
