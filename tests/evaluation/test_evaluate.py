"""`python -m grpo.evaluate` for runs, policies and files: saving, resuming, comparing, and refusing."""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from grpo.config.composition import compose
from grpo.config.samplers import non_neutral_sampling
from grpo.core.errors import UserError
from grpo.core.statistics import wilson_interval
from grpo.runs.settings import read_finished_run_config
from grpo.tasks.splits import load_splits
from tests.conftest import SMALL, Process
from tests.helpers.evaluation import evaluated, tagged
from tests.helpers.gsm8k import GSM8K, needs_gsm8k
from tests.helpers.models import QWEN, needs_qwen

PROBLEMS = 12


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory) -> Path:
    """A folder with the run A."""
    folder = tmp_path_factory.mktemp("runs")
    small = [item for item in SMALL if "eval_problems" not in item]
    # A learning rate at which two steps change greedy answers.
    given = [*small, f"data.eval_problems={PROBLEMS}", "tracking=none", "optimizer.lr=3e-3", "hydra.run.dir=A"]
    done = Process(server, folder, *given)
    assert done.ended() == 0, done.complained()
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch) -> Path:
    shutil.copytree(trained / "A", tmp_path / "A")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def report_of(folder: Path, name: str = "x") -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def results(folder: Path) -> dict:
    return json.loads((folder / "A" / "results.json").read_text())


def test_a_runs_own_figures_again(folder, capsys) -> None:
    evaluated("run=A", "baseline=before", "name=x", "show=2")
    before, after = results(folder)["before"], results(folder)["after"]
    assert before != after
    evaluations = folder / "A" / "evaluations"
    assert report_of(evaluations)["figures"] == after == report_of(evaluations, "after")["figures"]
    (other,) = evaluations.glob("before-arithmetic-greedy-*.parquet")
    assert report_of(evaluations, other.stem)["figures"] == before
    comparison = report_of(evaluations, f"x-vs-{other.stem}")
    assert comparison["difference"] == results(folder)["difference"]
    protocol = report_of(evaluations)["protocol"]
    assert protocol["decoding"] == {"samples": 1, "temperature": 0.0} and protocol["stop"] == ["<|im_end|>"]
    assert protocol["max_completion_length"] == 16 and protocol["problems"]["n"] == PROBLEMS

    said = capsys.readouterr().out
    for line in (
        f"{PROBLEMS} held-out problems of arithmetic",
        "greedy",
        "at most 16 tokens, ended by <|im_end|>",
        "A/policy (sha256",
    ):
        assert line in said
    assert "before, where it differs:\npolicy  embedded:tiny (sha256 " in said
    assert "Right only under run: " in said and "right inside <answer>" in said
    assert said.count("gold: ") == 2 and "run: " in said
    assert max(map(len, said.splitlines())) <= 80

    evaluated("model=tiny", f"data.eval_problems={PROBLEMS}", "max_completion_length=16", "name=y")
    assert report_of(folder / "outputs" / "evaluations", "y")["figures"] == before


def test_a_saved_evaluation_is_used_again(folder, light, capsys) -> None:
    evaluated("run=A")
    (report,) = (folder / "A" / "evaluations").glob("arithmetic-greedy-*.json")
    first = report.read_text()
    capsys.readouterr()
    evaluated(f"run={folder / 'A'}")
    assert "run: saved 20" in (said := capsys.readouterr().out) and "right inside <answer>" in said
    done = light("grpo.evaluate", "run=A")
    assert "run: saved 20" in done.stdout and not {"torch", "transformers"} & done.modules
    assert report.read_text() == first
    # Other protocols are other evaluations.
    evaluated("run=A", "max_completion_length=8")
    evaluated("run=A", "rewards=correctness_only", "samples=2", "temperature=1")
    assert len(list((folder / "A" / "evaluations").glob("arithmetic-*.json"))) == 3
    evaluated("run=A", "name=mine")
    with pytest.raises(
        UserError, match=r"name=mine: A/evaluations/mine.json holds another evaluation \(length: at most 16 tokens"
    ):
        evaluated("run=A", "name=mine", "max_completion_length=8")
    (folder / "A" / "evaluations" / "mine.json").write_text("{")
    with pytest.raises(UserError, match=r"mine.json is damaged; delete it to evaluate again"):
        evaluated("run=A", "name=mine")
    table = report.with_suffix(".parquet")
    pd.read_parquet(table).assign(completion=tagged("1")).to_parquet(table)
    with pytest.raises(
        UserError, match=r"arithmetic-greedy-\w+.parquet is not the file that was saved. Delete it to evaluate again"
    ):
        evaluated("run=A")
    table.write_bytes(b"PAR1 but not much more")
    with pytest.raises(UserError, match=r"arithmetic-greedy-\w+.parquet is damaged.* Delete it to evaluate again"):
        evaluated("run=A")
    report.with_suffix(".parquet").unlink()
    evaluated("run=A")
    assert json.loads(report.read_text())["figures"] == json.loads(first)["figures"]


