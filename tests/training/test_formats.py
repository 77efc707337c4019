"""Runs in another answer format: every place that a run reaches uses its tags."""

import json
import shutil

import pandas as pd
import pytest
import yaml
from transformers import AutoTokenizer

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.policy.hub import ASSETS
from grpo.reports.run_report import write_run_report
from grpo.runs.resume_settings import require_same_job
from grpo.runs.run_dir import RunDir
from grpo.runs.saved_run import read_run
from grpo.runs.settings import save_settings
from grpo.sample import print_answers
from grpo.tasks.answer_format import TagFormat
from grpo.training.run_output import notes_on_policy
from tests.helpers.evaluation import evaluated

WRITES_TAGS = """
from grpo.rewards import reward


@reward
def perfect(answer_format, completion):
    return float(answer_format.render("x", "1") == "<think>\\nx\\n</think>\\n<solution>\\n1\\n</solution>\\n")
"""
TAGS = ["format.reasoning=think", "format.answer=solution"]


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_run_in_another_format(train, tmp_path, capsys) -> None:
    (tmp_path / "mine.py").write_text(WRITES_TAGS)
    out, results = train(*TAGS, f"reward_files=[{tmp_path / 'mine.py'}]", "+rewards.perfect=1")
    said = words(capsys.readouterr().out)
    assert "format format.reasoning=think format.answer=solution" in said and "right inside <solution>" in said
    assert "<answer>" not in said
    protocol = json.loads((out / "evaluations" / "after.json").read_text())["protocol"]
    assert "<think>\n...\n</think>\n<solution>" in protocol["system_prompt"]
    assert protocol["format"] == "format.reasoning=think format.answer=solution"
    assert pd.read_parquet(out / "completions" / "step_000001.parquet")["perfect"].eq(1).all()
    assert read_run(out).answer_format == TagFormat("think", "solution")
    assert "right inside &lt;solution&gt;" in write_run_report(out).read_text()
    # Its evaluation uses the format; typed, another one is asked for and scored.
    evaluated(f"run={out}", "name=again")
    again = json.loads((out / "evaluations" / "again.json").read_text())
    assert again["figures"] == results["after"] and again["protocol"]["format"] == protocol["format"]
    assert "right inside <solution>" in words(capsys.readouterr().out)
    evaluated(f"run={out}", "name=boxed", "format=boxed")
    other = json.loads((out / "evaluations" / "boxed.json").read_text())["protocol"]
    assert other["format"] == "format=boxed" and other["system_prompt"].endswith("within \\boxed{}.\n")


@pytest.mark.parametrize(
    ("overrides", "noted"),
    [(["system_prompt="], True), (["system_prompt=", "format=boxed"], True), (["format=boxed"], False)],
)
def test_prompts_that_do_not_ask_for_the_format_are_noted(overrides: list[str], noted: bool) -> None:
    notes = [note for note in notes_on_policy(compose(overrides)) if note.startswith("system_prompt=: ")]
    assert len(notes) == noted and all("asks for the answer format" in note for note in notes)


def test_samples_have_the_tags_of_the_run_in_colour(train, monkeypatch) -> None:
    out, _ = train(*TAGS)
    shown = []
    monkeypatch.setattr("grpo.sample.answers_table", lambda question, columns, tags: shown.append(tags) or "")
    print_answers(out, ["How many pens are 3 boxes of 4?"], 4)
    assert shown == [("<think>", "</think>", "<solution>", "</solution>")]


def test_a_tokenizer_that_loses_the_tags_stops_the_run_before_training(train, tmp_path) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(ASSETS / "tiny", policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.save_pretrained(policy)
    message = "loses <think> and </think>: .* set format.reasoning=reasoning format.answer=answer.$"
    with pytest.raises(UserError, match=message):
        train(f"model.path={policy}", "format.reasoning=think")
    assert not RunDir(tmp_path / "run").metrics_jsonl.exists()


def test_a_run_from_before_formats(train, capsys) -> None:
    out, results = train()
    settings = yaml.safe_load(RunDir(out).settings_yaml.read_text())
    assert settings.pop("format")
    RunDir(out).settings_yaml.write_text(yaml.safe_dump(settings))
    assert read_run(out).answer_format == TagFormat()
    composed = compose([*yaml.safe_load(RunDir(out).overrides_yaml.read_text())])
    assert require_same_job(out, composed) == composed
    evaluated(f"run={out}", "name=again")
    again = json.loads((out / "evaluations" / "again.json").read_text())
    assert again["figures"] == results["after"] and "format" not in again["protocol"]
    assert "right inside <answer>" in write_run_report(out).read_text().replace("&lt;", "<").replace("&gt;", ">")


def test_completions_from_elsewhere(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [("3 * 6 is \\boxed{18}", "18"), ("<think>\n3 * 6\n</think>\n<answer>\n18\n</answer>", "18")]
    lines = [json.dumps({"question": f"q{i}", "gold": gold, "completion": text}) for i, (text, gold) in enumerate(rows)]
    (tmp_path / "file.jsonl").write_text("\n".join(lines))
    for typed, label, exact in (
        ("format=boxed", "inside \\boxed{}", [1, 0]),
        ("format.reasoning=think", "inside <answer>", [0, 1]),
    ):
        evaluated("completions=file.jsonl", typed, "name=one")
        table = pd.read_parquet("outputs/evaluations/one.parquet")
        assert [*table["accuracy_strict"]] == [*table["strict_format"]] == exact
        assert f"right {label}" in capsys.readouterr().out
        (tmp_path / "outputs/evaluations/one.json").unlink()


def test_completions_of_a_run_are_scored_in_its_format(tmp_path, light) -> None:
    save_settings(tmp_path, compose(["format=boxed"]), ["format=boxed"])
    (tmp_path / "evaluations").mkdir()
    row = {"question": "q", "gold": "18", "completion": "3 * 6 is \\boxed{18}"}
    for name in ("after", "typed"):
        (tmp_path / "evaluations" / f"{name}.jsonl").write_text(json.dumps(row))
    protocol = {"format": TagFormat("think", "answer").setting}
    (tmp_path / "evaluations" / "typed.json").write_text(json.dumps({"protocol": protocol}))
    for module in ("grpo.evaluate", "grpo.audit"):
        file = "completions=evaluations/after.jsonl"
        said = words(light(module, file).stdout)
        assert "format format=boxed" in said and ("right inside \\boxed{} 100.0%" in said or "4.0" in said), module
        assert "boxed}" not in words(light(module, file, "format=tags").stdout), module
        typed = "completions=evaluations/typed.jsonl"  # another format was typed for that evaluation
        assert "format format.reasoning=think format.answer=answer" in words(light(module, typed).stdout), module
        refused = light(module, file, "rewards=verbatim")
        assert refused.returncode == 1 and "format=boxed: the reward verbatim_correctness reads" in refused.stderr


@pytest.mark.parametrize("overrides", [["rewards=verbatim", "format=boxed"], ["rewards=verbatim", *TAGS]])
def test_copied_rewards_in_another_format_stop_before_the_run(train, overrides: list[str]) -> None:
    with pytest.raises(UserError, match="the reward verbatim_correctness reads <reasoning> and <answer> only"):
        train(*overrides)
