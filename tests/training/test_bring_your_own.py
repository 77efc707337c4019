"""Runs on datasets whose answers are not numbers: the headline of a run equals a count by hand over its saved rows.

The policy is a small Qwen2.5 with random weights, which never answers; its sampler gives scripted completions. The of the run is real: tokenizer, chat template, training, rewards, evaluation, files and report.
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from grpo.reports.run_report import headline, write_run_report
from grpo.runs.saved_run import read_run
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from tests.helpers.models import QWEN, needs_qwen
from tests.helpers.runs import metrics
from tests.tasks.test_answer_types import needs_math_verify

SIZE = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
SIZE |= {"num_key_value_heads": 1, "max_window_layers": 1, "layer_types": ["full_attention"]}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Qwen2.5's tokenizer and a small config of its architecture."""
    assert QWEN is not None
    folder = tmp_path_factory.mktemp("qwen")
    for file in Path(QWEN).iterdir():
        folder.joinpath(file.name).symlink_to(file.resolve())
    config = json.loads(Path(QWEN, "config.json").read_text())
    folder.joinpath("config.json").unlink()
    folder.joinpath("config.json").write_text(json.dumps(config | SIZE))
    return folder


def answered(answer: str) -> str:
    return f"<reasoning>\nhm\n</reasoning>\n<answer>\n{answer}\n</answer>\n"


def write_rows(folder: Path, row: Any, test_row: Any) -> str:
    for name, make, count in (("train", row, 6), ("test", test_row, 5)):
        lines = [json.dumps(make(i)) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return f"data.path={folder}"


def run_scripted(
    train: Any, monkeypatch: Any, qwen: Path, scripts: Any, *overrides: str
) -> tuple[Path, dict[str, Any]]:
    """A run whose sampler answers the i-th prompt of a call with the i-th of `scripts(prompt)`, again and again."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(qwen)

    def complete(sampler: PrefixSharingSampler, prompts: Any, *_: Any, **__: Any) -> list[list[int]]:
        texts = tokenizer.batch_decode(prompts)
        chosen = [next(itertools.islice(itertools.cycle(scripts(text)), i, None)) for i, text in enumerate(texts)]
        return [[*tokenizer.encode(completion), sampler.end_token_ids[0]] for completion in chosen]

    monkeypatch.setattr(PrefixSharingSampler, "complete", complete)
    policy = ["model=qwen2.5-0.5b", f"model.path={qwen}", "model.init=random", "max_completion_length=48"]
    sizes = ["save_steps=null", "data.train_problems=6", "data.eval_problems=5"]
    return train(*policy, *sizes, *overrides)


def check_headline(out: Path, results: dict[str, Any], is_right: Any) -> None:
    """The figures of the run against a count over the rows of its evaluation."""
    rows = pd.read_parquet(out / "evaluations" / "after.parquet")
    right = sum(is_right(row) for row in rows.itertuples())
    assert 0 < right < len(rows) == 5
    assert [example["question"] for example in results["examples"]] == rows["question"].tolist()[:3]
    for when in ("before", "after"):
        assert results[when]["accuracy_strict"] == right / 5
    assert f"stayed at {right / 5:.1%}" in headline(read_run(out))[0]
    assert rows["accuracy_strict"].sum() == right and rows["rewards/correctness"].sum() == 2 * right
    assert "rewards/int" not in rows and "reward int" not in write_run_report(out).read_text()
    for line in metrics(out):
        assert line["completions/correct"] == line["rewards/correctness/mean"] / 2


@needs_qwen
@needs_math_verify
def test_mathematics(train, tmp_path, monkeypatch, qwen) -> None:
    def row(i: int) -> dict[str, Any]:
        return {
            "problem": f"What is {i + 1}/{2 * i + 2}?",
            "level": "Level 1",
            "solution": "It is \\boxed{\\frac{1}{2}}.",
        }

    def test_row(i: int) -> dict[str, Any]:
        return row(i) | {"problem": f"Halve {i}/{i}."}

    right = [answered("1/2"), "So it is \\boxed{0.5}.", answered("$\\boxed{\\dfrac{2}{4}}$")]
    wrong = [answered("2"), "It is \\frac{1}{2}"]
    scripts = [right[0], wrong[0], right[1], wrong[1], right[2]]
    files = write_rows(tmp_path, row, test_row)
    out, results = run_scripted(train, monkeypatch, qwen, lambda prompt: scripts, "data=math", files)
    check_headline(out, results, lambda row: row.completion in right)


@needs_qwen
def test_countdown(train, monkeypatch, qwen) -> None:
    def scripts(prompt: str) -> list[str]:
        """Right, wrong, right, another number, without the format; anything for the example question of all runs."""
        if (problem := re.search(r"numbers \[(\d+), (\d+)\].* equals (\d+)\.", prompt)) is None:
            return [""]
        first, second, target = problem.groups()
        pairs = itertools.product((f"{first} {{}} {second}", f"{second} {{}} {first}"), "+-*/")
        solution = next(text for text in (pair.format(sign) for pair, sign in pairs) if eval(text) == int(target))
        return [
            answered(f"{solution} = {target}"),
            answered(target),
            answered(solution),
            answered(f"{target} + 0"),
            solution,
        ]

    settings = ["data=countdown", "data.min_numbers=2", "data.max_numbers=2", "data.validation_problems=1"]
    out, results = run_scripted(train, monkeypatch, qwen, scripts, *settings)

    def is_right(row: Any) -> bool:
        answer = re.search(r"<answer>\n(\d+) (.) (\d+)(?: = \d+)?\n</answer>", row.completion)
        numbers = re.findall(r"\d+", row.question.partition("]")[0])
        return bool(
            answer
            and sorted([answer[1], answer[3]]) == sorted(numbers)
            and eval(f"{answer[1]} {answer[2]} {answer[3]}") == int(row.gold)
        )

    check_headline(out, results, is_right)


@needs_qwen
def test_multiple_choice(train, tmp_path, monkeypatch, qwen) -> None:
    def row(i: int) -> dict[str, Any]:
        choices = {"text": [f"{i}", f"{i + 1}", f"{i + 2}"], "label": ["A", "B", "C"]}
        return {"id": f"r{i}", "question": f"What comes after {i}?", "choices": choices, "answerKey": "B"}

    def test_row(i: int) -> dict[str, Any]:
        return row(i + 100) | {"id": f"t{i}"}

    scripts = [answered("(B)"), answered("A"), answered("**B**"), "The answer is B", answered("B) 999, or C")]
    files = write_rows(tmp_path, row, test_row)
    out, results = run_scripted(train, monkeypatch, qwen, lambda prompt: scripts, "data=multiple_choice", files)
    check_headline(out, results, lambda row: row.completion in (scripts[0], scripts[2]))
    assert results["after"]["accuracy_flexible"] == 3 / 5
    assert "right as last letter of an option" in write_run_report(out).read_text()