@pytest.mark.parametrize("sampling", [[], ["samples=3", "temperature=1.0"]])
def test_an_interrupted_evaluation_is_resumed(folder, monkeypatch, capsys, sampling: list[str]) -> None:
    from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler

    evaluated("run=A", "name=uninterrupted", *sampling)
    complete, calls = PrefixSharingSampler.complete, []

    def interrupted(self, prompts, *args):
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return complete(self, prompts, *args)

    monkeypatch.setattr(PrefixSharingSampler, "complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluated("run=A", "name=x", "eval_batch_size=4", *sampling)
    partial = folder / "A" / "evaluations" / "x.partial.jsonl"
    assert len(partial.read_text().splitlines()) == 1 + 8 and not partial.with_name("x.json").exists()
    with partial.open("a") as file:
        file.write('[11, 0, "half a li')  # as a process leaves that is killed
    evaluated("run=A", "name=x", "eval_batch_size=4", *sampling)
    total = PROBLEMS * (3 if sampling else 1)
    assert f"run: resuming after 8 of {total} completions." in capsys.readouterr().out
    assert sum(calls[3:]) == total - 8
    assert not partial.exists()
    evaluations = folder / "A" / "evaluations"
    assert report_of(evaluations)["figures"] == report_of(evaluations, "uninterrupted")["figures"]
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(evaluations / f"{name}.parquet") for name in ("x", "uninterrupted"))
    )


def test_several_samples(folder, capsys) -> None:
    evaluated("run=A", "samples=4", "temperature=1.0", "name=x")
    said = capsys.readouterr().out
    assert "samples 4, temperature 1.0, top_p 1.0, top_k 0, min_p none" in said and "maj@k" in said
    first = report_of(folder / "A" / "evaluations")
    figures = first["figures"]
    assert {"pass@1", "pass@4", "maj@2", "maj@2/flexible"} <= figures.keys() and "pass@3" not in figures
    assert figures["pass@1"] == pytest.approx(figures["accuracy_strict"])
    table = pd.read_parquet(folder / "A" / "evaluations" / "x.parquet")
    assert figures["pass@4/flexible"] == table.groupby("problem")["accuracy_flexible"].any().mean()
    assert max(map(len, said.splitlines())) <= 80
    # Another k of the same completions needs no policy; a comparison has them too.
    evaluated("run=A", "baseline=before", "samples=4", "temperature=1.0", "name=x", "k=[3]")
    said = capsys.readouterr().out
    assert "run: saved 20" in said and "pass@3" in said and "pass@4" not in said
    again = report_of(folder / "A" / "evaluations")
    assert {"pass@3", "pass@4"} <= again["figures"].keys() and again["created"] == first["created"]
    # Each problem either has a right one among all four or not; of fewer there is an estimate.
    right = table.groupby("problem")["accuracy_flexible"].any().sum()
    assert figures["intervals"]["pass@4/flexible"] == list(wilson_interval(int(right), PROBLEMS))


