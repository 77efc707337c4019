"""The checks of a submission are the same in `make lint`, pre-commit, .ci/run and on GitHub."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))


def recipe(target: str) -> list[str]:
    """The commands of a target, with the names of variables replaced."""
    lines = MAKEFILE.partition(f"\n{target}:")[2].split("\n\n")[0].splitlines()[1:]
    variables = {"$(RUN)": ".venv/bin/python", "$(VENV)": ".venv"}
    for name, value in variables.items():
        lines = [line.replace(name, value) for line in lines]
    return [line.strip().removeprefix("@") for line in lines]


def test_pre_commit_runs_what_make_lint_runs() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [each["repo"] for each in repositories] == ["local"]  # which needs no network
    hooks = repositories[0]["hooks"]
    assert len(recipe("lint")) >= 4
    assert [hook["entry"] for hook in hooks] == recipe("lint")
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)


def test_github_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "python" in step.get("uses", "")]
    assert PROJECT["requires-python"] == f">={python}"


def test_ci_runs_lint_and_all_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == [
        "make lint",
        "make test ARGS='-m \"slow or not slow\"'",
    ]


def test_targets_that_are_named_exist() -> None:
    assert set(re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[0].split()) == TARGETS
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / ".ci" / "run"]
    named = {name for page in pages for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"train", "test", "docs"} <= named <= TARGETS


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert citation["version"] == newest == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
