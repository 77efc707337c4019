"""Sweeps as they are typed: real jobs of the smallest size under the basic launcher, and what they print and write."""

import re
from pathlib import Path

from grpo.core.device import usable_cores
from tests.conftest import wandb_records
from tests.helpers.runs import assert_same, metrics
from tests.helpers.sweeps import FEW, job_lines, results


def test_prints_a_line_per_job_then_the_table_and_the_report(start, tmp_path: Path) -> None:
    run = start("-m", "num_generations=2,4", "seed=0,1", *FEW, "hydra.sweep.dir=sweep", "hydra.sweeper.step_seconds=2")
    assert run.ended() == 0, run.complained()
    said = run.said()
    assert said.startswith(
        "sweep   4 jobs: num_generations (2) x seed (2)\n"
        "folder  sweep\n"
        "time    about 16 seconds, by 2 s per step, the value of hydra.sweeper.step_seconds\n"
    )
    parallel = min(4, usable_cores())  # each job has one thread
    assert said.count(f"\nfaster  hydra/launcher=joblib runs {parallel} jobs in parallel") == (parallel > 1)
    expected = []
    for number, (k, seed) in enumerate([(2, 0), (2, 1), (4, 0), (4, 1)]):
        after = results(tmp_path / "sweep" / str(number))["after"]
        right = f"{after['accuracy_strict']:.1%} inside <answer>, {after['accuracy_flexible']:.1%} as last number"
        form = f"{after['strict_format']:.1%}"
        expected.append(f"[{number + 1}/4] num_generations={k} seed={seed}: right {right}, exact format {form}")
    assert job_lines(said) == expected
    assert said.rstrip().endswith("Report: sweep/report.html")
    assert "num_generations=2" in said.partition("[4/4]")[2]
    assert (tmp_path / "sweep" / "report.html").exists() and (tmp_path / "sweep" / "sweep.csv").exists()
    assert "Everything is in" not in said  # it is in the log of each job
    assert "Everything is in sweep/2" in (tmp_path / "sweep" / "2" / "train.log").read_text()
    # How long another one takes is now known from this one.
    again = start("-m", "num_generations=2,4", *FEW, "max_steps=3", "hydra.sweep.dir=other")
    assert again.ended() == 0
    assert "estimated after the first steps" in again.said()
    again = start("-m", "num_generations=2,4", "seed=0,1", *FEW, "hydra.sweep.dir=sweep")
    assert again.ended() == 0 and not job_lines(again.said())
    assert again.said().startswith("sweep   4 jobs, 4 of them done: num_generations (2) x seed (2)\nfolder  sweep\n\n")


def test_an_earlier_run_gives_the_time_estimate(start) -> None:
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


def test_a_job_equals_the_same_run_alone(start, tmp_path: Path) -> None:
    (tmp_path / "alive.py").write_text(LEAK)
    given = [*FEW, "reward_files=[alive.py]", "+rewards.alive=0", "eval_steps=2", "data.validation_problems=4"]
    sweep = start("-m", "algorithm=grpo,dr_grpo", "num_generations=2,4", "seed=0,1", *given, "hydra.sweep.dir=sweep")
    assert sweep.ended() == 0, sweep.complained()
    alone = start("algorithm=dr_grpo", "num_generations=4", "seed=1", *given, "hydra.run.dir=alone")
    assert alone.ended() == 0
    assert_same(tmp_path / "sweep" / "7", tmp_path / "alone")
    # Only one trainer exists at a time, and the module of a reward file is loaded again for each job.
    for number in range(8):
        score = [line["rewards/alive/mean"] for line in metrics(tmp_path / "sweep" / str(number)) if "reward" in line]
        assert score == [line["rewards/alive/mean"] for line in metrics(tmp_path / "alone") if "reward" in line]
        said = (tmp_path / "sweep" / str(number) / "train.log").read_text()
        assert said.count("Everything is in") == 1 and f"Everything is in sweep/{number}" in said
    assert {score % 100 for score in map(int, score)} == {1}


def test_a_job_that_fails_does_not_stop_the_others(start, tmp_path: Path) -> None:
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
    assert [line.partition(":")[0] for line in job_lines(run.said())] == ["[2/3] seed=1"]
    assert (tmp_path / "sweep" / "0" / "results.json").stat().st_mtime == first
    assert not (tmp_path / "sweep" / "1" / "error.txt").exists()


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
