"""A run that is stopped anywhere and resumed gives the numbers of one that was never stopped, to the last bit."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from grpo.config.composition import compose
from grpo.config.groups import option_names
from grpo.config.keys import flatten
from grpo.core.errors import UserError
from grpo.core.signals import StoppedBySignal
from grpo.policy.hub import ASSETS
from grpo.runs.checkpoints import checkpoint_fault, newest_complete_checkpoint
from grpo.runs.reproduction import numeric_differences
from grpo.runs.resume import find_checkpoint, has_all_steps, truncate_to_checkpoint
from grpo.runs.resume_settings import resumed_config
from grpo.runs.run_dir import RunDir
from grpo.runs.settings import read_config, read_overrides, read_settings, save_settings
from grpo.runs.signature import sign
from grpo.tasks.splits import load_splits
from grpo.training.recorder import Recorder
from grpo.training.session import train_run
from tests.conftest import SMALL, Process
from tests.helpers.runs import assert_same, lines, without_times

# A reward with a state: it abstains for every third completion that it sees, and its score grows with their number.
SEEN = """
from grpo.rewards import reward


class Seen:
    __name__ = "seen"

    def __init__(self):
        self.count = 0

    def __call__(self, completion):
        self.count += 1
        return None if self.count % 3 == 0 else self.count * len(completion) / 1000

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


