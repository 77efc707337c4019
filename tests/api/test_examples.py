"""The notebook and the examples of docs/python-api.md run as they are written."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import grpo
from tests.conftest import SMALL

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"


def test_the_examples_of_the_documentation(tmp_path, monkeypatch) -> None:
    """In order, in one namespace, with smaller runs."""
    monkeypatch.chdir(tmp_path)
    compose, composed = grpo.compose, []

    def compose_small(overrides: Any = ()) -> Any:
        composed.append(overrides)
        resumes = any(override.startswith("resume=") for override in overrides)
        small = [f"max_steps={2 + resumes}"] if resumes else SMALL
        return compose([*(each for each in overrides if not each.startswith("max_steps=")), *small])

    monkeypatch.setattr(grpo, "compose", compose_small, raising=False)
    text = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, f"docs/python-api.md, line {text[: text.index(block)].count(chr(10)) + 1}", "exec"), names)
    assert len(blocks) == 5 and len(composed) == 3
    assert names["config"].rewards["short"] == 0.1
    assert names["page"].is_file() and len(names["answers"]) == 1
    assert names["generated"].shape[1] > names["tokens"]["input_ids"].shape[1]
    resumed = grpo.load_run("short-answers")
    assert resumed.results.steps == 3 and "short" in resumed.completions


def test_the_notebook(tmp_path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None and not cell.outputs for cell in code), "strip the outputs"
    mistake = nbformat.v4.new_code_cell("grpo.compose(['max_step=3'])", metadata={"tags": ["raises-exception"]})
    notebook.cells.append(mistake)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    install, train, plot, ask, figures = code
    assert not install.outputs
    said = "".join(output.get("text", "") or output.data.get("text/plain", "") for output in train.outputs)
    assert "training 30/30" in said and "Report: outputs/" in said
    assert "\r" not in said  # progress is lines, no bar that is drawn again
    assert any("image/png" in output.get("data", {}) for output in plot.outputs)
    (answers,) = ask.outputs
    assert answers.text.count("before: ") == answers.text.count("after: ") == 2
    assert "accuracy_strict/low" in figures.outputs[-1].data["text/plain"]
    assert (tmp_path / "outputs" / "latest" / "results.json").is_file()
    (error,) = notebook.cells[-1].outputs
    (message,) = error.traceback
    assert message.startswith("UserError: max_step: there is no such setting. Did you mean 'max_steps'?")


@pytest.fixture
def install_cell() -> str:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    return next(cell.source for cell in cells if cell.cell_type == "code")


def test_the_notebook_installs_the_project_where_it_is_missing(install_cell, tmp_path, monkeypatch) -> None:
    """As on Colab: an empty folder, in which the repository is cloned and installed."""
    calls = []

    def run(words: Any, check: bool) -> None:
        calls.append(list(map(str, words)))
        if words[0] == "git":
            (Path(words[-1]) / "grpo").mkdir(parents=True)
            (Path(words[-1]) / "grpo" / "__init__.py").touch()

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(install_cell, names)
    clone, install = calls
    checkout = str(tmp_path / "grpo-repository")
    assert clone[:2] == ["git", "clone"] and clone[-2:] == [names["REPOSITORY"], checkout]
    assert install == [sys.executable, "-m", "pip", "install", "--quiet", "-e", checkout]
    assert sys.path[0] == checkout  # an editable installation is found only by a new process
