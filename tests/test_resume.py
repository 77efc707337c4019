"""A run that is stopped anywhere and goes on gives the numbers of one that was never stopped, to the last bit."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from grpo.checkpoint import damage, newest_whole
from grpo.config import compose, options
from grpo.errors import UserError
from grpo.folder import cut_back, holds_run, is_done, overrides_of, resume, save_settings
from grpo.recorder import Recorder
from grpo.reproduce import differences
from grpo.signals import Stopped
from grpo.train import run
from tests.conftest import SMALL


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Start a run in a folder of its own, stopped by a signal in step `stop`; or go on with it."""
    monkeypatch.chdir(tmp_path)
    at: list[int] = []
    on_step_end = Recorder.on_step_end

    def with_signal(self: Recorder, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in at:
            os.kill(os.getpid(), signal.SIGTERM)
        on_step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(Recorder, "on_step_end", with_signal)

    def call(name: str, *overrides: str, stop: int | None = None) -> Path:
        out = tmp_path / name
        if holds_run(out):
            config = resume(out, compose([*overrides_of(out), f"resume={out}", *overrides]))
            checkpoint = cut_back(out, config)
        else:
            out.mkdir()
            typed = [*SMALL, "tracking=none", "save_steps=null", *overrides]
            config, checkpoint = compose(typed), None
            save_settings(out, config, typed)
        at[:] = [stop] if stop else []
        if stop:
            with pytest.raises(Stopped):
                run(config, out, checkpoint=checkpoint)
            assert not (out / "results.json").exists()
        else:
            run(config, out, checkpoint=checkpoint)
        return out

    return call


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same(first: Path, second: Path) -> None:
    assert differences(first, second) == []
    said = [(out / "transcripts.jsonl").read_text() for out in (first, second)]
    assert said[0] == said[1]
    tables = [sorted((out / "completions").iterdir()) for out in (first, second)]
    assert [path.name for path in tables[0]] == [path.name for path in tables[1]]
    for paths in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(*map(pd.read_parquet, paths))


# What is set, and after which steps the run is stopped.
CASES: dict[str, tuple[list[str], list[int]]] = {
    "accumulation": (["max_steps=4", "micro_batch_size=2"], [1]),
    "epochs": (["max_steps=10", "data.train_problems=8", "eval_steps=3", "data.validation_problems=4"], [4, 5, 9]),
    "iterations": (["max_steps=6", "algorithm.num_iterations=2", "micro_batch_size=4"], [3]),
    "steps a rollout": (["max_steps=6", "algorithm.steps_per_generation=2", "logging_steps=3"], [1, 5]),
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
        algorithm: ([f"algorithm={algorithm}", "max_steps=4", "algorithm.num_iterations=2"], [1, 2])
        for algorithm in options("algorithm")
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
    whole = runs("whole", *overrides)
    first, *others = stops
    runs("stopped", *overrides, stop=first)
    for stop in others:
        runs("stopped", stop=stop)
    assert_same(runs("stopped"), whole)
    assert len(lines(whole)) > 1


def test_a_kill_loses_no_more_than_the_steps_since_the_checkpoint(runs) -> None:
    whole = runs("whole", "max_steps=5", "save_steps=2")
    # As a kill leaves it while step 6 of more steps is written down.
    out = runs("killed", "max_steps=5", "save_steps=2")
    (out / "results.json").unlink()
    (out / "checkpoints" / "checkpoint-5").rename(out / "checkpoints" / "partial")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')
    assert_same(runs("killed"), whole)
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["checkpoint-4", "checkpoint-5"]


def test_a_run_without_a_checkpoint_starts_anew_in_its_folder(runs, capsys) -> None:
    whole = runs("whole")
    out = runs("killed")
    (out / "results.json").unlink()
    assert_same(runs("killed"), whole)
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
def test_damaged_records_are_put_back(unbroken, tmp_path, monkeypatch, record: str, harm: str) -> None:
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
    config = resume(out, compose([*overrides_of(out), f"resume={out}"]))
    assert not is_done(out, config)
    run(config, out, checkpoint=cut_back(out, config))
    assert_same(out, unbroken)
    assert json.loads((out / "provenance.json").read_text())["resumed"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    out.mkdir()
    typed = [*SMALL, "tracking=none"]
    save_settings(out, compose(typed), typed)
    run(compose(typed), out)
    return out


def test_completions_that_are_gone_are_named(unbroken, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "completions" / "step_000001.parquet").unlink()
    cut_back(out, compose(overrides_of(out)))
    assert "1 files of completions/ are gone, step_000001.parquet the first" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["cut", "changed", "missing", "manifest", "empty"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(runs, capsys, harm: str) -> None:
    out = runs("run", "max_steps=4", "save_steps=1")
    whole = lines(out)
    newest = out / "checkpoints" / "checkpoint-4"
    assert damage(newest) is None
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
    found, damaged = newest_whole(out / "checkpoints")
    assert found == out / "checkpoints" / "checkpoint-3" and list(damaged) == [newest]
    (out / "results.json").unlink()
    runs("run")
    said = capsys.readouterr().out
    assert "checkpoint-4 is damaged (" in said and "Going on from step 3." in said
    assert [{**row, "step_time": 0} for row in lines(out)] == [{**row, "step_time": 0} for row in whole]
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["checkpoint-3", "checkpoint-4", "damaged-checkpoint-4"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optimizer.lr=1"],
            r"optimizer.lr=1.0: a run that goes on keeps its settings \(here 0.0002\); only max_steps",
        ),
        (["rewards=verbatim"], "a run that goes on keeps its settings"),
        (["num_generations=8"], "num_generations=8: a run that goes on keeps its settings"),
        (["max_steps=1"], "max_steps=1: the run is at step 2 already"),
        (["+rewards.verbatim_xmlcount=1"], "rewards.verbatim_xmlcount=1.0: a run that goes on keeps its settings"),
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
    whole = runs("whole", "max_steps=6", "optimizer.schedule=constant", "optimizer.warmup=0", "save_steps=2")
    assert differences(out, whole) == []

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("reward")] == [1, 2, 3, 4, 5, 6]
