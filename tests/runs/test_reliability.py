"""Signals, full disks, dead trackers, bad numbers, scarce memory: what a run does about each. docs/resume.md."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from grpo.core.errors import UserError
from grpo.runs.reproduction import numeric_differences
from tests.conftest import LONG, SMALL, surroundings, wandb_records
from tests.helpers import fake_wandb
from tests.helpers.runs import assert_same, lines


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_ends_a_run_after_its_step_and_saves_it(start, slow, tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    run = start(*LONG, "tracking=wandb", "hydra.run.dir=run")
    run.until("training 3/12")
    # As a terminal and Slurm do it, to all processes of the group: W&B's own must not lose what it holds.
    (os.killpg if name == "SIGINT" else os.kill)(run.pid, number)
    began = time.monotonic()
    assert run.ended() == 128 + number
    assert time.monotonic() - began < 13
    notice = f"{name}: finishing the step, then saving; a second one stops at once."
    assert notice in run.complained() and notice in (tmp_path / "run" / "train.log").read_text()
    steps = [line["step"] for line in lines(tmp_path / "run") if "reward" in line]
    again = "To resume: python -m grpo.train resume=run"
    assert f"Stopped by {name} after step {steps[-1]} of 12. {again}" in run.complained()
    assert "Traceback" not in run.complained()
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{steps[-1]}" and not (tmp_path / "run" / "results.json").exists()
    records, _ = wandb_records(tmp_path / "run")
    assert sum("history" in record for record in records) == len(steps)
    assert [record["exit"]["exit_code"] for record in records if "exit" in record] == [128 + number]

    if name == "SIGTERM":
        assert start("resume=run").ended() == 0
        assert start(*LONG, "tracking=none", "hydra.run.dir=unstopped").ended() == 0
        assert_same(tmp_path / "run", tmp_path / "unstopped")


def test_a_second_signal_ends_it_at_once(start, slow) -> None:
    run = start(*LONG, "tracking=none", "hydra.run.dir=run")
    run.until("training 2/12")
    os.kill(run.pid, signal.SIGTERM)
    run.until("a second one stops at once", stream="stderr")  # two pending signals would be one
    os.kill(run.pid, signal.SIGTERM)
    assert run.ended() == 128 + signal.SIGTERM
    assert "Stopped by" not in run.complained()


@pytest.mark.parametrize("moment", ["folder  run", "evaluating before training"])
def test_a_signal_before_the_first_step(start, slow, tmp_path: Path, moment: str) -> None:
    run = start(*LONG, "data.eval_problems=1500", "tracking=none", "hydra.run.dir=run")
    run.until(moment)
    os.kill(run.pid, signal.SIGTERM)
    assert run.ended() == 128 + signal.SIGTERM
    began = (tmp_path / "run").exists()  # the directory of a run that was only being prepared is removed
    advice = "To resume: python -m grpo.train resume=run" if began else "Nothing was written."
    assert f"Stopped by SIGTERM. {advice}" in run.complained()
    assert began or moment == "folder  run"
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_signal_in_the_last_evaluation_loses_nothing(start, tmp_path: Path) -> None:
    settings = [*SMALL, "save_steps=null", "data.eval_problems=600", "threads=1", "tracking=none"]
    run = start(*settings, "hydra.run.dir=run")
    run.until("evaluating after training")
    os.kill(run.pid, signal.SIGTERM)
    assert run.ended() == 128 + signal.SIGTERM
    assert start("resume=run").ended() == 0
    assert [line["step"] for line in lines(tmp_path / "run") if "reward" in line] == [1, 2]
    assert start(*settings, "hydra.run.dir=unstopped").ended() == 0
    assert_same(tmp_path / "run", tmp_path / "unstopped")


def test_two_runs_in_one_folder(start, slow, light, tmp_path: Path) -> None:
    run = start(*LONG, "tracking=none", "hydra.run.dir=run")
    run.until("training 2/12")
    for arguments in ([*LONG, "hydra.run.dir=run", "seed=5"], ["resume=run"]):
        other = light("grpo.train", *arguments)
        assert other.returncode == 1
        assert other.stderr.startswith("error: run is in use by another run; wait for that, or give this one another")
    os.kill(run.pid, signal.SIGKILL)
    assert run.ended() == -signal.SIGKILL
    # The lock went with the process, and the settings are those of the first.
    other = light("grpo.train", *LONG, "hydra.run.dir=run", "seed=5")
    assert other.returncode == 1
    assert "run holds a run already. To resume it: python -m grpo.train resume=run." in other.stderr
    before = {path: path.read_bytes() for path in (tmp_path / "run" / ".hydra").iterdir()}
    run = start("resume=run")
    run.until("training")
    os.kill(run.pid, signal.SIGKILL)
    run.ended()
    assert {path: path.read_bytes() for path in (tmp_path / "run" / ".hydra").iterdir()} == before
    origin = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert [(each["command"], each["step"]) for each in origin["resumed"]] == [("python -m grpo.train resume=run", 0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["resume=nowhere"],
            "nowhere is not a run directory: it does not exist; give the one that a run named at its end",
        ),
        (["-m", "resume=run", "seed=0,1"], "resume: resumes one run. To resume a sweep, type its command again"),
        (["resume="], "resume=: give the folder of a run"),
        (["resume=sweep", "hydra.run.dir=x"], "hydra.run.dir=x: with resume=FOLDER a run stays in FOLDER"),
        (["resume=sweep"], "sweep is the folder of a sweep: type the sweep's command again"),
        (
            ["save_total_limit=1"],
            "save_total_limit=1: must be between 2 and 10,000,000: if one checkpoint is damaged, another",
        ),
        (["on_nonfinite=go"], "on_nonfinite=go: must be one of stop, skip."),
    ],
)
def test_mistakes(light, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    done = light("grpo.train", *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert message in done.stderr


def test_no_space_left_stops_the_save_and_not_the_run(start, tmp_path: Path) -> None:
    # No file may grow beyond what is set here, in steps 3 to 6: as on a full disk, but for its error's number.
    (tmp_path / "full.py").write_text(
        "import resource\nfrom grpo.rewards import reward\n\ncalls = 0\n\n\n"
        "@reward\ndef full(completions):\n    global calls\n    calls += 1\n"
        "    most = 200_000 if 4 <= calls <= 7 else resource.RLIM_INFINITY\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))\n"
        "    return [0.0] * len(completions)\n"
    )
    settings = [*SMALL[1:], "max_steps=7", "save_steps=2", "reward_files=[full.py]", "+rewards.full=0", "tracking=none"]
    run = start(*settings, "hydra.run.dir=run")
    assert run.ended() == 0, run.complained()
    for step in (4, 6):
        assert f"No checkpoint of step {step}: it could not be written" in run.said()
    assert "Training continues, and earlier checkpoints stay." in run.said()
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "checkpoint-2",
        "checkpoint-7",
    ]
    assert [line["step"] for line in lines(tmp_path / "run") if "reward" in line] == list(range(1, 8))


def test_wandbs_service_killed_in_mid_run(slow, tmp_path: Path) -> None:
    # The command itself, to its very end: W&B has hooks there. Two jobs, of which the second has a service again.
    train = [sys.executable, "-m", "grpo.train", "-m", "seed=0,1", *LONG, "max_steps=6", "hydra.sweep.dir=sweep"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = subprocess.Popen(train, cwd=tmp_path, env=surroundings(), text=True, **pipes)
    assert run.stdout
    written = tmp_path / "sweep" / "0" / "metrics.jsonl"
    while not written.exists() or written.read_text().count("\n") < 3:
        time.sleep(0.05)
    (service,) = [child for child in psutil.Process(run.pid).children() if child.name() == "wandb-core"]
    service.kill()
    _, complained = run.communicate(timeout=120)
    assert run.returncode == 0, complained
    said = [(tmp_path / "sweep" / job / "train.log").read_text() for job in "01"]
    assert [each.count("Tracking with wandb has failed") for each in said] == [1, 0]
    assert "Traceback" not in complained
    for job in "01":
        steps = [line["step"] for line in lines(tmp_path / "sweep" / job) if "reward" in line]
        assert steps == list(range(1, 7)) and (tmp_path / "sweep" / job / "results.json").exists()
    records, _ = wandb_records(tmp_path / "sweep" / "1")
    assert sum("history" in record for record in records) == 6


def test_wandbs_folder_full_in_mid_run(start, tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(
        "import shutil\nfrom pathlib import Path\nfrom grpo.rewards import reward\n\ncalls = 0\n\n\n"
        "@reward\ndef gone(completions):\n    global calls\n    calls += 1\n"
        "    if calls == 2:\n        shutil.rmtree('run/wandb')\n        Path('run/wandb').touch()\n"
        "    return [0.0] * len(completions)\n"
    )
    settings = [*SMALL[1:], "max_steps=8", "reward_files=[gone.py]", "+rewards.gone=0", "tracking.completions_every=1"]
    run = start(*settings, "tracking=wandb", "hydra.run.dir=run")
    assert run.ended() == 0, run.complained()
    assert run.said().count("Tracking with wandb has failed") == 1
    assert [line["step"] for line in lines(tmp_path / "run") if "reward" in line] == list(range(1, 9))


def test_wandb_keeps_its_run_and_gets_what_it_missed(start, slow, tmp_path: Path) -> None:
    run = start(*LONG, "save_steps=2", "tracking=wandb", "hydra.run.dir=run")
    run.until("training 6/12")
    os.kill(run.pid, signal.SIGKILL)
    assert run.ended() == -signal.SIGKILL
    assert start("resume=run").ended() == 0
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))  # by the time in their names
    assert len(folders) == 2 and len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folders[-1])]
    records = [json.loads(line) for line in subprocess.run(inspect, capture_output=True, text=True).stdout.splitlines()]
    steps = [record["history"]["item"]["_step"] for record in records if "history" in record]
    assert steps == list(range(1, 13))


NAN = """
import torch
from grpo.rewards import reward