reward(Seen())
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Start a run in its own folder, stopped by a signal in step `stop`; or resume it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seen.py").write_text(SEEN)
    problems = load_splits(compose(SMALL).data).train
    rates = [{"question": example.question, "solve_rate": i / 20} for i, example in enumerate(problems)]
    (tmp_path / "rates.jsonl").write_text("\n".join(map(json.dumps, rates)))
    at: list[int] = []
    on_step_end = Recorder.on_step_end

    def with_signal(self: Recorder, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in at:
            os.kill(os.getpid(), signal.SIGTERM)
        on_step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(Recorder, "on_step_end", with_signal)

    def call(name: str, *overrides: str, stop: int | None = None) -> Path:
        out = tmp_path / name
        if RunDir(out).is_used():
            config = resumed_config(out, compose(overrides), overrides)
            found = find_checkpoint(out, config)
            checkpoint, prepare_directory = found.checkpoint, partial(truncate_to_checkpoint, found)
        else:
            out.mkdir()
            typed = [*SMALL, "tracking=none", "save_steps=null", *overrides]
            config, checkpoint = compose(typed), None
            prepare_directory = partial(save_settings, out, config, typed)
        at[:] = [stop] if stop else []
        if stop:
            with pytest.raises(StoppedBySignal):
                train_run(config, out, checkpoint=checkpoint, prepare_directory=prepare_directory)
            assert not (out / "results.json").exists()
        else:
            train_run(config, out, checkpoint=checkpoint, prepare_directory=prepare_directory)
        return out

    return call


# What is set, and after which steps the run is stopped.
CASES: dict[str, tuple[list[str], list[int]]] = {
    "accumulation": (["max_steps=4", "micro_batch_size=2"], [1]),
    "epochs": (["max_steps=10", "data.train_problems=8", "eval_steps=3", "data.validation_problems=4"], [4, 5, 9]),
    "iterations": (["max_steps=6", "algorithm.num_iterations=2", "micro_batch_size=4"], [3]),
    "steps a rollout": (
        [
            *("max_steps=6", "algorithm.steps_per_generation=2", "logging_steps=3"),
            *("rewards.xmlcount={start: 2.0, end: 0.5, until: 0.8}", "reward_files=[seen.py]", "+rewards.seen=1"),
        ],
        [1, 5],
    ),
    "resampling": (
        [
            *("max_steps=6", "algorithm.resample=2", "algorithm.gate=correctness", "algorithm.steps_per_generation=2"),
            *("algorithm.num_iterations=2", "reward_files=[seen.py]", "+rewards.seen=0"),
        ],
        [1, 2, 3, 4, 5],
    ),
    "placebo": (
        ["placebo=true", "max_steps=6", "algorithm.steps_per_generation=2", "eval_samples=3"],
        [1, 4],
    ),
    "curriculum": (
        [
            *("max_steps=12", "data.difficulty=rates.jsonl", "data.curriculum={start:[0.6,1.0],end:[0.0,0.4]}"),
            *("algorithm.resample=1", "eval_steps=null"),
        ],
        [4, 10, 11],
    ),
}
MORE: dict[str, tuple[list[str], list[int]]] = {
    "both": (
        ["max_steps=9", "algorithm.steps_per_generation=2", "algorithm.num_iterations=2", "logging_steps=2"],
        [3, 6, 7],
    ),
    "kl": (["max_steps=4", "algorithm=grpo_kl", "micro_batch_size=4"], [2]),
    "lora": (["max_steps=4", "model.lora_rank=4", "model.lora_dropout=0.1"], [1, 3]),
    "lora with kl": (["max_steps=4", "model.lora_rank=4", "algorithm=grpo_kl"], [2]),
    "random weights": (["max_steps=4", "model.init=random", "model.num_layers=1", "algorithm=grpo_kl"], [2]),
    "entropy rises to its target": (
        ["max_steps=4", "algorithm=adaptive_entropy", "algorithm.entropy_target=9"],
        [1, 2],
    ),
    "linear": (["max_steps=5", "optimizer.schedule=linear", "optimizer.warmup=2"], [1, 4]),
    "warmup": (["max_steps=5", "optimizer.schedule=constant_with_warmup", "optimizer.warmup=0.5"], [1]),
    "adafactor": (["max_steps=4", "optimizer=adafactor"], [2]),
    "sgd": (["max_steps=4", "optimizer.name=sgd", "optimizer.lr=0.1"], [2]),
    "bf16": (["max_steps=4", "model.dtype=bfloat16", "bf16=true"], [2]),
    "generate": (["max_steps=4", "rollout=generate", "share_prompts=false", "micro_batch_size=4"], [1, 3]),
    "generate, iterations": (
        ["max_steps=6", "rollout=generate", "share_prompts=false", "micro_batch_size=4", "algorithm.num_iterations=3"],
        [2, 4],
    ),
    "fractional epochs": (["max_steps=null", "num_train_epochs=1.5", "data.train_problems=8"], [3, 5]),
    "logging": (["max_steps=8", "logging_steps=3", "alarm_window=2"], [2, 4, 7]),
    "checkpointing": (["max_steps=4", "activation_checkpointing=true"], [2]),
    **{
        algorithm: (
            [f"algorithm={algorithm}", "algorithm.pass_k=2", "max_steps=4", "algorithm.num_iterations=2"],
            [1, 2],
        )
        for algorithm in option_names("algorithm")
    },
}


@pytest.mark.parametrize(
    ("overrides", "stops"),
    [
        *[pytest.param(*case, id=name) for name, case in CASES.items()],
        *[pytest.param(*case, id=name, marks=pytest.mark.slow) for name, case in MORE.items()],
    ],
)
def test_stopped_and_resumed_equals_unbroken(runs, overrides: list[str], stops: list[int]) -> None:
    unstopped = runs("unstopped", *overrides)
    first, *others = stops
    runs("stopped", *overrides, stop=first)
    for stop in others:
        runs("stopped", stop=stop)
    assert_same(runs("stopped"), unstopped)
    assert len(lines(unstopped)) > 1


def test_a_kill_loses_no_more_than_the_steps_since_the_checkpoint(runs) -> None:
    unstopped = runs("unstopped", "max_steps=5", "save_steps=2")
    # As a kill leaves it while step 6 of more steps is written down.
    out = runs("killed", "max_steps=5", "save_steps=2")
    (out / "results.json").unlink()
    (out / "checkpoints" / "checkpoint-5").rename(out / "checkpoints" / "partial")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')
    assert_same(runs("killed"), unstopped)
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["checkpoint-4", "checkpoint-5"]


def test_a_run_without_a_checkpoint_starts_at_its_first_step(runs, capsys) -> None:
    unstopped = runs("unstopped")
    out = runs("killed")
    (out / "results.json").unlink()
    assert_same(runs("killed"), unstopped)
    assert "It has no checkpoint yet: it starts at its first step." in capsys.readouterr().out


@pytest.mark.parametrize(
    "record",
    [
        "metrics.jsonl",
        "transcripts.jsonl",
        "provenance.json",
        "evaluations/before.json",
        "evaluations/before.parquet",
        "results.json",
    ],
)
@pytest.mark.parametrize("harm", ["gone", "cut", "garbage"])
def test_damaged_files_are_restored_from_the_checkpoint(
    unbroken, tmp_path, monkeypatch, record: str, harm: str
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    path = out / record
    content = path.read_bytes()
    if record != "results.json":
        (out / "results.json").unlink()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if harm == "cut" else b"\xff\xfe\x00garbage")
    config = resumed_config(out, compose(), [])
    assert not has_all_steps(out, config)
    found = find_checkpoint(out, config)
    train_run(config, out, checkpoint=found.checkpoint, prepare_directory=partial(truncate_to_checkpoint, found))
    assert_same(out, unbroken)
    assert json.loads((out / "provenance.json").read_text())["resumed"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    out.mkdir()
    typed = [*SMALL, "tracking=none"]
    save_settings(out, compose(typed), typed)
    train_run(compose(typed), out)
    return out


def test_missing_completions_are_named(unbroken, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "completions" / "step_000001.parquet").unlink()
    truncate_to_checkpoint(find_checkpoint(out, compose(read_overrides(out))))
    assert "1 files of completions/ are missing, step_000001.parquet is the first" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["cut", "changed", "missing", "manifest", "empty"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(runs, capsys, harm: str) -> None:
    out = runs("run", "max_steps=4", "save_steps=1")
    unstopped = lines(out)
    newest = out / "checkpoints" / "checkpoint-4"
    assert checkpoint_fault(newest) is None
    weights = newest / "model.safetensors"
    content = weights.read_bytes()
    if harm == "cut":
        weights.write_bytes(content[:-1])
    elif harm == "changed":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "empty":
        (newest / "manifest.json").write_text("{}")
    elif harm == "missing":
        (newest / "rng_state.pth").unlink()
    else:
        (newest / "manifest.json").write_text("{")
    found, damaged = newest_complete_checkpoint(out / "checkpoints")
    assert found == out / "checkpoints" / "checkpoint-3" and list(damaged) == [newest]
    (out / "results.json").unlink()
    runs("run")
    said = capsys.readouterr().out
    assert "checkpoint-4 is damaged (" in said and "Resuming from step 3." in said
    assert without_times(lines(out)) == without_times(unstopped)
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["checkpoint-3", "checkpoint-4", "damaged-checkpoint-4"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optimizer.lr=1"],
            r"optimizer.lr=1: a run that is resumed keeps its settings \(here 0.0002\); only max_steps",
        ),
        (["rewards=verbatim"], "rewards=verbatim: a run that is resumed keeps its settings"),
        (["num_generations=8"], "num_generations=8: a run that is resumed keeps its settings"),
        (["max_steps=1"], "max_steps=1: the run is at step 2 already"),
        (["+rewards.verbatim_xmlcount=1"], r"\+rewards.verbatim_xmlcount=1: a run that is resumed keeps its settings"),
        (["num_train_epochs=3"], "num_train_epochs=3.0: max_steps=4 comes first; add max_steps=null"),
    ],
)
def test_what_cannot_change(runs, overrides: list[str], message: str) -> None:
    out = runs("run", "max_steps=4", stop=2)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        runs("run", *overrides)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_more_steps_and_another_tracker(runs) -> None:
    out = runs("run", "max_steps=4", "optimizer.schedule=constant", "optimizer.warmup=0", "save_steps=2")
    runs("run", "max_steps=6", "tracking=tensorboard")
    assert [row["step"] for row in lines(out) if "reward" in row] == [1, 2, 3, 4, 5, 6]
    assert json.loads((out / "results.json").read_text())["steps"] == 6
    unstopped = runs("unstopped", "max_steps=6", "optimizer.schedule=constant", "optimizer.warmup=0", "save_steps=2")
    assert numeric_differences(out, unstopped) == []

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("reward")] == [1, 2, 3, 4, 5, 6]


