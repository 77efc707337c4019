"""The files of examples/: their commands train the embedded policy, and the agent of W&B and Slurm start what they say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import yaml

from grpo.config.composition import compose
from grpo.core.errors import UserError
from scripts.draw_workspace import draw, names_of, read_offline_run
from scripts.wandb_workspace import sections
from tests.conftest import SMALL

EXAMPLES = Path(__file__).parents[1] / "examples"


def commands() -> list[list[str]]:
    """The arguments of `python -m grpo.train` in examples/README.md."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    return [line.split() for line in re.findall(r"^python -m grpo\.train (.+)$", text, re.MULTILINE)]


def test_every_file_is_described_and_its_link_leads_to_it() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = {f"{path.name}/" if path.is_dir() else path.name for path in EXAMPLES.iterdir()}
    assert {link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("..")} == files - {
        "README.md",
        "__pycache__/",
    }


@pytest.mark.parametrize("typed", commands(), ids=lambda typed: typed[0])
def test_a_command_trains(train, typed: list[str]) -> None:
    at_home = [word.replace("examples/", f"{EXAMPLES}/") for word in typed]
    small = ["data.train_problems=null", "data.eval_problems=null"] if "data=files" in typed else []
    out, results = train(*small, *at_home)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if "loss" in row]) == 2
    for name in ("equations", "brevity"):
        assert (f"rewards/{name}/mean" in rows[0]) == any(f"rewards.{name}=" in word for word in typed)
    if "data=files" in typed:
        assert results["problems"]["held_out"] == 4


def test_the_page_about_tracking_shows_the_sweep_file() -> None:
    shown = re.findall(r"```yaml\n(.+?)```", (EXAMPLES.parent / "docs" / "tracking.md").read_text(), re.DOTALL)
    assert len(shown) == 1 and (EXAMPLES / "wandb_sweep.yaml").read_text().endswith(shown[0])


def agent_commands(monkeypatch, folder: Path) -> list[list[str]]:
    """The commands that W&B's agent starts for the grid of the sweep file, as the agent itself builds them."""
    from wandb import wandb_agent

    started: list[list[str]] = []

    class Recorded:
        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", Recorded)
    monkeypatch.chdir(folder)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them
        monkeypatch.setenv(name, "")
    sweep = yaml.safe_load((EXAMPLES / "wandb_sweep.yaml").read_text())
    grid = [{}]
    for name, parameter in sweep["parameters"].items():
        grid = [each | {name: {"value": value}} for each in grid for value in parameter["values"]]
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep")
    agent._sweep_command = sweep["command"]
    for number, args in enumerate(grid):
        agent._command_run({"run_id": f"run{number}", "program": sweep["program"], "args": args})
    return started


def test_the_agent_of_wandb_starts_runs(monkeypatch, tmp_path, forked) -> None:
    started = agent_commands(monkeypatch, tmp_path)
    assert len(started) == 9
    assert {tuple(command[:4]) for command in started} == {("/usr/bin/env", "python", "-m", "grpo.train")}
    for command in started[::3]:  # one for each K
        config = compose([word for word in command[4:] if not word.startswith("hydra.")])
        assert config.num_generations * config.prompts_per_step == 64
    small = [word for word in SMALL if not word.startswith(("num_generations", "prompts_per_step"))]
    environment = {"WANDB_MODE": "offline", "WANDB_RUN_ID": "run0", "WANDB_SWEEP_ID": "sweep"}
    done = forked("grpo.train", *started[0][4:], *small, **environment)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "outputs" / "wandb" / "run0"
    assert json.loads((out / "results.json").read_text())["after"]
    assert [folder.name.rpartition("-")[2] for folder in (out / "wandb").glob("offline-run-*")] == ["run0"]

    rows, summary = read_offline_run(out)
    (mean,) = [panel for part in sections() for panel in part.panels if getattr(panel, "title", "").startswith("Mean")][
        :1
    ]
    assert "rewards/correctness/mean" in names_of(mean, {name for row in rows for name in row})
    assert "after/accuracy_strict" in summary
    draw(out, tmp_path / "panels.png")
    assert matplotlib.image.imread(tmp_path / "panels.png").shape[1] == 1080
    with pytest.raises(UserError, match="has no offline run of W&B"):
        draw(tmp_path, tmp_path / "none.png")


@pytest.fixture
def sbatch(tmp_path):
    """Run slurm.sh as Slurm would, with commands that record their arguments; python ends with the given code."""
    commands = tmp_path / "bin"
    commands.mkdir()
    bodies = {
        "srun": 'exec "$@"',
        "scontrol": 'echo "scontrol $*" >> calls',
        "python": 'echo "python $*" >> calls; exit "$CODE"',
    }
    for name, body in bodies.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)

    def call(*arguments: str, code: int) -> tuple[int, list[str]]:
        (tmp_path / "calls").unlink(missing_ok=True)
        environment = {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "CODE": str(code)}
        done = subprocess.run(["bash", EXAMPLES / "slurm.sh", *arguments], cwd=tmp_path, env=environment)
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return call


def test_the_slurm_script_trains_and_resumes_itself(sbatch, forked, tmp_path) -> None:
    subprocess.run(["bash", "-n", EXAMPLES / "slurm.sh"], check=True)
    typed = "python -m grpo.train hydra.run.dir=outputs/slurm-7"
    small = [*SMALL, "tracking=none"]
    assert sbatch(*small, code=1) == (1, [f"{typed} {' '.join(small)}"])
    stopped = sbatch(*small, code=140)  # by SIGUSR2, as the settings of sbatch ask for
    assert stopped == (140, [f"{typed} {' '.join(small)}", "scontrol requeue 7"])
    done = forked("grpo.train", *stopped[1][0].split()[3:])
    assert done.returncode == 0, done.stderr
    assert sbatch(*small, code=0) == (0, ["python -m grpo.train resume=outputs/slurm-7"])


def test_the_problems_are_solved_as_they_say() -> None:
    rows = [json.loads(line) for file in (EXAMPLES / "problems").iterdir() for line in file.read_text().splitlines()]
    assert len({row["question"] for row in rows}) == 20
    for row in rows:
        steps, gold = row["answer"].split(" #### ")
        results = [re.fullmatch(r"(.+)=(\d+)", step).groups() for step in steps.split()]
        assert all(eval(left) == int(right) for left, right in results), row
        assert results[-1][1] == gold


def test_the_rewards_score_as_they_say() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import my_rewards as r; "
        "print(r.equations('3*4=12 and 2+2=5'), r.equations('12'), r.brevity('x' * 50), r.brevity('x' * 500))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.5", "0.0", "0.75", "0.0"]
