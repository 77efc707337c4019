"""A run from Python: the same numbers as a command, in a process that is as before."""

import gc
import logging
import os
import random
import re
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

import grpo
from grpo.core.errors import UserError
from tests.conftest import SMALL
from tests.helpers.runs import assert_same

QUIET = [*SMALL, "tracking=none"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def process_state() -> dict[str, Any]:
    root, ours = logging.getLogger(), logging.getLogger("grpo")
    transformers = logging.getLogger("transformers")
    return {
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "loggers": [(log.level, log.propagate, log.handlers[:]) for log in (root, ours, transformers)],
        "warnings": (warnings.showwarning, warnings.filters[:]),
        "environment": dict(os.environ),
        "arguments": sys.argv[:],
        "folder": os.getcwd(),
        "streams": (sys.stdout, sys.stderr),
        "threads": set(threading.enumerate()),
        "torch": (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()),
        "collection": (gc.isenabled(), gc.get_freeze_count()),
        "random": (random.getstate(), numpy.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()),
    }


def test_runs_in_one_process_have_the_numbers_of_commands_and_leave_it_as_before(folder, forked) -> None:
    (folder / "mine.py").write_text(
        "from grpo.rewards import reward\n\n\n@reward\ndef brevity(completions):\n"
        "    return [1.0 / (1 + len(text)) for text in completions]\n"
    )
    first = QUIET
    second = [*QUIET, "seed=3", "threads=1", "reward_files=[mine.py]", "+rewards.brevity=0.5"]
    for name, overrides in (("first", first), ("second", second)):
        assert not forked("grpo.train", *overrides, f"hydra.run.dir={name}").returncode
    torch.set_num_threads(1)
    grpo.train.run(grpo.compose(first), "warm")  # libraries are imported, and stay
    before = process_state()
    results = grpo.train.run(grpo.compose(second), folder="in-python")
    after = process_state()
    for name in before:
        assert before[name] == after[name], name
    again = grpo.train.run(grpo.compose(first))
    assert_same(Path("second"), results.folder)
    assert_same(Path("first"), again.folder)
    # The directory of a run that names none, and what it holds.
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", str(again.folder))
    assert Path("outputs/latest").resolve() == again.folder.resolve()
    names = {path.name for path in Path("first").iterdir()}
    assert {path.name for path in again.folder.iterdir()} == names
    assert "2 prompts x 4 completions" in (again.folder / "train.log").read_text()
    assert again.steps == 2 and again.stopped_by is None
    assert again.after["n"] == again.content["problems"]["held_out"] == 4


def test_changed_settings_are_saved_as_overrides_and_reproduced(folder, forked) -> None:
    config = grpo.compose(QUIET)
    config.optimizer.lr = 0.01
    config.stop_on = ["no_signal"]
    config.system_prompt = "Say 'it', \"this\",\nthen stop."
    del config.rewards["int"]
    out = grpo.train.run(config).folder
    overrides = OmegaConf.to_container(OmegaConf.load(out / ".hydra" / "overrides.yaml"))
    assert isinstance(overrides, list) and overrides[: len(QUIET)] == QUIET
    changed = ["optimizer.lr=0.01", 'stop_on=["no_signal"]', "~rewards.int"]
    assert set(changed) < set(overrides[len(QUIET) :]) and len(overrides) == len(QUIET) + 4
    assert grpo.compose(overrides) == config
    assert "The same numbers" in forked("grpo.reproduce", str(out)).stdout


def test_a_stopped_run_says_how_to_resume_and_resumes_from_python(folder) -> None:
    (folder / "stopping.py").write_text(
        "import os, signal\nfrom grpo.rewards import reward\n\n\n@reward\ndef stopping(completions, trainer_state):\n"
        "    if len(completions) == 8 and trainer_state.global_step == 1 and not os.path.exists('stopped'):\n"
        "        open('stopped', 'w').close()\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return [0.0] * len(completions)\n"
    )
    overrides = [*QUIET, "max_steps=3", "reward_files=[stopping.py]", "+rewards.stopping=0"]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(grpo.StoppedBySignal, match=r"after step 2 of 3\. To resume: python -m grpo\.train resume=half"):
        grpo.train.run(grpo.compose(overrides), "half")
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(UserError, match="not finished, so it has no results; python -m grpo.train resume=half"):
        print(grpo.load_run("half").results)
    resumed = grpo.train.run(grpo.compose(["resume=half"]))
    assert (resumed.folder, resumed.steps) == (Path("half"), 3)
    assert_same(grpo.train.run(grpo.compose(overrides), "straight").folder, resumed.folder)
    assert grpo.train.run(grpo.compose(["resume=half"])).steps == 3  # it has all its steps


def test_a_second_signal_does_not_end_the_process(folder) -> None:
    (folder / "stopping.py").write_text(
        "import os, signal, time\nfrom grpo.rewards import reward\n\n\n@reward\ndef stopping(completions):\n"
        "    for _ in range(2 * (len(completions) == 8)):\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.2)\n"
        "    return [0.0] * len(completions)\n"
    )
    overrides = [*QUIET, "reward_files=[stopping.py]", "+rewards.stopping=0"]
    # It scores 8 completions in a step, 4 in an evaluation. The first signal waits for the end of the step.
    with pytest.raises(grpo.StoppedBySignal, match=r"Stopped by SIGINT\. To resume: python -m grpo\.train resume=run"):
        grpo.train.run(grpo.compose(overrides), "run")


def test_in_a_thread_and_one_at_a_time(folder) -> None:
    (folder / "waiting.py").write_text(
        "import os, time\nfrom grpo.rewards import reward\n\n\n@reward\ndef waiting(completions):\n"
        "    while not os.path.exists('go'):\n        time.sleep(0.01)\n    return [0.0] * len(completions)\n"
    )
    overrides = [*QUIET, "reward_files=[waiting.py]", "+rewards.waiting=0"]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(grpo.train.run(grpo.compose(overrides), "run")))
    thread.start()
    while not (folder / "run").is_dir():
        thread.join(0.01)
    with pytest.raises(UserError, match="a run is training in this process"):
        grpo.train.run(grpo.compose(QUIET))
    (folder / "go").touch()
    thread.join()
    assert results[0].steps == 2
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("max_steps=3", r"max_steps=3: overrides are a list, \['max_steps=3'\]"),
        (["max_step=3"], "max_step: there is no such setting. Did you mean 'max_steps'?"),
        (["per_device_train_batch_size=3"], "micro_batch_size"),
        (["model=huge"], "model=huge"),
        (["max_steps=no"], "max_steps=no: must be a whole number"),
        (["num_generations=1"], "num_generations=1"),
        (["num_generations=4,8"], "a sweep"),
        (["max_steps"], "max_steps: not a setting; write NAME=VALUE"),
        (["hydra.run.dir=out"], "hydra.run.dir=out: a setting of Hydra itself, which only commands have"),
    ],
)
def test_mistakes_in_overrides(overrides, message) -> None:
    with pytest.raises(grpo.UserError, match=message):
        grpo.compose(overrides)