calls = 0


@reward
def bad(completions):
    global calls
    calls += 1
    return [float("{value}") if calls == 3 and not i else 0.0 for i in range(len(completions))]
"""


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_reward_that_is_not_finite_stops_the_run(train, tmp_path: Path, value: str) -> None:
    (tmp_path / "bad.py").write_text(NAN.format(value=value))
    with pytest.raises(UserError, match=f"step 2: reward 'bad' returned {value}; a reward is a finite number") as error:
        train("max_steps=4", "save_steps=1", f"reward_files=[{tmp_path / 'bad.py'}]", "+rewards.bad=1")
    assert "run/nonfinite/step_000002" in str(error.value) and "on_nonfinite=skip" in str(error.value)
    batch = torch.load(tmp_path / "run" / "nonfinite" / "step_000002" / "batch.pt", weights_only=True)
    assert len(batch["completion"]) == 8
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-1"]
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_reward_that_is_not_finite_skips_the_step(train, tmp_path: Path, capsys) -> None:
    (tmp_path / "bad.py").write_text(NAN.format(value="nan"))
    settings = [f"reward_files=[{tmp_path / 'bad.py'}]", "+rewards.bad=1", "alarm_window=2"]
    out, results = train("max_steps=4", "on_nonfinite=skip", "optimizer.weight_decay=0.1", *settings)
    assert results["steps"] == 4
    assert "Step 2 is skipped: reward 'bad' returned nan" in capsys.readouterr().out
    rows = [line for line in lines(out) if "reward" in line]
    assert [row["reward"] is None for row in rows] == [False, True, False, False]
    assert all(row["grad_norm"] is not None for row in rows if row["step"] != 2)


@pytest.fixture
def broken_loss(monkeypatch):
    """The loss of the second step is not a number, as after an overflow."""
    from grpo.training.trainer import Trainer

    compute = Trainer._compute_loss

    def broken(self, model, inputs):
        loss = compute(self, model, inputs)
        return loss * float("nan") if self.state.global_step == 1 else loss

    monkeypatch.setattr(Trainer, "_compute_loss", broken)


def test_a_loss_that_is_not_finite_stops_the_run(train, tmp_path: Path, broken_loss) -> None:
    with pytest.raises(UserError, match="step 2: the loss is nan and the norm of its gradient nan"):
        train("max_steps=4", "save_steps=1")
    folder = tmp_path / "run" / "nonfinite" / "step_000002"
    found = json.loads((folder / "statistics.json").read_text())["tensors"]
    assert found["inputs/0/completion_ids"]["not_finite"] == 0
    gradient = found["gradient/model.layers.0.mlp.up_proj.weight"]
    assert gradient["not_finite"] == gradient["shape"][0] * gradient["shape"][1]
    assert found["weight/model.norm.weight"].keys() == {"shape", "dtype", "not_finite", "min", "mean", "max"}
    batch = torch.load(folder / "batch.pt", weights_only=True)
    assert batch["inputs"][0]["completion_ids"].shape[0] == 8
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-1"]


def test_a_loss_that_is_not_finite_skips_the_step(train, tmp_path: Path, broken_loss) -> None:
    out, _ = train(
        "max_steps=4", "save_steps=1", "on_nonfinite=skip", "optimizer.weight_decay=0.1", "save_total_limit=null"
    )
    rows = [line for line in lines(out) if "reward" in line]
    assert [row["loss"] is None for row in rows] == [False, True, False, False]
    from safetensors.torch import load_file

    weights = [load_file(out / "checkpoints" / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    alarms = [line["message"] for line in lines(out) if line.get("alarm") == "not_finite"]
    assert alarms == [
        "loss is nan at step 2: such steps are skipped (on_nonfinite=skip). Lower optimizer.lr or optimizer.max_grad_norm."
    ]


@pytest.mark.parametrize(
    ("where", "settings", "message"),
    [
        (
            "_get_per_token_logps_and_entropies",
            ["micro_batch_size=8"],
            r"out of memory at step 1 with 8 completions at once \(2 prompts x 4 completions = 8 per step, 1 x 8\). "
            r"micro_batch_size=4 takes the same optimizer steps in smaller micro-batches: 2 prompts x 4 completions = 8 per step, 2 x 4.",
        ),
        (
            "_get_per_token_logps_and_entropies",
            ["micro_batch_size=1"],
            "1 x 1|activation_checkpointing=true needs less",
        ),
        ("_generate_single_turn", [], "out of memory at step 1 while sampling all 8 completions of the batch"),
    ],
)
def test_out_of_memory_names_the_next_smaller_micro_batch(train, monkeypatch, where, settings, message) -> None:
    from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
    from grpo.training.trainer import Trainer

    def exhausted(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    if where == "_generate_single_turn":  # the sampler answers the held-out problems first
        monkeypatch.setattr(
            PrefixSharingSampler,
            "complete",
            lambda self, prompts, limit, temperature=None, seeds=None: (
                exhausted() if temperature else [[3]] * len(prompts)
            ),
        )
    else:
        monkeypatch.setattr(Trainer, where, exhausted)
    with pytest.raises(UserError, match=message):
        train(*settings)


def test_provenance(start, tmp_path: Path) -> None:
    assert start(*SMALL, "tracking=wandb", "hydra.run.dir=run").ended() == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    origin = results["provenance"]
    revision = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    if revision.returncode == 0:
        assert origin["code"]["revision"] == revision.stdout.strip()
        assert origin["code"]["clean"] != (tmp_path / "run" / "git.diff").exists()
    assert origin["command"].startswith("python -m grpo.train max_steps=2 num_generations=4")
    assert origin["versions"]["trl"] and origin["hardware"]["cores"] and origin["hardware"]["cpu"]
    assert origin["data"]["train"]["n"] == 20 and len(origin["data"]["held_out"]["sha256"]) == 64
    assert origin["model"]["path"] == "embedded:tiny" and len(origin["model"]["sha256"]) == 64
    assert origin["settings"]["optimizer"]["lr"] == 2e-4
    records, _ = wandb_records(tmp_path / "run")
    (config,) = [record["run"]["config"]["update"] for record in records if record["type"] == "run"]
    assert "provenance" in str(config) and origin["model"]["sha256"] in str(config)


def test_reproduce(start, forked, tmp_path: Path) -> None:
    for name in ("run", "again"):
        assert start(*SMALL, "max_steps=4", "tracking=none", f"hydra.run.dir={name}").ended() == 0
    assert numeric_differences(tmp_path / "run", tmp_path / "again") == []
    done = forked("grpo.reproduce", "run", "--out", "third")
    assert done.returncode == 0, done.stderr
    assert "The same numbers as run, to the last bit: metrics, evaluations, weights." in done.stdout

    rows = lines(tmp_path / "run")
    next(row for row in rows if row["step"] == 2 and "loss" in row)["loss"] += 1e-9
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    results["provenance"]["versions"]["trl"] = "1.15.0"
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    done = forked("grpo.reproduce", "run")
    assert done.returncode == 1
    assert "Changed since that run: versions trl: was 1.15.0, is " in done.stdout
    assert "NOT the same numbers as run:" in done.stdout and "step 2, loss: " in done.stdout

    (tmp_path / "run" / "results.json").unlink()
    done = forked("grpo.reproduce", "run")
    assert done.returncode == 2 and "run holds a run that was not finished" in done.stderr
    done = forked("grpo.reproduce", "nowhere")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_completions_are_read_back_from_every_step(train) -> None:
    out, _ = train("max_steps=3")
    assert [len(pd.read_parquet(path)) for path in sorted((out / "completions").iterdir())] == [8, 8, 8]


def test_an_online_run_keeps_its_id_and_gets_what_it_missed(start, slow, tmp_path: Path) -> None:
    with fake_wandb.running() as service:
        online = {"WANDB_API_KEY": fake_wandb.KEY, "WANDB_BASE_URL": service.url}
        run = start(
            *LONG, "save_steps=2", "tracking=wandb", "tracking.completions_rows=0", "hydra.run.dir=run", **online
        )
        run.until("training 9/12")
        os.kill(run.pid, signal.SIGTERM)
        assert run.ended() == 128 + signal.SIGTERM
        ((name, rows),) = service.history.items()
        assert service.exit_codes == {name: [128 + signal.SIGTERM]}
        # As if the newest had never reached it.
        del rows[3:]
        assert start("resume=run", **online).ended() == 0
        assert list(service.history) == [name]
        assert [row["_step"] for row in rows] == list(range(1, 13))
        logged = {row["step"]: row["loss"] for row in lines(tmp_path / "run") if "loss" in row}
        assert {row["_step"]: row["loss"] for row in rows} == logged
        assert service.exit_codes[name] == [128 + signal.SIGTERM, 0]


def test_wandb_out_of_reach_in_mid_run(start, slow, tmp_path: Path) -> None:
    with fake_wandb.running() as service:
        online = {"WANDB_API_KEY": fake_wandb.KEY, "WANDB_BASE_URL": service.url}
        run = start(*LONG, "tracking=wandb", "hydra.run.dir=run", **online)
        run.until("training 2/12")
        service.reachable = False
        run.until("Everything is in run", seconds=20)  # a table waits for the service longer than that
        began = time.monotonic()
        assert run.ended() == 0, run.complained()
        assert time.monotonic() - began < 14
        assert run.said().count("Tracking with wandb has failed") == 1
        assert [line["step"] for line in lines(tmp_path / "run") if "reward" in line] == list(range(1, 13))
