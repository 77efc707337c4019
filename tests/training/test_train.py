"""Real runs on the embedded policy: what they leave behind, and how they refuse."""

import json
import re
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.config.groups import option_names
from grpo.core import device
from grpo.core.errors import UserError
from grpo.core.metric_names import is_time
from grpo.runs.reproduction import numeric_differences
from tests.conftest import SMALL, read_wandb
from tests.helpers.models import needs_bitsandbytes
from tests.helpers.runs import STACK, metrics

FIGURES = {"n", "accuracy_strict", "accuracy_flexible", "strict_format", "soft_format", "mean_completion_tokens"}


def test_what_a_run_leaves_behind(train) -> None:
    out, results = train()
    assert results["before"].keys() >= FIGURES and results["after"].keys() >= FIGURES
    assert (results["steps"], results["seed"], results["device"], results["before"]["n"]) == (2, 0, "cpu", 4)
    assert results["train_seconds"] > 0 and results["versions"]["trl"]
    assert 2**27 < results["peak_memory_bytes"]["resident"] < 2**37
    assert results["batch"]["per_device"] * results["batch"]["accumulation"] == 8
    assert results["examples"][0]["question"].startswith("Joy can read") and len(results["examples"]) == 3

    rows = metrics(out)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert {f"rewards/{name}/mean" for name in STACK} | {"reward", "loss", "completions/mean_length"} <= row.keys()
        assert row["reward"] == pytest.approx(sum(row[f"rewards/{name}/mean"] for name in STACK), abs=1e-5)

    table = pd.read_parquet(out / "completions" / "step_000002.parquet")
    assert list(table.columns) == ["step", "question", "gold", "completion", *STACK, "total", "advantage", "answer"]
    assert len(table) == 8 and set(table["step"]) == {2}
    assert (table["total"] - table[STACK].sum(axis=1)).abs().max() < 1e-6
    assert table.groupby("question")["advantage"].sum().abs().max() < 1e-4

    assert results["difference"]["accuracy_flexible"]["p"] <= 1
    for when in ("before", "after"):
        kept = json.loads((out / "evaluations" / f"{when}.json").read_text())
        assert kept["figures"] == results[when] and kept["protocol"]["decoding"]["temperature"] == 0
        assert len(pd.read_parquet(out / "evaluations" / f"{when}.parquet")) == 4

    assert AutoModelForCausalLM.from_pretrained(out / "policy").config.model_type == "qwen2"
    assert len(AutoTokenizer.from_pretrained(out / "policy")("12 pens")["input_ids"]) == 2
    assert [folder.name for folder in (out / "checkpoints").iterdir()] == ["checkpoint-2"]


def test_transcripts_of_the_example_questions(train) -> None:
    out, results = train("max_steps=6", "optimizer.lr=0.01")
    said = [json.loads(line) for line in (out / "transcripts.jsonl").read_text().splitlines()]
    assert [row["step"] for row in said] == [0] * 3 + [2] * 3 + [4] * 3 + [6] * 3
    for column, rows in (("before", said[:3]), ("after", said[-3:])):
        assert [(row["question"], row["completion"]) for row in rows] == [
            (example["question"], example[column]) for example in results["examples"]
        ]
    assert len({row["completion"] for row in said}) > 3


def test_a_weight_of_zero_measures_without_training(train) -> None:
    out, _ = train("rewards=no_xmlcount", "+rewards.verbatim_xmlcount=-0.5")
    for row in metrics(out):
        paid = [row[f"rewards/{name}/mean"] for name in STACK[:-1]]
        assert row["reward"] == pytest.approx(sum(paid) - 0.5 * row["rewards/verbatim_xmlcount/mean"], abs=1e-5)
        assert "rewards/xmlcount/mean" in row


