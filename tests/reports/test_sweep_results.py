"""A sweep read from its folder: the names of its arms, its unfinished jobs, its baseline, damage."""

import json
import os

import pytest
from rich.console import Console

from grpo.core.errors import UserError
from grpo.reports.arms import PRIMARY_METRIC
from grpo.reports.baseline import choose_baseline
from grpo.reports.sweep_findings import verdict
from grpo.reports.sweep_results import read_sweep
from grpo.reports.sweep_tables import sweep_table
from tests.helpers.made_up import RIGHT, made_up, made_up_sweep, plan


@pytest.mark.parametrize(
    "runs,names",
    [
        # What follows from a setting, and what is the same for all, names nothing.
        (
            [
                ["num_generations=4", "prompts_per_step=16", "max_steps=5", "seed=0"],
                ["num_generations=8", "prompts_per_step=16", "max_steps=5", "seed=0"],
            ],
            ["num_generations=4", "num_generations=8"],
        ),
        # What is not typed has its value from the settings, a group its file.
        ([["rewards=no_format"], ["seed=1"], ["+rewards=default", "seed=2"]], None),
        (
            [["rewards=no_xmlcount", "seed=0"], ["num_generations=8"], []],
            [
                "rewards=no_xmlcount num_generations=16",
                "rewards=default num_generations=8",
                "rewards=default num_generations=16",
            ],
        ),
        # One value in two ways of writing; what does not touch the numbers.
        ([["optimizer.lr=2e-4", "threads=1", "tracking=none"], ["optimizer.lr=0.0002", "seed=1"]], ["all runs"]),
        # Typed settings that do not distinguish the arms: all settings are used.
        ([["+experiment=a", "max_steps=7"], ["+experiment=a", "max_steps=7", "num_generations=4"]], None),
        ([["reward_files=[]"], ["+rewards.int2=0.1", "seed=1"]], None),
    ],
)
def test_an_arm_is_named_by_the_typed_settings(tmp_path, runs, names) -> None:
    for number, overrides in enumerate(runs):
        typed = [each for each in overrides if each not in ("+rewards.int2=0.1", "+rewards=default")]
        folder = made_up(tmp_path / str(number), *typed)
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
        if "+rewards.int2=0.1" in overrides:
            config = (folder / ".hydra" / "config.yaml").read_text()
            (folder / ".hydra" / "config.yaml").write_text(config.replace("  int: 1.0", "  int: 1.0\n  int2: 0.1"))
    sweep = read_sweep(tmp_path)
    found = [setting.name for setting in sweep.arms]
    if names is not None:
        assert found == names
    elif "rewards=no_format" in runs[0]:
        assert found == ["rewards=no_format", "rewards=default"] and list(sweep.arms[1].runs) == [1, 2]
    elif "max_steps=7" in runs[0]:
        assert found == ["num_generations=16", "num_generations=4"]
    else:
        assert found == ["rewards.int2=not set", "rewards.int2=0.1"]


def test_an_expression_is_not_a_factor(tmp_path) -> None:
    for number, k in enumerate((4, 8)):
        folder = made_up(tmp_path / str(number), f"num_generations={k}", f"prompts_per_step={64 // k}")
        typed = [f"num_generations={k}", "prompts_per_step=${divide:64,${num_generations}}"]
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(typed))
    assert read_sweep(tmp_path).factors == ["num_generations"]


def test_jobs_are_in_numerical_order_and_repeats_are_listed(tmp_path) -> None:
    for number in (9, 10, 11):
        made_up(tmp_path / str(number), f"num_generations={number}")
    made_up(tmp_path / "later" / "3", "num_generations=10", right=0.75)
    os.utime(tmp_path / "10" / "results.json", (0, 0))
    sweep = read_sweep(tmp_path)
    assert [setting.name for setting in sweep.arms] == [f"num_generations={n}" for n in (9, 10, 11)]
    assert sweep.repeated == [("10", "later/3")] and sweep.arms[1].values(PRIMARY_METRIC) == {0: 0.75}


def test_unfinished_jobs_are_named_with_the_reason(tmp_path) -> None:
    folder = made_up_sweep(tmp_path, RIGHT)
    plan(folder, *(f"{name} seed={seed}" for name in [*RIGHT, "num_generations=32"] for seed in (0, 1, 2)))
    (folder / "0" / "results.json").unlink()
    (folder / "4" / "results.json").unlink()
    (folder / "4" / "error.txt").write_text("out of memory\nlower micro_batch_size\n")
    (folder / "5" / "results.json").write_text("{}")
    (folder / "12").mkdir()
    (folder / "12" / "error.txt").write_text("num_generations=32: refused")
    sweep = read_sweep(folder)
    assert [(job.folder, job.state) for job in sweep.unfinished] == [
        ("0", "unfinished"),
        ("4", "failed"),
        ("5", "damaged"),
        ("12", "failed"),
        ("13", "not started"),
        ("14", "not started"),
    ]
    assert sweep.unfinished[0].reason == "interrupted, or still running: 10 steps logged"
    assert sweep.unfinished[1].reason == "out of memory\nlower micro_batch_size"
    assert sweep.job_count == 15 and verdict(sweep).endswith("6 of 15 jobs are missing from this.")
    assert list(choose_baseline(sweep, None).runs) == [1, 2]
    console = Console(width=80, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    console.print(sweep_table(sweep))
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= 80
    for text in ("baseline", "95% interval", "Holm p", "12  failed", "refused", "2  not started  13, 14"):
        assert text in said


def test_part_of_its_name_selects_the_baseline(tmp_path) -> None:
    sweep = read_sweep(made_up_sweep(tmp_path, RIGHT))
    names = list(RIGHT)
    assert choose_baseline(sweep, None).name == names[0]
    assert choose_baseline(sweep, names[3]).name == names[3]
    assert choose_baseline(sweep, "optimizer.lr=3e-4 num_generations=4").name == names[1]
    with pytest.raises(UserError, match="2 arms match; name one: num_generations=4 optimizer.lr=0.0001; "):
        choose_baseline(sweep, "num_generations=4")
    with pytest.raises(UserError, match=r"no arm of this sweep matches\..*Known: num_generations=16 "):
        choose_baseline(sweep, "num_generations=5")


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"jobs": [{"folder": "0"}]}', '{"jobs": [{"folder": "../x", "name": "", "overrides": []}]}']
)
def test_a_damaged_sweep_file_is_named(tmp_path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        read_sweep(tmp_path)
