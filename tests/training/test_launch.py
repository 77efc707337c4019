"""Runs of several processes on the CPU with gloo.

What the launcher has a part in starts as a user starts it, by `accelerate launch`. Elsewhere the processes are forked,
with the environment that accelerate gives them; that saves the seconds of their imports.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.core import distributed
from grpo.core.errors import UserError
from grpo.core.metric_names import is_time
from grpo.policy.requirements import check_device
from grpo.runs.checkpoints import newest_complete_checkpoint
from tests.conftest import SMALL, Process, surroundings

DDP = Path(__file__).parents[2] / "scripts" / "accelerate" / "ddp.yaml"
STEPS = [*SMALL[1:], "tracking=none", "save_steps=2", "optimizer.schedule=constant", "optimizer.warmup=0"]
STEPS += ["eval_samples=2"]


def command(processes: int, *arguments: str) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "grpo.train", *arguments]
    accelerate = str(Path(sys.executable).parent / "accelerate")
    return [accelerate, "launch", "--config_file", str(DDP), "--num_processes", str(processes), "--main_process_port",
            "0", "-m", "grpo.train", *arguments]  # fmt: skip


@contextmanager
def started(processes: int, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = surroundings() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(
        command(processes, *arguments),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            each.kill()


def run(processes: int, folder: Path, *arguments: str) -> tuple[int, str]:
    with started(processes, folder, *arguments) as process:
        said, _ = process.communicate(timeout=180)
    return process.returncode, said


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def forked_run(server) -> Run:
    """`run` with forked processes."""

    def call(processes: int, folder: Path, *arguments: str) -> tuple[int, str]:
        settings = {"OMP_NUM_THREADS": "1"} | (environment_of("ddp", processes) if processes > 1 else {})
        process = Process(server, folder, *arguments, processes=processes, **settings)
        return process.ended(), process.said() + process.complained()

    return call


def environment_of(name: str, processes: int) -> dict[str, str]:
    """The variables that `accelerate launch` sets by the file `name` in scripts/accelerate/."""
    file = DDP.with_name(f"{name}.yaml")
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(file), "--num_processes", str(processes), "-m", "grpo.train", "experiment=gsm8k"]
    )
    arguments, defaults, _ = _validate_launch_command(arguments)
    assert (arguments.num_processes, arguments.mixed_precision, arguments.module) == (processes, "no", True)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, environment = prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare_multi_gpu_env(arguments)
    return {key: value for key, value in environment.items() if os.environ.get(key) != value}


def trained(run: Run, processes: int, folder: Path, *arguments: str) -> tuple[Path, str]:
    """A run's folder, and what was said."""
    folder.mkdir(exist_ok=True)
    code, said = run(processes, folder, *STEPS, *arguments)
    assert code == 0, said
    (out,) = folder.glob("outputs/*-*-*/*")
    return out, said


def lines(out: Path) -> list[dict[str, Any]]:
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not is_time(name)} for line in metrics]


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, str]:
    """Four steps of two processes."""
    return trained(run, 2, tmp_path_factory.mktemp("two") / "here", "max_steps=4")


def test_two_processes_share_a_directory_and_the_main_process_prints(unbroken) -> None:
    out, said = unbroken
    assert "batch   2 prompts x 4 completions = 8 per step, 1 x 4 on 2 processes" in said
    for once in ("model   embedded:tiny", "\ntraining 4/4", "held-out problems, answered greedily", "Report: "):
        assert said.count(once) == 1, said
    assert results(out)["batch"]["world_size"] == 2 and results(out)["steps"] == 4
    assert [line["step"] for line in lines(out)] == [1, 2, 3, 4]
    assert len([*(out / "completions").iterdir()]) == 4 and (out / "report.html").is_file()
    assert results(out)["provenance"]["command"].startswith(f"accelerate launch --config_file {DDP}")
    assert {path.name for path in out.glob("checkpoints/*/run_state*")} == {"run_state_0.pt", "run_state_1.pt"}