SLOW = """
import os
import random
import time

from grpo.rewards import reward


@reward
def slow(completion, step):
    if step == 3 and os.path.exists("hang"):
        time.sleep(60)
    return random.random()
"""


def test_a_run_that_a_slow_reward_has_stopped_is_resumed(runs, tmp_path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    own = ["reward_files=[slow.py]", "+rewards.slow=1", "max_steps=4", "save_steps=2"]
    unstopped = runs("unstopped", *own)
    (tmp_path / "hang").touch()
    with pytest.raises(UserError, match="reward 'slow' took longer than reward_timeout=1 seconds"):
        runs("run", *own, "reward_timeout=1")
    (tmp_path / "hang").unlink()
    out = runs("run", "reward_timeout=60", "reward_workers=2")
    assert numeric_differences(out, unstopped) == []
    steps = [row for row in lines(out) if "reward" in row]
    assert [row["time/reward/slow"] > 0 and row["time/reward/correctness"] > 0 for row in steps] == [True] * 4


DATA = [{"question": f"What is {a} plus {b}?", "answer": f"#### {a + b}"} for a in range(5) for b in range(5)]
BITS = """
from grpo.rewards import reward


@reward
def bits(completion):
    return len(completion) % 2 / 2
"""


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory) -> Path:
    """A folder with a finished run, and everything the run needs, named by relative paths."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(ASSETS / "tiny", folder / "model")
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in DATA))
    (folder / "mine.py").write_text(BITS)
    own = ["model.path=model", "data=jsonl", "data.path=data", "reward_files=[mine.py]", "+rewards.bits=1"]
    sizes = ["data.eval_problems=4", "data.train_problems=16"]
    done = Process(server, folder, *SMALL, *sizes, *own, "tracking=none", "hydra.run.dir=run")
    assert done.ended() == 0, done.complained()
    return folder


def moved(finished: Path, folder: Path) -> None:
    """Copy the run and everything it needs, as if it had been trained in `folder`."""
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    settings = folder / "run" / ".hydra" / "config.yaml"
    settings.write_text(settings.read_text().replace(str(finished), str(folder)))
    sign(folder / "run", read_settings(folder / "run"))


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def saved(folder: Path, name: str, value: str) -> None:
    """Change a saved setting, as a machine that lacks something would be asked for it."""
    path = folder / "run" / ".hydra" / "config.yaml"
    text = path.read_text()
    assert len(re.findall(rf"(?m)^( *){name}: .*$", text)) == 1
    path.write_text(re.sub(rf"(?m)^( *){name}: .*$", rf"\1{name}: {value}", text))
    sign(folder / "run", read_settings(folder / "run"))


# What is wrong by the time that a finished run is given more steps -> what is done, what is typed besides, the message.
MISSING: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "data": (lambda f: (f / "data").rename(f / "moved"), [], "data.path: there is no file "),
    "data, emptied": (lambda f: (f / "data" / "train.jsonl").write_text(""), [], "the training split has 0 problems"),
    "reward": (lambda f: (f / "mine.py").unlink(), [], "reward_files: no file "),
    "reward, broken": (lambda f: (f / "mine.py").write_text("1 / 0"), [], "failed with ZeroDivisionError"),
    "model": (lambda f: shutil.rmtree(f / "model"), [], "there is no such folder"),
    "weights": (lambda f: (f / "model" / "model.safetensors").write_bytes(b"no"), [], "model.path="),
    "device": (lambda f: saved(f, "device", "cuda"), [], "device=cuda: "),
    "tracker": (lambda f: None, ["tracking=wandb", "tracking.project=team/x"], "tracking.project=team/x: "),
    "checkpoint": (lambda f: shutil.rmtree(f / "run" / "checkpoints"), [], "no complete checkpoint"),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_resume_that_fails_changes_nothing(finished, start, tmp_path: Path, case: str) -> None:
    moved(finished, tmp_path)
    harm, typed, message = MISSING[case]
    harm(tmp_path)
    before = contents(tmp_path / "run")
    failed = start("resume=run", "max_steps=4", *typed)
    assert failed.ended() == 1
    assert message in failed.complained() and "Traceback" not in failed.complained()
    assert contents(tmp_path / "run") == before


def test_old_results_stay_until_there_are_new_ones(finished, start, tmp_path: Path) -> None:
    moved(finished, tmp_path)
    names = ("results.json", "report.html", "evaluations/after.json", "evaluations/after.parquet")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    policy = contents(tmp_path / "run" / "policy")
    killed = start("resume=run", "max_steps=4", kill=("backward", 2, 0.0))
    assert killed.ended() == -signal.SIGKILL
    assert {name: (tmp_path / "run" / "previous" / name).read_bytes() for name in names} == before
    assert contents(tmp_path / "run" / "policy") == policy
    resumed = start("resume=run")
    assert resumed.ended() == 0, resumed.complained()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 4
    assert contents(tmp_path / "run" / "policy") != policy and not (tmp_path / "run" / "previous").exists()


def test_a_run_resumes_without_the_configs_of_the_users_own(start, tmp_path: Path) -> None:
    for group, text in (("rewards", "correctness: 1\nint: 0.5\n"), ("experiment", "# @package _global_\nseed: 5\n")):
        (tmp_path / group / group).mkdir(parents=True)
        (tmp_path / group / group / "mine.yaml").write_text(text)
    own = ["--config-dir", "rewards", "hydra.searchpath=[file://experiment]", "rewards=mine", "experiment=mine"]
    first = start(*own, *SMALL, "tracking=none", "hydra.run.dir=run")
    assert first.ended() == 0, first.complained()
    typed_again = start(*own, "resume=run")
    assert typed_again.ended() == 0, typed_again.complained()
    shutil.rmtree(tmp_path / "rewards")
    shutil.rmtree(tmp_path / "experiment")
    printed = re.search(r"For more: python -m grpo.train (\S+) max_steps=N", typed_again.said())
    assert printed
    resumed = start(printed[1], "max_steps=3")
    assert resumed.ended() == 0, resumed.complained()
    settings = read_config(tmp_path / "run")
    assert (settings.rewards, settings.seed, settings.max_steps) == ({"correctness": 1.0, "int": 0.5}, 5, 3)


def test_a_run_resumes_from_any_directory(finished, start, tmp_path: Path) -> None:
    moved(finished, tmp_path / "deep")
    resumed = start("resume=deep/run", "max_steps=3")
    assert resumed.ended() == 0, resumed.complained()
    assert read_config(tmp_path / "deep" / "run").reward_files == [str(tmp_path / "deep" / "mine.py")]


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["reward_files=[a.py,'~/b.py',/c.py]"], {"reward_files": ["HERE/a.py", "HOME/b.py", "/c.py"]}),
        (["data=jsonl", "data.path=rows"], {"data.path": "HERE/rows"}),
        (["data=jsonl", "data.path=../rows"], {"data.path": "ABOVE/rows"}),
        (["model.path=policy"], {"model.path": "HERE/policy"}),
        (["model.path=./policy/"], {"model.path": "HERE/policy"}),
        (["model.path=owner/name"], {"model.path": "owner/name"}),
        (["model.path=embedded:tiny"], {"model.path": "embedded:tiny"}),
    ],
)
def test_paths_are_stored_absolute(tmp_path: Path, monkeypatch, overrides: list[str], found: dict[str, Any]) -> None:
    (tmp_path / "policy").mkdir()
    monkeypatch.chdir(tmp_path)
    config = flatten(asdict(compose(overrides)))
    places = {"HERE": str(tmp_path), "ABOVE": str(tmp_path.parent), "HOME": str(Path.home())}
    for key, value in found.items():
        text = json.dumps(value)
        for name, place in places.items():
            text = text.replace(name, place)
        assert config[key] == json.loads(text)


@pytest.mark.parametrize(
    "path", ["reward_files=['~nobody_here/a.py']", "data.path='~nobody_here'", "model.path='~nobody_here/x'"]
)
def test_the_home_of_an_unknown_user(path: str) -> None:
    with pytest.raises(UserError, match="~nobody_here.*: this machine has no user nobody_here"):
        compose(["data=jsonl", "data.path=here", path])


# What is missing from a finished run -> the message when it is resumed, and the exit code.
GONE: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "report": (lambda f: (f / "report.html").unlink(), "Report: run/report.html", 0),
    "policy": (lambda f: shutil.rmtree(f / "policy"), "Missing, and written again: policy/*.safetensors, policy/", 0),
    "evaluation": (lambda f: (f / "evaluations" / "after.parquet").unlink(), "written again: evaluations/after.", 0),
    "policy and checkpoints": (
        lambda f: [shutil.rmtree(f / name) for name in ("policy", "checkpoints")],
        "there is no checkpoint of step 2 to write it from. To run it again: python -m grpo.reproduce run",
        1,
    ),
}


@pytest.mark.parametrize("part", GONE)
def test_missing_files_of_a_finished_run_are_written_again(finished, start, tmp_path: Path, part: str) -> None:
    moved(finished, tmp_path)
    run = tmp_path / "run"
    harm, message, code = GONE[part]
    harm(run)
    before = contents(run)
    resumed = start("resume=run")
    assert resumed.ended() == code, resumed.complained()
    assert message in resumed.said() + resumed.complained()
    if code:
        assert contents(run) == before
    else:
        assert contents(run).keys() >= contents(finished / "run").keys() and not (run / "previous").exists()
        assert numeric_differences(run, finished / "run") == []