@pytest.mark.parametrize("algorithm", sorted(option_names("algorithm")))
def test_every_algorithm_trains(train, algorithm: str) -> None:
    smaller = ["micro_batch_size=4", "algorithm.num_iterations=2", "algorithm.pass_k=2"]
    out, results = train(f"algorithm={algorithm}", *smaller)
    assert results["steps"] == 2
    assert ("kl" in metrics(out)[-1]) == (algorithm == "grpo_kl")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.lora_rank=4"],
        pytest.param(
            ["model.lora_rank=4", "model.load_in_4bit=true", "algorithm=grpo_kl", "micro_batch_size=4"],
            marks=needs_bitsandbytes,
        ),
        pytest.param(["optimizer=adamw_8bit"], marks=needs_bitsandbytes),
        ["optimizer=adafactor"],
        ["model.init=random", "model.num_layers=1", "algorithm=grpo_kl"],
        ["model.dtype=bfloat16", "bf16=true"],
        ["activation_checkpointing=true", "system_prompt=''"],
        ["max_steps=null", "num_train_epochs=0.2", "logging_steps=2", "rewards=verbatim"],
    ],
)
def test_other_ways_to_train(train, overrides: list[str]) -> None:
    out, results = train(*overrides)
    assert results["steps"] == 2
    assert AutoModelForCausalLM.from_pretrained(out / "policy")