def test_inside_the_hydra_app_of_another_project(folder) -> None:
    (folder / "config.yaml").write_text("max_steps: 5\nmine: 1\n")
    with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
        config = grpo.compose(["max_steps=7"])
        theirs = hydra_compose("config")
    assert (config.max_steps, config.model.name, theirs) == (7, "embedded:tiny", {"max_steps": 5, "mine": 1})


def test_mistakes_in_a_run_leave_no_directory(folder, monkeypatch) -> None:
    config = grpo.compose(QUIET)
    with pytest.raises(TypeError, match="takes the Config that grpo.compose returns, not list"):
        grpo.train.run(QUIET)  # type: ignore[arg-type]
    config.max_steps = "many"  # type: ignore[assignment]
    with pytest.raises(UserError, match="max_steps=many: must be a whole number"):
        grpo.train.run(config)
    config.max_steps = 0
    with pytest.raises(UserError, match="max_steps=0"):
        grpo.train.run(config, "run")
    with pytest.raises(UserError, match="no file .*none.py"):
        grpo.train.run(grpo.compose([*QUIET, "reward_files=[none.py]"]), "run")
    with pytest.raises(UserError, match="not a run directory: it does not exist"):
        grpo.train.run(grpo.compose(["resume=run"]))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="from Python a run has one process"):
        grpo.train.run(grpo.compose(QUIET))
    assert not list(folder.iterdir())
    monkeypatch.setenv("WORLD_SIZE", "1")
    (folder / "file").touch()
    with pytest.raises(UserError, match=r"file/run cannot be created: Not a directory; .* folder=FOLDER"):
        grpo.train.run(grpo.compose(QUIET), "file/run")
    (folder / "used" / ".hydra").mkdir(parents=True)
    (folder / "used" / ".hydra" / "config.yaml").touch()
    with pytest.raises(UserError, match=r"used holds a run already\. To resume it: .*resume=used\. .*folder=FOLDER"):
        grpo.train.run(grpo.compose(QUIET), folder / "used")
