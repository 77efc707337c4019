"""`python -m grpo.preflight`: the embedded default goes, bad set-ups do not, and what it leaves behind is read again."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from grpo.config.composition import compose
from grpo.config.samplers import sampler_in_process
from grpo.config.schema import RolloutConfig
from grpo.evaluation.completion_files import read_completions
from grpo.tasks.splits import load_splits
from tests.helpers.preflight import preflight

# Fewer completions than the default, and groups as small.
FEW = ["problems=6", "samples=4", "num_generations=4"]


def of_embedded_default(name: str) -> tuple[list[str], list[str]]:
    """A set-up of the embedded policy, and the causes of the warnings about it."""
    return {
        "the default": ([], []),
        "wrong tags": (["format.reasoning=think", "format.answer=solution"], ["format_not_sampled"]),
        "a limit too short": (["max_completion_length=8"], ["truncated"]),
        "a constant reward": (
            ["reward_files=[flat.py]", "rewards=correctness_only", "rewards.correctness=0", "+rewards.flat=1"],
            ["constant_reward"],
        ),
        "problems too hard": (["data=countdown"], ["too_hard"]),
    }[name]


@pytest.mark.parametrize(
    "name", ["the default", "wrong tags", "a limit too short", "a constant reward", "problems too hard"]
)
def test_the_verdict_on_the_embedded_policy(name: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flat.py").write_text("from grpo.rewards import reward\n\n\n@reward\ndef flat(completion):\n    return 0.5\n")
    settings, causes = of_embedded_default(name)
    Path("out").mkdir()
    preflight(Path("out"), *settings)
    report = json.loads(Path("out/preflight.json").read_text())
    assert [advice["cause"] for advice in report["advice"] if advice["level"] == "warning"] == causes
    assert report["verdict"].startswith("Change the set-up first: " if causes else "Go: ")
    assert ("data.difficulty=out/difficulty.jsonl" in str(report["advice"])) == ("too_hard" in causes)
    said = capsys.readouterr().out
    assert all(advice["cause"].replace("_", " ") in said for advice in report["advice"])


def test_what_it_leaves_is_read_by_training_and_by_the_audit(forked, tmp_path) -> None:
    done = forked("grpo.preflight", *FEW, "hydra.run.dir=asked", "seed=3")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "asked").iterdir()} == {
        "preflight.html", "preflight.json", "completions.parquet", "difficulty.jsonl"
    }  # fmt: skip
    report = json.loads((tmp_path / "asked" / "preflight.json").read_text())
    assert report["command"] == f"python -m grpo.preflight {' '.join(FEW)} seed=3"
    examples, completions = read_completions(tmp_path / "asked" / "completions.parquet", "completions")
    assert len(examples) == 6 and len(completions) == 24
    frame = pd.read_parquet(tmp_path / "asked" / "completions.parquet")
    rates = [json.loads(line) for line in (tmp_path / "asked" / "difficulty.jsonl").read_text().splitlines()]
    means = frame.groupby("problem")["accuracy_strict"].mean()
    assert [row["solve_rate"] for row in rates] == means.tolist()
    assert {row["policy"]["sha256"] for row in rates} == {report["provenance"]["model"]["sha256"]}
    assert {row["data"] for row in rates} == {report["provenance"]["data"]["train"]["sha256"]}

    file = tmp_path / "asked" / "difficulty.jsonl"
    config = compose([f"data.difficulty={file}", "data.solve_rate=[0,1]"])
    assert {example.question for example in load_splits(config.data).train} == {row["question"] for row in rates}
    audit = forked("grpo.audit", "completions=asked/completions.parquet")
    assert audit.returncode == 0 and "24 completions" in audit.stdout


def test_problems_are_those_of_the_first_step(forked, tmp_path) -> None:
    """With a curriculum, they are in its first window."""
    train = load_splits(compose(["data.train_problems=20"]).data).train
    lines = [json.dumps({"question": each.question, "solve_rate": i / 20}) for i, each in enumerate(train)]
    (tmp_path / "rates.jsonl").write_text("\n".join(lines))
    window = ["data.train_problems=20", "data.difficulty=rates.jsonl", "data.curriculum={start:[0.5,1],end:[0,0.4]}"]
    done = forked("grpo.preflight", *FEW, *window, "prompts_per_step=2", "hydra.run.dir=asked")
    assert done.returncode == 0, done.stderr
    asked = set(pd.read_parquet(tmp_path / "asked" / "completions.parquet")["question"])
    assert len(asked) == 6 and asked <= {each.question for each in train[10:]}


def test_ctrl_c_reports_what_there_is(start, tmp_path) -> None:
    process = start("problems=2000", "hydra.run.dir=asked", module="preflight")
    process.until("sampling ")
    os.kill(process.pid, signal.SIGINT)
    assert process.ended() == 130
    report = json.loads((tmp_path / "asked" / "preflight.json").read_text())
    assert 1 <= report["problems"] < 2000
    assert f"Stopped by SIGINT: {report['problems']:,} of 2,000 problems were asked." in process.complained()
    assert "Traceback" not in process.complained() and report["verdict"] in " ".join(process.said().split())


def test_minutes_bound_the_sampling(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("asked").mkdir()
    preflight(Path("asked"), "problems=2000", "minutes=0.01")
    counts = Counter(pd.read_parquet("asked/completions.parquet")["problem"])
    assert 1 <= len(counts) < 2000 and set(counts.values()) == {16}
    assert f"minutes=0.01: {len(counts):,} of 2,000 problems were asked." in capsys.readouterr().out


def test_the_proposed_limit_is_long_enough(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").mkdir()
    preflight(Path("short"), "max_completion_length=24")
    report = json.loads(Path("short/preflight.json").read_text())
    (advice,) = (each for each in report["advice"] if each["cause"] == "truncated")
    proposed = advice["change"].partition(".")[0].partition(", ")[2]
    assert int(proposed.partition("=")[2]) % 8 == 0 and "at 36, " in advice["evidence"]
    Path("longer").mkdir()
    preflight(Path("longer"), proposed)
    truncated = json.loads(Path("longer/preflight.json").read_text())["figures"]["truncated"]
    assert truncated["value"] <= 0.05


def test_costs_on_named_hardware(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("asked").mkdir()
    preflight(Path("asked"), *FEW, "hardware=h100")
    costs = json.loads(Path("asked/preflight.json").read_text())["costs"]
    assert costs["sampling_seconds"] > 0 and costs["peak_memory"]["resident"] > 2**20
    assert "it fits; a step takes at least" in costs["plan"]["on H100 80 GB"]
    assert "on H100 80 GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("engine", "asks"),
    [
        (RolloutConfig("continuous_batching"), RolloutConfig("fast", native=True, kernels="torch")),
        (RolloutConfig("vllm", memory=0.3, top_p=1.0), RolloutConfig("fast", native=True, kernels="torch")),
        (RolloutConfig("vllm", memory=0.3, top_p=0.9), RolloutConfig("generate", top_p=0.9)),
        (RolloutConfig("generate", top_k=5), RolloutConfig("generate", top_k=5)),
    ],
)
def test_a_sampler_in_this_process_asks_for_an_engine(engine: RolloutConfig, asks: RolloutConfig) -> None:
    assert sampler_in_process(engine) == asks


@pytest.mark.parametrize(
    "settings",
    [
        ["rollout=generate", "rollout.top_p=0.9"],
        ["rollout=continuous_batching"],
        ["model.lora_rank=2"],
        ["'rewards.xmlcount={start: 0.0, end: 1.0, until: 0.5}'", "placebo=true"],
    ],
    ids=["another sampler", "an engine", "adapters", "a schedule and a placebo"],
)
def test_other_settings_of_training(settings: list[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("asked").mkdir()
    preflight(Path("asked"), *FEW, *(setting.strip("'") for setting in settings))
    report = json.loads(Path("asked/preflight.json").read_text())
    assert report["problems"] == 6
    if "xmlcount" in settings[0]:  # at step 1 it has no weight
        assert report["first_step"]["advantage_share/xmlcount"]["value"] == 0.0


def test_fail_on_gives_an_exit_code(forked) -> None:
    done = forked("grpo.preflight", *FEW, "max_completion_length=4", "fail_on=warning")
    assert done.returncode == 1 and done.stderr == "error: fail_on=warning: 1 warning, 0 notes.\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["samples=8"], "samples=8: a group of the run has num_generations=16 completions"),
        (["resume=outputs/latest"], "resume=outputs/latest: a preflight asks a policy before its training"),
        (["problems=0"], "problems=0: must be between 1 and"),
        (["minutes=0"], "minutes=0.0: must be between 0.01 and"),
        (["fail_on=error"], "fail_on=error: must be one of warning, note."),
        (["prompts_per_step=3000"], "prompts_per_step=3000: there are only 2000 training prompts"),
        (["rewards.nothing=1"], "rewards.nothing: the composed stack has no such reward"),
    ],
)
def test_refusals_come_before_torch_and_leave_no_folder(light, tmp_path, overrides: list[str], message: str) -> None:
    done = light("grpo.preflight", *overrides)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert "torch" not in done.modules and not (tmp_path / "outputs").exists()


def test_a_run_is_not_overwritten(light, tmp_path) -> None:
    (tmp_path / "A" / ".hydra").mkdir(parents=True)
    (tmp_path / "A" / ".hydra" / "config.yaml").write_text("")
    done = light("grpo.preflight", "hydra.run.dir=A")
    assert "error: A holds a run, which is not overwritten" in done.stderr