def test_emulated_bfloat16_is_announced(train, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2")
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    with pytest.raises(UserError, match="nowhere"):  # the banner comes before the data
        train("bf16=true", "data=jsonl", "data.path=nowhere")
    assert "Warning: bf16=true, and this CPU has no instructions for bfloat16" in capsys.readouterr().out


def test_evaluating_while_training(train, tmp_path, capsys) -> None:
    plain, results = train("max_steps=5")
    plain = plain.rename(tmp_path / "plain")
    out, again = train("max_steps=5", "eval_steps=2", "data.validation_problems=6", "tracking=wandb")
    # Looking on changes nothing.
    assert again["before"] == results["before"] and again["after"] == results["after"]
    lines = [[row for row in metrics(folder) if "reward" in row] for folder in (plain, out)]
    for left, right in zip(*lines, strict=True):
        left, right = (
            {name: row[name] for name in row if name != "num_tokens" and not is_time(name)} for row in (left, right)
        )
        assert left == right

    rows = [row for row in metrics(out) if "eval/accuracy_strict" in row]
    assert [row["step"] for row in rows] == [0, 2, 4, 5]
    assert "of 6 validation problems right " in capsys.readouterr().out
    history, _, _ = read_wandb(out)
    curve = {row["_step"]: row for row in history if "eval/accuracy_strict" in row}
    for row in rows:
        assert {f"eval/rewards/{name}" for name in STACK} < row.keys()
        kept = json.loads((out / "evaluations" / f"step_{row['step']:06d}.json").read_text())["figures"]
        for name in ("accuracy_flexible", "mean_completion_tokens", "rewards/xmlcount"):
            assert [row[f"eval/{name}{end}"] for end in ("", "_low", "_high")] == [
                kept[name],
                *kept["intervals"][name],
            ]
            assert curve[row["step"]][f"eval/{name}_low"] == row[f"eval/{name}_low"]
    # None of them is among those of the evaluations before and after, or of training.
    tables = {name: pd.read_parquet(out / "evaluations" / f"{name}.parquet") for name in ("after", "step_000005")}
    assert len(tables["step_000005"]) == 6 and len(tables["after"]) == 4
    assert not set(tables["step_000005"]["question"]) & set(tables["after"]["question"])


def test_checkpoints(train) -> None:
    out, _ = train("max_steps=4", "save_steps=1")
    assert sorted(folder.name for folder in (out / "checkpoints").iterdir()) == ["checkpoint-3", "checkpoint-4"]


def test_the_same_seed_gives_the_same_numbers(train, tmp_path) -> None:
    for name in ("first", "second"):
        out, _ = train("max_steps=4")
        out.rename(tmp_path / name)
    assert numeric_differences(tmp_path / "first", tmp_path / "second") == []


def test_a_reward_that_exits_stops_the_run(train, tmp_path) -> None:
    (tmp_path / "ends.py").write_text(
        "from grpo.rewards import reward\n\n\n@reward\ndef ends(completion):\n    raise SystemExit(0)\n"
    )
    with pytest.raises(UserError, match="reward 'ends' raised SystemExit: 0"):
        train(f"reward_files=[{tmp_path / 'ends.py'}]", "+rewards.ends=1")


def test_a_reward_that_raises_stops_the_run(train, tmp_path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(
        "from grpo.rewards import reward\n\n\n@reward\ndef broken_in_training(completion):\n    return {}['x']\n"
    )
    with pytest.raises(UserError, match="reward 'broken_in_training' raised KeyError"):
        train(f"reward_files=[{file}]", "+rewards.broken_in_training=1")
    assert not (tmp_path / "run" / "results.json").exists()


def test_the_rule_for_answers_reaches_training_and_evaluation(train, tmp_path) -> None:
    file = tmp_path / "rule.py"
    file.write_text(
        "from grpo.rewards import reward\n\n\n@reward\ndef is_strict(completion, answer_type):\n"
        "    return answer_type.name == 'strict'\n"
    )
    out, results = train(f"reward_files=[{file}]", "+rewards.is_strict=1", "data.answer=strict")
    assert results["after"]["rewards/is_strict"] == 1.0
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [step["rewards/is_strict/mean"] for step in steps if "rewards/is_strict/mean" in step] == [1.0, 1.0]
    protocol = json.loads((out / "evaluations" / "after.json").read_text())["protocol"]
    assert protocol["extraction"]["strict"].endswith("is the number of the reference answer and nothing else")


def test_tensorboard(train) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _ = train("tracking=tensorboard")
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("rewards/correctness/mean")] == [1, 2]


def test_trackio(command, tmp_path) -> None:
    validation = ["eval_steps=2", "data.validation_problems=4"]
    done = command("grpo.train", *SMALL, *validation, "tracking=trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    assert done.returncode == 0, done.stderr
    (out,) = [file.parent for file in tmp_path.rglob("results.json")]
    said = done.stdout[: done.stdout.index("Next:")]  # whose commands name the setting
    assert "rackio" not in said and "* " not in said and done.stderr == ""
    assert "trackio: * Trackio project initialized" in (out / "train.log").read_text()
    (file,) = (tmp_path / "trackio").rglob("*.db")
    with closing(sqlite3.connect(file)) as database:
        logged = [
            (step, json.loads(row)) for step, row in database.execute("SELECT step, metrics FROM metrics ORDER BY id")
        ]
        alerts = list(database.execute("SELECT step, title, text, level FROM alerts ORDER BY id"))

    # The curves are those of metrics.jsonl, then come the figures before and after.
    *logged, (_, summary) = logged
    curves = [(step, row) for step, row in logged if "completions" not in row]
    kept = metrics(out)
    assert [step for step, _ in curves] == [row.pop("step") for row in kept] == [0, 1, 2, 2]
    for (_, row), expected in zip(curves, kept, strict=True):
        assert row == expected
    prefixes = {name.split("/")[0] for row in kept for name in row if "/" in name}
    assert {"eval", "rewards", "advantage_share", "groups", "completions"} <= prefixes
    results = json.loads((out / "results.json").read_text())
    for when in ("before", "after"):
        assert summary[f"{when}/accuracy_strict"] == results[when]["accuracy_strict"]

    step, table = [(step, row["completions"]["_value"]) for step, row in logged if "completions" in row][-1]
    assert step == 2 and [row["step"] for row in table] == [1] * 4 + [2] * 4
    assert list(table[0]) == ["step", "question", "gold", "completion", *STACK, "total", "advantage"]
    assert all(isinstance(row[name], float) for row in table for name in [*STACK, "total", "advantage"])

    alarms = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines() if "alarm" in line]
    assert alarms and alerts == [(line["step"], line["alarm"], line["message"], "warn") for line in alarms]


def test_the_command_as_typed(command, tmp_path) -> None:
    done = command("grpo.train", "rewards=no_xmlcount", "num_generations=8", *SMALL[:1], *SMALL[3:], "tracking=none")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "4 prompts x 8 completions = 32 per step" in done.stdout and "xmlcount 0" in done.stdout
    assert "right inside <answer>" in done.stdout and "Joy can read 8 pages" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    (out,) = [file.parent for file in tmp_path.rglob("results.json")]
    assert out.parent.parent == tmp_path / "outputs"
    assert {".hydra", "train.log", "metrics.jsonl", "completions", "policy"} <= {file.name for file in out.iterdir()}
    assert "right inside <answer>" in (out / "train.log").read_text()
    assert not {"=", " ", "'"} & set(str(out.relative_to(tmp_path)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["device=cuda"], "device=cuda: no CUDA device is found. On a CPU, at 0.1 TFLOP/s, a step with 1 M parameters"),
        (["experiment=gsm8k"], "all 1,868 steps about 31 days. To train on the CPU anyway: device=cpu bf16=false."),
        (["data=jsonl", "data.path=nowhere"], "data.path: there is no file nowhere/train.jsonl."),
        (
            ["experiment=gsm8k", "device=cpu", "bf16=false"],
            "The dataset openai/gsm8k is not on this machine, and the hub",
        ),
        (["model=qwen2.5-0.5b"], "The model Qwen/Qwen2.5-0.5B-Instruct is not on this machine, and the hub cannot be"),
        (["model.path=/no/such/folder"], "model.path=/no/such/folder: there is no such folder"),
        (["max_prompt_length=5"], "max_prompt_length=5: every training prompt is longer"),
        (["tracking.completions_rows=-1"], "tracking.completions_rows=-1: must be between 0 and 100,000."),
    ],
)
def test_refusals_are_one_line(light, forked, tmp_path, arguments: list[str], message: str) -> None:
    # An address that refuses at once stands for a hub that cannot be reached; it is read when the hub is imported.
    run = light if "the hub" in message else forked
    done = run("grpo.train", "tracking=none", *arguments, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not list(tmp_path.rglob("results.json"))


def test_processes_are_started_by_a_launcher(light) -> None:
    done = light("grpo.train", *SMALL, WORLD_SIZE="2", RANK="0")
    files = Path(__file__).parents[2] / "scripts" / "accelerate" / "ddp.yaml"
    assert done.returncode == 1 and done.stderr == (
        "error: WORLD_SIZE=2: LOCAL_RANK, MASTER_ADDR, MASTER_PORT must be set, too. For several processes, use a "
        f"launcher: accelerate launch --config_file {files} --num_processes 2 -m grpo.train; for one, unset "
        "WORLD_SIZE.\n"
    )


@needs_bitsandbytes
def test_a_policy_of_4_bits_is_evaluated_before_and_after(train, forked) -> None:
    out, _ = train("model.lora_rank=4", "model.load_in_4bit=true")
    done = forked("grpo.evaluate", f"run={out.name}", "baseline=before")
    assert done.returncode == 0, done.stderr
    for when, of_4_bits in (("before-", True), ("", False)):
        (file,) = (out / "evaluations").glob(f"{when}arithmetic-greedy-????????.json")
        assert ("load_in_4bit" in json.loads(file.read_text())["protocol"]["policy"]) == of_4_bits


@pytest.mark.parametrize(
    ("package", "override", "said"),
    [
        ("peft", "model.lora_rank=4", "model.lora_rank=4: needs the peft package: pip install peft, or 'grpo[lora]'."),
        (
            "bitsandbytes",
            "optimizer=adamw_8bit",
            "optimizer.name=adamw_8bit: needs the bitsandbytes package: pip install bitsandbytes, or 'grpo[qlora]'.",
        ),
        (
            "bitsandbytes",
            "model=qwen2.5-3b-qlora",
            "model.load_in_4bit=true: needs the bitsandbytes package: pip install bitsandbytes, or 'grpo[qlora]'.",
        ),
    ],
)
def test_a_missing_package_is_named_before_anything_is_loaded(
    train, monkeypatch, package: str, override: str, said: str
) -> None:
    here = find_spec
    monkeypatch.setattr("grpo.core.packages.find_spec", lambda name: None if name == package else here(name))
    monkeypatch.setattr(
        "grpo.training.run_inputs.load_splits", lambda *args, **kwargs: pytest.fail("problems were loaded")
    )
    with pytest.raises(UserError, match=re.escape(said)):
        train(override)