def test_the_same_batch_on_1_2_and_4_processes(unbroken, forked_run, tmp_path) -> None:
    two, _ = unbroken
    one, _ = trained(forked_run, 1, tmp_path / "1", "max_steps=1")
    four, said = trained(forked_run, 4, tmp_path / "4", "max_steps=2", "num_generations=8")
    assert "2 prompts x 8 completions = 16 per step, 1 x 4 on 4 processes" in said
    # The held-out problems are shared out among the processes, and answered and sampled as by one.
    before = [results(out)["before"] for out in (one, two, four)]
    assert before[0] == before[1] == before[2] and before[0]["n"] == 4 and "pass@2" in before[0]
    samples = [pd.read_parquet(out / "evaluations" / "before_samples.parquet") for out in (one, two, four)]
    assert len(samples[0]) == 8 and all(samples[0]["completion"].equals(other["completion"]) for other in samples)
    code, said = forked_run(4, tmp_path, *STEPS, "num_generations=3", "prompts_per_step=2")
    assert (
        code
        and (
            "error: prompts_per_step=2 x num_generations=3 = 6 completions per step cannot be divided evenly among 4 "
            "processes. Nearest that can: prompts_per_step=4, or num_generations=2 or 4."
        )
        in said
    )
    assert "Traceback" not in said


def test_a_resumed_run_has_the_same_numbers(unbroken, forked_run, tmp_path) -> None:
    out, _ = trained(forked_run, 2, tmp_path / "a", "max_steps=2")
    again = f"resume={out}"
    code, said = forked_run(1, tmp_path, again, "max_steps=4")
    assert (
        code == 1
        and "was trained by 2 processes, each with random numbers of its own, and cannot be resumed by 1" in said
    )
    assert f"accelerate launch --config_file {DDP} --num_processes 2 -m grpo.train resume=" in said
    code, said = forked_run(2, tmp_path, again, "max_steps=4")
    assert code == 0, said
    assert "Resuming from step 2." in said
    assert lines(out) == lines(unbroken[0]) and results(out)["after"] == results(unbroken[0])["after"]


def test_a_mistake_ends_all_processes(forked_run, tmp_path) -> None:
    for arguments, message in (
        (["max_stepz=4"], "error: max_stepz: there is no such setting"),
        (["-m", "seed=0,1", "tracking=none"], "error: a sweep starts its jobs itself; type it without a launcher"),
    ):
        code, said = forked_run(2, tmp_path, *arguments)
        assert code and message in said, said
    code, said = forked_run(2, tmp_path, "--help")
    assert code == 0 and said.count("Train a policy with GRPO and show what changed.") == 1


REWARDS = """
import os, pathlib, time
from grpo.rewards import reward

calls = 0


@reward
def odd(completions):
    global calls
    calls += 1
    {what}
    return [0.0] * len(completions)
"""


def with_reward(folder: Path, what: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "odd.py").write_text(REWARDS.replace("{what}", what))
    # A process of two has nothing to evaluate.
    return [*STEPS, "reward_files=[odd.py]", "+rewards.odd=1", "data.eval_problems=1", "eval_samples=null"]


def test_a_rank_that_fails_ends_all_with_its_own_error(tmp_path) -> None:
    """Only in training are there calls on rank 1 alone that fail."""
    settings = with_reward(tmp_path, "assert os.environ['RANK'] == '0' or calls < 4, 'rank one is tired'")
    began = time.monotonic()
    code, said = run(2, tmp_path, *settings, "max_steps=50")
    assert code and time.monotonic() - began < 60
    assert "AssertionError: rank one is tired" in said
    assert "another process of this run has ended" in said or "closing signal SIGTERM" in said


@pytest.mark.slow
@pytest.mark.parametrize("handling", ["stop", "skip"])
def test_a_score_that_is_not_finite_on_one_rank(forked_run, tmp_path, handling: str) -> None:
    what = "if os.environ['RANK'] == '1' and calls == 4: return [float('nan')] * len(completions)"
    code, said = forked_run(2, tmp_path, *with_reward(tmp_path, what), "max_steps=5", f"on_nonfinite={handling}")
    (out,) = tmp_path.glob("outputs/*-*-*/*")
    (folder,) = out.glob("nonfinite/*")
    assert {path.name for path in folder.glob("batch*")} == {"batch_0.pt", "batch_1.pt"}
    assert re.search(r"(?i)step 3.* reward 'odd' returned nan", said), said
    assert (code == 0) == (handling == "skip"), said


SLOWLY = "time.sleep(0.3)"


def when_there_are(process: subprocess.Popen[str], folder: Path, steps: int) -> Path:
    end = time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        for metrics in folder.glob("outputs/*-*-*/*/metrics.jsonl"):
            if len(metrics.read_text().splitlines()) >= steps:
                return metrics.parent
        time.sleep(0.05)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