def test_what_the_command_line_does_not_set_is_the_runs(folder) -> None:
    saved = folder / "A" / ".hydra" / "config.yaml"
    text = saved.read_text().replace("  name: fast\n  native: true\n  kernels: torch", "  name: generate")
    saved.write_text(text.replace("  top_p: null", "  top_p: 0.5").replace("  xmlcount: 1.0", "  xmlcount: 0.25"))
    evaluated(
        "run=A", "name=x", "system_prompt=Hello", "rewards.int=0", "~rewards.soft_format", "+rewards.verbatim_int=2"
    )
    protocol = report_of(folder / "A" / "evaluations")["protocol"]
    weights = {"correctness": 1, "int": 0, "strict_format": 1, "xmlcount": 0.25, "verbatim_int": 2}
    assert protocol["rewards"] == weights
    assert protocol["system_prompt"] == "Hello" and protocol["max_completion_length"] == 16
    assert protocol["computing"]["rollout"] == "generate"
    evaluated("run=A", "name=y", "samples=2", "temperature=0.5", "rollout.top_k=9", "data.eval_problems=3", "seed=4")
    protocol = report_of(folder / "A" / "evaluations", "y")["protocol"]
    neutral = {"top_p": 1.0, "min_p": None, "repetition_penalty": 1.0}  # however the run was trained
    assert protocol["decoding"] == {"samples": 2, "temperature": 0.5, "top_k": 9, "seed": 4} | neutral
    assert protocol["problems"]["n"] == 3
    evaluated(
        "run=A", "name=z", "rewards=verbatim", "rollout=fast", "data=arithmetic", "data.eval_problems=3", "data.seed=5"
    )
    protocol = report_of(folder / "A" / "evaluations", "z")["protocol"]
    assert (protocol["data"]["seed"], protocol["computing"]["rollout"]) == (5, "fast")
    assert set(protocol["rewards"]) == set(compose(["rewards=verbatim"]).rewards)


def test_a_finished_run_is_evaluated_with_neutral_sampling(folder) -> None:
    saved = folder / "A" / ".hydra" / "config.yaml"
    text = saved.read_text().replace("  name: fast\n  native: true\n  kernels: torch", "  name: generate")
    saved.write_text(text.replace("  repetition_penalty: null", "  repetition_penalty: 5.0"))
    assert non_neutral_sampling(read_finished_run_config(folder / "A").rollout) == {}


def test_two_runs_on_their_own_problems_or_on_the_same(folder, capsys) -> None:
    shutil.copytree("A", "B")
    saved = folder / "B" / ".hydra" / "config.yaml"
    text = saved.read_text().replace("  seed: 0", "  seed: 7").replace("_length: 16", "_length: 8")
    saved.write_text(text.replace("  correctness: 1.0", "  correctness: 3.0"))
    with pytest.raises(
        UserError,
        match=r"needs the same problems; 0 of 12 are among the baseline's 12. Two runs are evaluated on the same with data=",
    ):
        evaluated("run=A", "baseline=B")
    evaluated("run=A", "baseline=B", "data=arithmetic", "data.eval_problems=5")
    said = capsys.readouterr().out
    assert "The comparison: A/evaluations/arithmetic-greedy-" in said
    assert "baseline, where it differs:" in said and "at most 8 tokens, ended by <|im_end|>" in said
    # One stack of rewards scores both.
    (report,) = (folder / "B" / "evaluations").glob("arithmetic-greedy-*.json")
    assert report_of(report.parent, report.stem)["protocol"]["rewards"]["correctness"] == 1.0
    # A checkpoint, or any other policy, of the run.
    evaluated("run=A", "baseline=A", "model.path=embedded:tiny", "name=x", "rollout.native=false")
    assert report_of(folder / "A" / "evaluations")["protocol"]["policy"]["path"] == "embedded:tiny"
    assert report_of(folder / "A" / "evaluations")["figures"] == results(folder)["before"]


