"""What lies in a run directory: nothing after a mistake, a link to the newest, and files that are named when damaged."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from grpo import reproduce
from grpo.core.errors import UserError
from grpo.reports.sweep_results import read_sweep
from grpo.runs.checkpoints import checkpoint_fault
from grpo.runs.labels import read_sweep_entry
from grpo.runs.reproduction import numeric_differences
from grpo.runs.results import read_job_outcome, read_results
from grpo.runs.resume import ResumePoint, has_all_steps, truncate_to_checkpoint
from grpo.runs.resume_arguments import expand_resume_arguments
from grpo.runs.run_dir import link_latest, resolve_link
from grpo.runs.saved_run import read_run
from grpo.runs.settings import read_config, read_finished_run_config, read_overrides
from tests.conftest import SMALL
from tests.helpers.made_up import made_up


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["num_generations=1"], "num_generations=1"),
        (["device=gpu"], "device=gpu"),
        (["device=cuda"], "device=cuda"),
        (["reward_files=[gone.py]"], "reward_files: no file"),
        (["data=jsonl"], "data=jsonl needs the folder of your files"),
        (["data=jsonl", "data.path=gone"], "data.path: there is no file"),
        (["model.path=./gone"], "there is no such folder"),
        (["prompts_per_step=500"], "there are only 20 training prompts"),
        (["hydra.run.dir=a/b/c", "model.path=./gone"], "there is no such folder"),
        (["tracking=wandb", "tracking.project=team/x"], "tracking.project=team/x"),
    ],
)
def test_a_mistake_leaves_no_folder(start, tmp_path: Path, arguments: list[str], message: str) -> None:
    failed = start(*SMALL, "tracking=none", *arguments)
    assert failed.ended() == 1
    assert message in failed.complained() and "Traceback" not in failed.complained()
    assert files(tmp_path) == []


def test_a_mistake_leaves_what_was_there(start, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes").touch()
    assert start(*SMALL, "model.path=./gone", "hydra.run.dir=a").ended() == 1
    assert start(*SMALL, "model.path=./gone", "hydra.run.dir=a/run").ended() == 1
    assert files(tmp_path) == ["a", "a/.lock", "a/notes"]


@pytest.mark.parametrize("arguments", [["nowhere"], ["nowhere", "--out", "again"], ["unfinished"], ["damaged"]])
def test_a_mistake_of_reproduce_leaves_no_folder(tmp_path: Path, monkeypatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    made_up(tmp_path / "unfinished")
    (tmp_path / "unfinished" / "results.json").unlink()
    made_up(tmp_path / "damaged")
    (tmp_path / "damaged" / "results.json").write_text("[]")
    before = files(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
    with pytest.raises(SystemExit) as ended:
        reproduce.main()
    assert ended.value.code == 2 and files(tmp_path) == before


def test_a_mistake_of_evaluate_leaves_no_folder(light, tmp_path: Path) -> None:
    assert light("grpo.evaluate", "-m", "run=nowhere", "seed=0,1").returncode == 1
    assert files(tmp_path) == []


# Content that is no results.json, and what the message says of it.
NO_RESULTS = {
    "": "Expecting value",
    "null": "it contains null, not an object",
    "[]": "it contains a list, not an object",
    "3": "it contains a number, not an object",
    "{}": "it has no after, batch",
    '{"steps": "x"}': "it has no after, batch",
    '{"steps": ': "Expecting value",
    "\udcff": "can't decode byte 0xff",
    '{"a": ' * 100_000: "nested too deeply",
    "[" * 100_000: "nested too deeply",
}


@pytest.mark.parametrize("content", NO_RESULTS, ids=lambda content: ascii(content[:15]))
def test_damaged_results_are_named(tmp_path: Path, content: str) -> None:
    run, other = made_up(tmp_path / "sweep" / "run"), made_up(tmp_path / "other")
    (run / "results.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    for reads in (read_results, read_run, lambda folder: numeric_differences(folder, other)):
        with pytest.raises(UserError, match="run/results.json is damaged") as error:
            reads(run)
        assert NO_RESULTS[content] in str(error.value)
    assert read_job_outcome(run) is None and not has_all_steps(run, read_config(run))  # it is written again
    assert [(job.folder, job.state) for job in read_sweep(tmp_path / "sweep").unfinished] == [("run", "damaged")]


@pytest.mark.parametrize("content", [*NO_RESULTS, '{"jobs": 3}', '{"jobs": [[]]}'], ids=lambda each: ascii(each[:15]))
def test_other_damaged_files_are_named(tmp_path: Path, content: str) -> None:
    run = made_up(tmp_path / "run")
    for name in ("sweep.json", "manifest.json"):
        (tmp_path / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=r"sweep.json is damaged: "):
        read_sweep(tmp_path)
    assert read_sweep_entry(run) == {}
    assert re.match("manifest.json (is damaged|does not list)", str(checkpoint_fault(tmp_path)))


@pytest.mark.parametrize(
    ("key", "value"),
    [("steps", "x"), ("steps", None), ("steps", True), ("after", []), ("after", {}), ("batch", 3), ("seconds", "long")],
)
def test_results_of_other_types_are_named(tmp_path: Path, key: str, value: object) -> None:
    run = made_up(tmp_path / "run", **{key: value})
    with pytest.raises(UserError, match=f"run/results.json is damaged: {key}.* is '"):
        read_results(run)


@pytest.mark.parametrize("name", ["config", "overrides"])
@pytest.mark.parametrize("content", ["5", "[" * 100_000, "{a: " * 100_000, "- [", "!!python/object:x.y {}", "a: !x b"])
def test_damaged_settings_are_named(tmp_path: Path, name: str, content: str) -> None:
    run = made_up(tmp_path / "run")
    (run / ".hydra" / f"{name}.yaml").write_text(content)
    readers = {
        "config": (read_config, read_finished_run_config, read_run),
        "overrides": (read_overrides, read_run),
    }
    for reads in readers[name]:
        with pytest.raises(UserError, match=rf"run/.hydra/{name}.yaml is damaged"):
            reads(run)


@pytest.mark.parametrize("line", ["[]", "3", "{}", '{"step": 1', "[" * 100_000, '{"loss": 1}'])
def test_damaged_metrics_are_named(tmp_path: Path, line: str) -> None:
    run, other = made_up(tmp_path / "run"), made_up(tmp_path / "other")
    (run / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    for reads in (read_run, lambda folder: numeric_differences(folder, other)):
        with pytest.raises(UserError, match="run/metrics.jsonl is damaged in line 2: "):
            reads(run)


def test_files_of_others_stay(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run")
    (run / "completions").mkdir()
    foreign = ["completions/step_foo.parquet", "completions/step_1e9.parquet", "completions/step_³.parquet"]
    foreign += ["completions/notes.txt", "evaluations/step_x.json", "evaluations/step_.json"]
    for name in [*foreign, "completions/step_000001.parquet", "evaluations/step_000001.json"]:
        (run / name).touch()
    truncate_to_checkpoint(ResumePoint(run, None, {}))
    left = {str(path.relative_to(run)) for part in ("completions", "evaluations") for path in (run / part).iterdir()}
    assert left == set(foreign)


def test_completions_deleted_while_training(train, tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(
        "import shutil\nfrom grpo.rewards import reward\n\ncalls = 0\n\n\n"
        "@reward\ndef gone(completions):\n    global calls\n    calls += 1\n"
        "    if calls == 3:\n        shutil.rmtree('run/completions')\n    return [0.0] * len(completions)\n"
    )
    out, _ = train("max_steps=3", "save_steps=1", "reward_files=[gone.py]", "+rewards.gone=0")
    assert sorted(path.name for path in (out / "completions").iterdir()) == [
        "step_000002.parquet",
        "step_000003.parquet",
    ]
    assert len(pd.read_parquet(out / "completions" / "step_000003.parquet")) == 8


def test_latest_is_the_newest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("outputs/day/one", "outputs/sweeps/day/two", "elsewhere"):
        made_up(tmp_path / name)
        link_latest(Path(name))
    assert os.readlink("outputs/latest") == "sweeps/day/two"
    assert os.listdir("outputs") == ["latest"] or sorted(os.listdir("outputs")) == ["day", "latest", "sweeps"]
    assert resolve_link(Path("outputs/latest")) == Path("outputs/sweeps/day/two")
    resumed = expand_resume_arguments(["resume=outputs/latest", "max_steps=300"])
    assert resumed[1:] == ["max_steps=300", "hydra.run.dir=outputs/sweeps/day/two", "hydra.mode=RUN"]
    assert (
        expand_resume_arguments(["hydra.sweep.dir=outputs/latest", "-m"])[0] == "hydra.sweep.dir=outputs/sweeps/day/two"
    )


def test_a_file_system_without_links(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = made_up(tmp_path / "outputs" / "day" / "one")
    (tmp_path / "outputs" / "latest").mkdir()  # which cannot be replaced by a link
    link_latest(run)
    monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError(1, "not permitted")))
    shutil.rmtree(tmp_path / "outputs" / "latest")
    link_latest(run)
    assert os.listdir(tmp_path / "outputs") == ["day"]


def test_commands_take_latest(start, tmp_path: Path) -> None:
    assert start(*SMALL, "tracking=none").ended() == 0
    (run,) = (tmp_path / "outputs").glob("*-*-*/*")
    assert (tmp_path / "outputs" / "latest").resolve() == run
    again = start("resume=outputs/latest")
    assert again.ended() == 0
    assert f"outputs/{run.relative_to(tmp_path / 'outputs')} has all its steps already." in again.said()
    assert json.loads((run / "provenance.json").read_text())["resumed"] == []