def test_a_signal_to_the_launcher(tmp_path) -> None:
    settings = [*with_reward(tmp_path, SLOWLY), "max_steps=100"]
    with started(2, tmp_path, *settings) as process:
        out = when_there_are(process, tmp_path, 3)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    checkpoint, damaged = newest_complete_checkpoint(out / "checkpoints")
    assert checkpoint and not damaged and "To resume: accelerate launch" in said
    assert int(checkpoint.name.partition("-")[2]) == len(lines(out))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_all_processes_while_the_launcher_is_killed(tmp_path, number: signal.Signals) -> None:
    """As Slurm and systemd end a job; and as the system does where memory runs out."""
    settings = [*with_reward(tmp_path, SLOWLY), "max_steps=100", "save_steps=null"]
    with started(2, tmp_path, *settings) as process:
        out = when_there_are(process, tmp_path, 3)
        ranks = [each for each in psutil.Process(process.pid).children() if "grpo.train" in each.cmdline()]
        for each in ranks if number == signal.SIGTERM else []:
            each.send_signal(number)
        process.send_signal(number)
        _, alive = psutil.wait_procs(ranks, timeout=25)
    assert not alive
    checkpoint, damaged = newest_complete_checkpoint(out / "checkpoints")
    assert checkpoint and not damaged and int(checkpoint.name.partition("-")[2]) == len(lines(out))


@pytest.mark.slow
def test_a_killed_process_leaves_no_orphan_and_a_complete_checkpoint(forked_run, tmp_path) -> None:
    settings = [*with_reward(tmp_path, SLOWLY), "max_steps=100"]
    with started(2, tmp_path, *settings) as process:
        out = when_there_are(process, tmp_path, 5)
        ranks = [each for each in psutil.Process(process.pid).children() if "grpo.train" in each.cmdline()]
        assert len(ranks) == 2
        ranks[1].kill()
        process.communicate(timeout=60)
    assert process.returncode and not any(each.is_running() for each in ranks)
    checkpoint, damaged = newest_complete_checkpoint(out / "checkpoints")
    assert checkpoint and not damaged
    (tmp_path / "odd.py").write_text(REWARDS.replace("{what}", "pass"))
    code, said = forked_run(2, tmp_path, f"resume={out}", "max_steps=8")
    assert code == 0 and [line["step"] for line in lines(out) if "alarm" not in line] == [*range(1, 9)], said


@pytest.mark.parametrize(
    "name, engine, sharded", [("ddp", None, False), ("fsdp2", "fsdp", True), ("zero2", "deepspeed", False), ("zero3", "deepspeed", True)]
)  # fmt: skip
def test_the_accelerate_files(name: str, engine: str | None, sharded: bool, monkeypatch) -> None:
    """Each as accelerate reads it, up to the start of the processes."""
    for key, value in environment_of(name, 4).items():
        monkeypatch.setenv(key, value)
    assert (distributed.sharding_engine(), distributed.weights_are_sharded()) == (engine, sharded)
    if engine == "fsdp":
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2 and plugin.reshard_after_forward and "FULL" in str(plugin.state_dict_type)
    # What the launcher asks for goes with a GPU alone, and on a CPU that is said.
    config = compose(["device=cpu"])
    if engine is None:
        check_device(config, derive_batch(16, 4, 64))
    else:
        with pytest.raises(UserError, match=f"device=cpu: {engine} is for GPUs"):
            check_device(config, derive_batch(16, 4, 64))


def test_fsdp_on_a_cpu_is_refused(tmp_path) -> None:
    environment = surroundings() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    words = [str(each).replace("ddp.yaml", "fsdp2.yaml") for each in command(2, *STEPS)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode and "error: device=cpu: fsdp is for GPUs." in done.stderr


@pytest.mark.slow
def test_a_sweep_of_runs_of_several_processes(unbroken, forked_run, tmp_path) -> None:
    spread = ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", "hydra.sweeper.parallel=1"]
    code, said = forked_run(1, tmp_path, "-m", *spread, *STEPS, "max_steps=4", "seed=0,1")
    assert code == 0, said
    jobs = sorted(path.parent for path in tmp_path.glob("outputs/sweeps/*/*/*/results.json"))
    assert [results(job)["batch"]["world_size"] for job in jobs] == [2, 2]
    assert lines(jobs[0]) == lines(unbroken[0]) != lines(jobs[1])
    code, said = forked_run(1, tmp_path, "-m", *spread, *STEPS, "max_steps=4", "seed=0", "reward_files=[none.py]")
    assert code and "none.py" in said