def test_problems_that_the_run_trained_on_are_never_held_out(folder, capsys) -> None:
    rows = [{"question": f"How much is {i} and 1?", "answer": str(i + 1)} for i in range(9)]
    lines(folder / "train.jsonl", rows)
    saved = folder / "A" / ".hydra" / "config.yaml"
    text = saved.read_text()
    data = compose(["data=jsonl", "data.path=.", "data.eval_problems=4"]).data
    head, tail = text.partition("\ndata:\n")[0], text.partition("\nrollout:\n")[2]
    settings = "".join(f"  {name}: {'null' if value is None else value}\n" for name, value in asdict(data).items())
    saved.write_text(f"{head}\ndata:\n{settings}rollout:\n{tail}")
    after = folder / "A" / "evaluations" / "after.json"
    with pytest.raises(UserError, match="data: the files have changed since the run"):
        evaluated("run=A")
    after.unlink()
    evaluated("run=A", "name=x")
    evaluated("run=A", "name=y", "data.eval_problems=2")
    held_out = load_splits(data).held_out
    for name, count in (("x", 4), ("y", 2)):
        table = pd.read_parquet(folder / "A" / "evaluations" / f"{name}.parquet")
        assert len(table) == count and set(table["question"]) <= {example.question for example in held_out}
    shutil.copy("train.jsonl", "copy.jsonl")
    for overrides, shared in (
        (["data.eval_problems=6"], 2),
        (["data.eval_problems=6", f"data.path={folder}"], 2),
        (["data.eval_problems=6", "data.train_file=copy.jsonl"], 2),
        (["data.test_file=train.jsonl", "data.eval_problems=null"], 5),
    ):
        with pytest.raises(UserError, match=f"data: {shared} of these . problems are among those the run was trained"):
            evaluated("run=A", *overrides)
    # Others are welcome.
    lines(folder / "other.jsonl", [{"question": f"How much is {i} and 2?", "answer": str(i + 2)} for i in range(3)])
    evaluated("run=A", "name=z", "data.test_file=other.jsonl")
    (folder / "train.jsonl").rename(folder / "away.jsonl")
    evaluated("run=A", "name=v", "data.test_file=other.jsonl")
    assert "The training problems of A cannot be read: it is not checked" in capsys.readouterr().out


@pytest.mark.parametrize(
    "override", ["seed=1", "bf16=true", "model.dtype=bfloat16", "rollout.native=false", "max_completion_length=9"]
)
def test_what_completions_depend_on_makes_another_evaluation(folder, override: str) -> None:
    sampled = ["run=A", "samples=2", "temperature=1", "data.eval_problems=2"]
    evaluated(*sampled)
    evaluated(*sampled, override)
    evaluated(*sampled, "threads=1", "eval_batch_size=3", "show=1")
    assert len(list((folder / "A" / "evaluations").glob("arithmetic-*.json"))) == 2


