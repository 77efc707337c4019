"""The command `grpo`, and what `import grpo` costs."""

import importlib
import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import grpo
from grpo.__main__ import COMMANDS
from tests.conftest import surroundings

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "trl", "hydra", "omegaconf", "rich", "pandas", "numpy", "matplotlib"}


def python(*arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A process of its own in the checkout, and the seconds that it computed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT,
                           env=surroundings() | environment)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["-c", "import grpo"], ["-m", "grpo"], ["-m", "grpo", "--version"]])
def test_starting_is_quick(arguments) -> None:
    assert min(python(*arguments)[1] for _ in range(3)) < 0.3
    imported = {
        line.rpartition("|")[2].strip() for line in python("-X", "importtime", *arguments)[0].stderr.split("\n")
    }
    assert "grpo" in imported and not imported & HEAVY


def test_importing_keeps_the_backend_of_matplotlib_and_names_the_exports() -> None:
    code = "import os; import grpo; assert os.environ['MPLBACKEND'] == 'QtAgg'; grpo.nonsense"
    ended, _ = python("-c", code, MPLBACKEND="QtAgg")
    assert ended.stderr.endswith("AttributeError: module 'grpo' has no attribute 'nonsense'\n")
    assert set(grpo.__all__) < set(dir(grpo))
    assert all(getattr(grpo, name) for name in grpo.__all__)


def test_the_list_of_commands() -> None:
    listed = python("-m", "grpo")[0].stdout
    assert listed == python("-m", "grpo", "--help")[0].stdout == python("-m", "grpo", "-h")[0].stdout
    assert all(len(line) <= 80 for line in listed.splitlines())
    modules = [path.stem for path in (ROOT / "grpo").glob("[a-z]*.py") if "\ndef main() -> None:\n" in path.read_text()]
    assert sorted(modules) == sorted(COMMANDS)
    for name, purpose in COMMANDS.items():
        assert f"\n  {name:<12}{purpose}\n" in listed
        assert callable(importlib.import_module(f"grpo.{name}").main)


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert grpo.__version__ == project["version"]
    assert python("-m", "grpo", "--version")[0].stdout == f"grpo {project['version']}\n"
    module, _, function = project["scripts"]["grpo"].partition(":")
    assert getattr(importlib.import_module(module), function)
    assert (ROOT / "grpo" / "py.typed").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "trian: there is no such command. Did you mean 'train'? Commands: train, sample"),
        (["frobnicate"], "frobnicate: there is no such command. Commands: train, sample"),
        (["--verbose"], "--verbose: there is no such command"),
        (["max_steps=3"], "max_steps=3: a setting follows the name of a command, grpo train max_steps=3"),
        (["train", "max_step=3"], "max_step: there is no such setting. Did you mean 'max_steps'?"),
        (["sample", "nowhere"], "nowhere is not a run directory"),
        (["--shell-completion"], 'eval "$(grpo --shell-completion install=bash)"'),
    ],
)
def test_mistakes(arguments, message, command) -> None:
    ended = command("grpo", *arguments)
    assert ended.returncode and message in ended.stderr and "Traceback" not in ended.stderr


def test_commands_get_their_arguments(command) -> None:
    help_of_train = command("grpo", "train", "--help")
    assert help_of_train.stdout == command("grpo.train", "--help").stdout
    assert "num_generations: 7" in command("grpo", "train", "--cfg", "job", "num_generations=7").stdout
    assert command("grpo", "sample", "--help").stdout.startswith("usage: python -m grpo.sample")


def test_tab_completion_in_bash(tmp_path) -> None:
    program = tmp_path / "grpo"
    program.write_text(f"#!{sys.executable}\nfrom grpo.__main__ import main\nmain()\n")
    program.chmod(0o755)
    (tmp_path / "outputs").mkdir()
    lines = ["", "tr", "train num_g", "train model=tin", "train max_steps=3 optimizer.l", "evaluate samp", "sample out"]
    script = """
eval "$(grpo --shell-completion install=bash)"
complete -p grpo
while IFS= read -r COMP_LINE; do
    COMP_WORDS=($COMP_LINE); [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_POINT=${#COMP_LINE}
    hydra_bash_completion
    echo "${COMPREPLY[*]}"
done
"""
    environment = surroundings() | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    typed = "".join(f"grpo {line}\n" for line in lines)
    ended = subprocess.run(["bash", "-c", script], input=typed, capture_output=True, text=True, cwd=tmp_path,
                           env=environment)  # fmt: skip
    assert ended.stdout.splitlines() == [
        "complete -o default -o nospace -F hydra_bash_completion grpo",
        " ".join(COMMANDS),
        "train",
        "num_generations=",
        "model=tiny",
        "optimizer.lr=",
        "samples=",
        "outputs",
    ]
