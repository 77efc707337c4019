"""The script for the reference run, rehearsed with the embedded policy: it fits its steps into the time and reports them."""

import json
import os
import signal
import sys
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo.config.composition import compose
from grpo.tasks.arithmetic import generate_problems
from scripts import reference_run

SETTINGS = ["bf16=false", "num_generations=4", "prompts_per_step=2", "max_completion_length=48", "threads=1"]


@pytest.fixture
def data(tmp_path) -> Path:
    """Arithmetic problems in the files of GSM8K."""
    (tmp_path / "data").mkdir()
    for split, held_out, count in (("train", False, 50), ("test", True, 10)):
        problems = islice(generate_problems(held_out, seed=0), count)
        rows = "".join(f"{json.dumps(problem.row())}\n" for problem in problems)
        (tmp_path / "data" / f"{split}.jsonl").write_text(rows)
    return tmp_path / "data"


@pytest.fixture
def rehearse(data, forked, tmp_path, monkeypatch):
    """Run the script on the embedded policy, with runs that start quickly and seem to take 100 s; returns its reports."""

    def run(settings: list[str], seconds: float | None = None) -> int:
        clock[0] += 100
        return forked("grpo.train", *settings).returncode

    def call(*options: str) -> tuple[dict, str]:
        arguments = ["--model", "embedded:tiny", "--data", str(data), "--device", "cpu", "--problems", "6", *options]
        monkeypatch.setattr(sys, "argv", ["reference_run.py", "--steps", "3", *arguments, *SETTINGS])
        reference_run.main()
        out = tmp_path / "outputs" / "reference"
        return json.loads((out / "reference_run.json").read_text()), (out / "reference_run.md").read_text()

    clock = [0.0]
    monkeypatch.setattr(reference_run, "call", run)
    monkeypatch.setattr(reference_run, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.chdir(tmp_path)
    return call


def test_the_rehearsal(rehearse, tmp_path) -> None:
    report, text = rehearse("--minutes", "10")
    assert report["runs"].keys() == {"reference", "correctness_only"} and "not_run" not in report
    for name, run in report["runs"].items():
        assert run["steps"] == 3 and run["before"]["n"] == run["after"]["n"] == 6
        assert all(len(values) == 3 for values in run["curves"].values())
        assert run["peak_memory_bytes"]["resident"] > 0 and run["step_seconds"]["median"] > 0
        assert len(run["transcripts"]) == 3 and not all(each["after"]["right"] for each in run["transcripts"])
        for each in run["transcripts"]:
            assert each["question"] in text
            for when in ("before", "after"):
                assert all(f"    {line}" in text for line in each[when]["completion"].splitlines())
        assert (tmp_path / "outputs" / "reference" / name / "report.html").is_file()
        assert f"## {name}\n" in text
    assert "rewards=correctness_only" in report["runs"]["correctness_only"]["overrides"]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {"path": "some folder", "init": "pretrained", "num_layers": None, "gguf": None}),
        (["--gguf", "q4=k.gguf"], {"path": "some folder", "init": "pretrained", "gguf": "q4=k.gguf"}),
        (["--layers", "2"], {"path": "some folder", "init": "random", "num_layers": 2}),
    ],
)
def test_the_policy_of_the_options(monkeypatch, options: list[str], settings: dict) -> None:
    monkeypatch.setattr(
        sys, "argv", ["reference_run.py", "--model", "some folder", "--data", "data", *options, "seed=1"]
    )
    config = compose(reference_run.settings_of(reference_run.parse_arguments()))
    assert {name: getattr(config.model, name) for name in settings} == settings
    assert (config.data.eval_problems, config.device, config.seed, config.save_steps) == (256, "cuda", 1, None)


def test_a_control_that_does_not_fit_is_not_run(rehearse) -> None:
    report, text = rehearse("--minutes", "4.9")
    assert report["runs"].keys() == {"reference"} and report["runs"]["reference"]["steps"] == 3
    assert "correctness_only was not run: it takes about 100 s, and 94 s were left." in text


def test_too_little_time_for_a_step(rehearse) -> None:
    with pytest.raises(SystemExit, match=r"error: --minutes 3: no step fits. The timing run took 100 s, \d+ s without"):
        rehearse("--minutes", "3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps 0: must be at least 1."),
        (["--minutes", "0"], "--minutes 0: must be a number above 0."),
        (["--minutes", "inf"], "--minutes inf: must be a number above 0."),
        (["--minutes", "nan"], "--minutes nan: must be a number above 0."),
        (["--problems", "0"], "--problems 0: must be at least 1."),
        (["--device", "cuda", "--data", "/nope"], "--data /nope: there is no such folder."),
        (
            ["--device", "cuda"],
            "--device cuda: no CUDA device is found; a rehearsal on the CPU takes --device cpu bf16=",
        ),
    ],
)
def test_mistakes_in_the_options(rehearse, monkeypatch, options: list[str], message: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        rehearse(*options)
    assert not Path("outputs").exists()


def test_a_run_that_takes_too_long_is_evaluated_after_the_steps_that_it_has(data, start, tmp_path, monkeypatch) -> None:
    end = time.monotonic() + 60

    def call(settings: list[str], seconds: float | None = None) -> int:
        process = start(*settings)
        if seconds is not None:
            while not (tmp_path / "run" / "metrics.jsonl").exists():
                assert time.monotonic() < end, process.said()
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGTERM)
        return process.ended()

    monkeypatch.setattr(reference_run, "call", call)
    model = [
        "experiment=gsm8k",
        "model=tiny",
        f"data.path={data}",
        "data.eval_problems=4",
        "device=cpu",
        "tracking=none",
    ]
    run = reference_run.train(tmp_path / "run", [*model, *SETTINGS, "save_steps=null", "max_steps=500"], seconds=1)
    assert 1 <= run.results["steps"] < 500 and run.results["steps"] == len(run.history)
    assert run.results["after"]["n"] == 4


def test_a_run_without_results_is_named(data, rehearse, capsys) -> None:
    (data / "train.jsonl").write_text("")
    with pytest.raises(SystemExit, match="the run in outputs/reference/timing ended with exit code 1") as error:
        rehearse("--minutes", "1")
    assert ("train.log may say why" in str(error.value)) == Path("outputs/reference/timing/train.log").exists()


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(None, 0), (1, reference_run.STOPPED)],
)
def test_the_signal_after_the_time(monkeypatch, seconds: float | None, code: int) -> None:
    program = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); time.sleep(int(sys.argv[1]))"
    monkeypatch.setattr(reference_run, "TRAIN", [sys.executable, "-c", program])
    assert reference_run.call(["60" if seconds else "0"], seconds) == code