def test_a_hub_policy_is_its_commit(light, tmp_path, folder) -> None:
    """As the hub's cache lays it out."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "cache" / "models--someone--tiny"
    shutil.copytree(folder / "A" / "policy", cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    hub = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = light("grpo.evaluate", "model.path=someone/tiny", "data.eval_problems=2", "name=x", **hub, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "policy    someone/tiny (commit 01234567)" in done.stdout
    assert report_of(tmp_path / "outputs" / "evaluations")["protocol"]["policy"]["commit"] == commit


ROWS = [
    {"question": "1 + 1?", "gold": "one more is\n#### 2", "completion": "<answer>2</answer>"},
    {"question": "1 + 2?", "gold": "3", "completion": "It is 3."},
    {"question": "1 + 1?", "gold": 2, "completion": ""},
    {"question": "1 + 2?", "gold": "3", "completion": "東京 \u2028 3", "tokens": 5},
]


def lines(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_completions_made_elsewhere(light, tmp_path) -> None:
    lines(tmp_path / "made.jsonl", [*ROWS, ""])
    arguments = ["completions=made.jsonl", "show=1", "rewards=correctness_only", "name=x"]
    done = light("grpo.evaluate", *arguments, COLUMNS="80")
    assert done.returncode == 0 and not {"torch", "transformers"} & done.modules
    assert "problems     2 of that file" in done.stdout and "4 in made.jsonl" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    figures = report_of(tmp_path / "outputs" / "evaluations")["figures"]
    assert (figures["n"], figures["accuracy_strict"], figures["accuracy_flexible"]) == (2, 0.25, 0.75)
    assert (figures["pass@1"], figures["pass@2"], figures["maj@2/flexible"]) == (0.25, 0.5, 1.0)
    assert {file.name for file in tmp_path.iterdir()} == {"made.jsonl", "outputs"}


def test_shown_texts_are_labelled(light, tmp_path) -> None:
    texts = {
        "a": ["<answer>\n3\n</answer>", "It is 3.", "<answer>\n3\n</answer>", "It is 4."],
        "b": ["It is $3", "<answer>3", "4", "<answer>5</answer> or 3"],
    }
    for name, completions in texts.items():
        rows = [{"question": f"{i} + 1?", "gold": "3", "completion": text} for i, text in enumerate(completions)]
        lines(tmp_path / f"{name}.jsonl", rows)
    arguments = ["completions=a.jsonl", "baseline=b.jsonl", "name=x", "show=4"]
    done = light("grpo.evaluate", *arguments, COLUMNS="120")
    labels = re.findall(r"(baseline|file): (right, but not inside <answer>|right|wrong)", done.stdout)
    partly = "right, but not inside <answer>"
    # Those that divide the two come first.
    expected = [(partly, "right"), ("wrong", "right"), (partly, partly), (partly, "wrong")]
    assert labels == [
        (side, label) for pair in expected for side, label in zip(("baseline", "file"), pair, strict=True)
    ]


def test_the_rule_for_completions_of_a_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"question": "Which?", "gold": "7"}
    for name, answer in (("a", "007"), ("b", "**7**")):
        text = f"<answer>{answer}</answer>"
        completion = text if name == "a" else [{"role": "assistant", "content": text}]
        lines(tmp_path / f"{name}.jsonl", [row | {"completion": completion}])
    for rule, first, second in (("number", 1, 1), ("text", 0, 1), ("strict", 1, 0)):
        # One rule scores both sides.
        evaluated("completions=a.jsonl", "baseline=b.jsonl", f"data.answer={rule}", f"name={rule}")
        report = report_of(tmp_path / "outputs" / "evaluations", rule)
        assert report["figures"]["accuracy_strict"] == first
        (difference,) = (tmp_path / "outputs" / "evaluations").glob(f"{rule}-vs-*.json")
        assert json.loads(difference.read_text())["difference"]["accuracy_strict"]["value"] == first - second


def test_completions_of_a_run_against_others(folder, capsys) -> None:
    evaluated("completions=A/completions/step_000002.parquet", "k=[1]")
    assert "problems     2 of that file" in capsys.readouterr().out
    # An evaluation's Parquet is a file of completions too.
    evaluated("run=A", "name=x")
    evaluated("completions=A/evaluations/x.parquet", "baseline=A/evaluations/before.parquet", "name=y")
    report = report_of(folder / "outputs" / "evaluations", "y")
    assert report["figures"] == results(folder)["after"]
    (comparison,) = (folder / "outputs" / "evaluations").glob("y-vs-before-*.json")
    assert json.loads(comparison.read_text())["difference"] == results(folder)["difference"]
    evaluated("run=A", "baseline=A/evaluations/x.parquet")
    assert "Right only under run: 0 of 12; only under baseline: 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "completions=made.jsonl: the file has no completions."),
        ([*ROWS, "{"], "made.jsonl, line 5: not JSON"),
        ([{"question": "1?", "gold": "1"}], "line 1: there is no column 'completion', only 'question', 'gold'."),
        (
            [{"question": "", "gold": "1", "completion": "1"}],
            "line 1: 'question' is ''; it must hold text or a number.",
        ),
        ([{"question": "1?", "gold": None, "completion": "1"}], "line 1: 'gold' is None"),
        ([{"question": "1?", "gold": "1", "completion": ["1"]}], "line 1: 'completion' is ['1']"),
        (
            [ROWS[0] | {"completion": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1"}]}],
            "line 1: 'completion' has messages of the roles user, assistant; it must hold text, or one message",
        ),
        (
            [ROWS[0] | {"completion": [{"role": "assistant", "content": None}]}],
            "line 1: 'completion' is None; the message must hold text.",
        ),
        ([ROWS[0] | {"completion_ids": "5"}], "line 1: 'completion_ids' is '5'; it must be a list of whole numbers"),
        ([ROWS[0] | {"gold": float("nan")}], "line 1: 'gold' is nan"),
        ([ROWS[0] | {"tokens": -5}], "line 1: 'tokens' is -5; it must be a whole number."),
        ([ROWS[0] | {"tokens": "5"}], "line 1: 'tokens' is '5'; it must be a whole number."),
        ([ROWS[0] | {"truncated": "no"}], "line 1: 'truncated' is 'no'; it must be true or false."),
    ],
)
def test_bad_files_of_completions(tmp_path, monkeypatch, rows: list, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "made.jsonl", rows)
    with pytest.raises(UserError) as error:
        evaluated("completions=made.jsonl")
    assert message in str(error.value) and "\n" not in str(error.value)


def a_protocol(folder: Path) -> dict:
    return report_of(folder / "A" / "evaluations", "after")["protocol"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=nowhere"], "nowhere is not a run directory"),
        (["run=A", "samples=4"], "samples=4: greedy completions are all equal; add temperature=1.0."),
        (["run=A", "samples=0"], "samples=0: must be between 1 and 256."),
        (["run=A", "samples=4", "temperature=1", "k=[1,8]"], "k=[1, 8]: must not exceed samples=4."),
        (["run=A", "temperature=-1"], "temperature=-1.0: must be 0 for greedy decoding, or between"),
        (["run=A", "rollout=generate", "rollout.top_p=0.9"], "has no effect on greedy decoding; add temperature=1.0."),
        (["run=A", "rollout.top_p=0.9"], "rollout=fast samples from the policy's own distribution"),
        (["run=A", "name=a/b"], "name=a/b: must be a file name"),
        (["run=A", "device=cuda"], "device=cuda: no CUDA device is found. To run on the CPU: device=cpu"),
        (["run=A", "data=jsonl", "data.path=."], "data.path: there is no file train.jsonl; the folder has empty.jsonl"),
        (["run=A", "k=5"], "k=5: a list is written in brackets, k=[5]."),
        (["completions=f/ünï.jsonl"], "completions=f/ünï.jsonl: this value needs quotes within quotes"),
        (
            ["completions=outputs/evaluations/mine.parquet", "name=mine"],
            "name=mine: the evaluation would replace outputs/evaluations/mine.parquet",
        ),
        (["run=A", "data=jsonl", "data.path=.", "data.test_file=empty.jsonl"], "data=jsonl: the held-out split has no"),
        (["run=A", "rewards.corectness=1"], "rewards.corectness: the composed stack has no such reward"),
        (["run=A", "num_generations=4"], "num_generations: there is no such setting. "),
        (["run=A", "sample=4"], "sample: there is no such setting. Did you mean 'samples'?"),
        (["baseline=before"], "baseline=before: means the policy from which run= was trained; add run=FOLDER."),
        (["run=A", "baseline=B"], "baseline=B: there is no such folder; give the folder of a run, a file of"),
        (["run=A", "baseline=B.jsonl"], "baseline: there is no file B.jsonl."),
        (["completions=B.txt"], "completions=B.txt: the name of a file of completions ends in .jsonl or .parquet."),
        (["completions=B.parquet"], "completions: there is no file B.parquet."),
        (["completions=bad.parquet"], "completions: bad.parquet is damaged or not a Parquet file"),
        (["run=A", "completions=B.jsonl"], "evaluate one of them; the other can be the baseline="),
        (["completions=made.jsonl", "data.eval_problems=3"], "data.eval_problems: completions=FILE uses no policy"),
        (["completions=made.jsonl", "k=[4]"], "k=[4]: a problem has only 2 completions"),
        (["completions=single.jsonl", "k=[2]"], "k=[2]: a problem has only 1 completions"),
        (["completions=made.jsonl", "k=[]"], "k=[]: must be a list of whole numbers from 1 to 1,000,000"),
        (["completions=made.jsonl", "k=[0,1]"], "k=[0, 1]: must be a list of whole numbers from 1 to 1,000,000"),
        (["completions=made.jsonl", "name=here"], "name=here: outputs/evaluations/here.json holds another evaluation"),
        (["run=A", "name=after"], "A/evaluations/after.json holds another evaluation"),
        (["run=A", "name=half", "samples=1"], "half.partial.jsonl holds another evaluation, which was interrupted"),
        (["run=A", "name=hurt"], "hurt.partial.jsonl is damaged; delete it to start again."),
        (["completions=blank.parquet"], "blank.parquet, row 2: 'gold' is None; it must hold text or a number."),
        (["run=A", "baseline=made.jsonl"], "baseline: a paired comparison needs the same problems; 0 of 12 are"),
    ],
)
def test_mistakes(folder, overrides: list[str], message: str) -> None:
    (folder / "empty.jsonl").write_text("\n")
    (folder / "bad.parquet").write_text("PAR1")
    lines(folder / "made.jsonl", ROWS)
    lines(folder / "single.jsonl", ROWS[:2])
    pd.DataFrame([ROWS[1], ROWS[3] | {"gold": None}]).to_parquet(folder / "blank.parquet")
    elsewhere = folder / "outputs" / "evaluations"
    elsewhere.mkdir(parents=True)
    pd.DataFrame(ROWS[1:2]).to_parquet(elsewhere / "mine.parquet")
    (elsewhere / "here.json").write_text(json.dumps({"identity": "12345678", "protocol": a_protocol(folder)}))
    (folder / "A" / "evaluations" / "half.partial.jsonl").write_text('{"identity": "12345678"}\n[0, 0, "", 1, false]\n')
    (folder / "A" / "evaluations" / "hurt.partial.jsonl").write_text('{"identity": "12345678"}\n[0, 0, "]\n\n')
    with pytest.raises(UserError) as error:
        evaluated(*overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 0", "seeds: 0", "A was made by another version of this project"),
        (
            "eval_batch_size: 128\n",
            "",
            "were changed: there is no eval_batch_size. Its policy can still be used, model",
        ),
        ("device: cpu", "device: tpu", "device=tpu: must be one of cpu, cuda"),
        ("model:", "model: [", ".hydra/config.yaml is damaged: "),
    ],
)
def test_runs_that_cannot_be_read(folder, old: str, new: str, message: str) -> None:
    saved = folder / "A" / ".hydra" / "config.yaml"
    saved.write_text(saved.read_text().replace(old, new))
    with pytest.raises(UserError) as error:
        evaluated("run=A")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_runs_without_a_policy(folder) -> None:
    tokenizer = folder / "A" / "policy" / "tokenizer.json"
    tokenizer.rename(folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"model.path=.*A/policy: "):
        evaluated("run=A")
    (folder / "tokenizer.json").rename(tokenizer)
    (folder / "A" / "policy" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"model.path=.*A/policy: cannot be loaded; a file is missing or damaged"):
        evaluated("run=A")
    shutil.rmtree(folder / "A" / "policy")
    with pytest.raises(UserError, match="A holds a run that was not finished"):
        evaluated("run=A")


@pytest.mark.parametrize("arguments", [["run=nowhere"], ["samples=4"], ["modle=tiny"]])
def test_the_command_ends_in_one_line_without_torch(light, tmp_path, arguments: list[str]) -> None:
    done = light("grpo.evaluate", *arguments)
    said = done.stderr.splitlines()
    assert done.returncode == 1 and len(said) == 1 and said[0].startswith("error: ") and done.stdout == ""
    assert "torch" not in done.modules and not list(tmp_path.iterdir())


def test_help_teaches(light) -> None:
    done = light("grpo.evaluate", "--help")
    assert done.returncode == 0 and "run=A baseline=B" in done.stdout and "completions=file.jsonl" in done.stdout


@needs_gsm8k
@needs_qwen
def test_any_policy_on_gsm8k(forked, tmp_path) -> None:
    cut = [f"model.path={QWEN}", "model.init=random", "model.num_layers=2", f"data.path={GSM8K}"]
    few = ["data.eval_problems=5", "max_completion_length=12", "eval_batch_size=2", "name=x"]
    done = forked("grpo.evaluate", "model=qwen2.5-0.5b", "data=gsm8k", *cut, *few)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "5 held-out problems of gsm8k" in said and "random weights of seed 0" in said
    assert "at most 12 tokens, ended by <|im_end|>" in said
    report = report_of(tmp_path / "outputs" / "evaluations")
    assert report["figures"]["n"] == 5 and report["figures"]["truncated"] > 0
    table = pd.read_parquet(tmp_path / "outputs" / "evaluations" / "x.parquet")
    with open(os.path.join(GSM8K, "test.jsonl")) as file:
        drawn = [row["question"] for row in map(json.loads, file) if row["question"] in set(table["question"])]
    assert table["question"].tolist() == drawn and len(drawn) == 5
