"""`watch`: the answers that a run shows while it trains, without and with a terminal, and what is printed at its end."""

import fcntl
import itertools
import os
import re
import shlex
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pyte
import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from grpo.training import watch
from grpo.training.watch import WatchedAnswer, moments
from tests.conftest import SMALL
from tests.helpers.runs import assert_same

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
SHORT = [*SMALL, "tracking=none", "max_steps=6", "hydra.run.dir=run"]
SHOWN = re.compile(r"^step (\d+), (right|wrong|right, but not inside <answer>): ", re.MULTILINE)


def test_lines_without_a_terminal(forked) -> None:
    said = forked("grpo.train", *SHORT).stdout
    assert [step for step, _ in SHOWN.findall(said)] == ["0", "2", "4", "6"]
    training = said[said.index("step 0,") :]
    # The showcase question, then a held-out one in turn; at the end the showcase question again.
    questions = re.findall(r"^(\w+ \w+) .*\n  .*\(gold: ", said, re.MULTILINE)
    assert questions[:4:2] == ["Joy can"] * 2 and len(set(questions[:4])) == 2 and questions[3] != questions[1]
    assert re.search(
        r"training 6/6  \d+ s  last step: mean reward \S+, \d+% right inside <answer>, mean length \d+ tokens",
        training,
    )


@pytest.mark.parametrize("arguments", [["watch=false"], ["-m", "seed=0,1", "hydra.sweep.dir=run"]])
def test_nothing_is_shown(forked, arguments: list[str]) -> None:
    done = forked("grpo.train", *SHORT[:-1], *arguments, *([] if "-m" in arguments else SHORT[-1:]))
    assert done.returncode == 0 and not SHOWN.search(done.stdout)


def test_it_changes_no_number(train, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(watch, "STEPS_BETWEEN", 1)
    monkeypatch.setattr(watch, "SHARE_OF_TIME", 1e6)
    # A policy with dropout: sampling must leave the random numbers and the mode of training alone.
    settings = ["max_steps=6", "model.lora_rank=4", "model.lora_dropout=0.2", "optimizer.lr=0.01"]
    without, _ = train(*settings, "watch=false")
    without = without.rename(tmp_path / "without")
    assert not SHOWN.search(capsys.readouterr().out)
    shown, _ = train(*settings)
    assert [int(step) for step, _ in SHOWN.findall(capsys.readouterr().out)] == list(range(7))
    assert_same(without, shown)


def test_moments_left_out_for_want_of_time(train, monkeypatch, capsys) -> None:
    monkeypatch.setattr(watch, "STEPS_BETWEEN", 1)
    monkeypatch.setattr(watch, "SHARE_OF_TIME", 0.0)
    train("max_steps=6")
    assert [int(step) for step, _ in SHOWN.findall(capsys.readouterr().out)] == [0, 2, 4, 6]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 60, 100, 468, 1000, 100_000])
def test_moments(steps: int) -> None:
    shown = sorted(moments(steps))
    assert {0, *watch.example_steps(steps), steps} <= set(shown) and len(shown) <= 31
    gaps = [after - before for before, after in itertools.pairwise(shown)]
    assert max(gaps) - min(gaps) <= 1 and (steps > 600 or max(gaps) <= 30)


def in_terminal(folder: Path, *arguments: str) -> tuple[list[str], str]:
    """A run in a terminal of 80 columns: the lines that are left at its end, and everything that it wrote.

    In a process of its own: rich looks for a terminal when it is imported.
    """
    primary, secondary = os.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    written: list[bytes] = []

    def read() -> None:
        while True:
            try:
                written.append(os.read(primary, 65536))
            except OSError:  # the run has ended
                return

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "grpo.train", *arguments]
    environment = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, cwd=folder, stdout=secondary, stderr=subprocess.PIPE, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    os.close(secondary)
    reader.join()
    os.close(primary)
    # Wider than the terminal, so that a line that is too long shows.
    screen = pyte.HistoryScreen(200, 300, history=10_000)
    pyte.ByteStream(screen).feed(b"".join(written))
    return [line.rstrip() for line in screen.display], b"".join(written).decode()


def test_in_place_in_a_terminal_of_80_columns(tmp_path) -> None:
    lines, written = in_terminal(tmp_path, *SHORT)
    # The path of an interpreter that is not on the PATH has any length.
    assert [line for line in lines if cell_len(line) > 80 and sys.executable not in line] == []
    text = "\n".join(lines)
    # One block is left, that of the last step, with the answer before training.
    assert [step for step, _ in SHOWN.findall(text)] == ["0", "6"]
    assert re.search(r"^training ━+ 6/6 steps in 0:\d\d$", text, re.MULTILINE)
    assert re.search(r"^last step: mean reward .*, mean length \d+ tokens$", text, re.MULTILINE)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    assert {"0", "2", "4", "6"} == {step for step, _ in re.findall(r"step (\d+), (right|wrong)", plain)}


def test_both_accuracies_and_the_next_commands(forked, tmp_path) -> None:
    said = forked("grpo.train", *SHORT[:-1]).stdout
    assert re.search(r"answers right inside <answer> .*, and answers right as last number .*\.", " ".join(said.split()))
    commands = re.findall(r"^[a-z ]+  (\S+ -m grpo\..*)$", said[said.index("\nNext:\n") :], re.MULTILINE)
    assert [command.split("-m ")[1] for command in commands] == [
        "grpo.sample outputs/latest",
        f"grpo.train {shlex.join(SHORT[:-1])} experiment=ablate_rewards",
        "grpo.audit rewards=verbatim",
        "grpo.report outputs/latest --figures",
    ]
    for command in commands:
        _, _, module, *arguments = shlex.split(command)
        if module == "grpo.train":  # the study takes minutes
            arguments += ["--cfg", "hydra"]
        done = forked(module, *arguments)
        assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["num_generations=4"], True),
        (["data=countdown"], False),  # with the stack any_answer, which the study does not compare
        (["rewards=no_int"], False),
        (["seed=3"], False),
    ],
    ids=str,
)
def test_the_ablation_is_named_after_a_run_of_its_stack(forked, tmp_path, settings: list[str], named: bool) -> None:
    run = [word for word in SHORT[:-1] if not word.startswith("num_generations")]
    said = forked("grpo.train", *run, "max_steps=1", *settings).stdout
    assert ("experiment=ablate_rewards" in said[said.index("\nNext:\n") :]) == named


HOSTILE = {
    "empty": "",
    "blank": " \n\n ",
    "markup": "[red]5[/red] [/] [link=x]y[/link] <answer>[bold]5</answer>",
    "control characters": "\x1b[2J\x1b[31m5\r\x07\x9b2J \u202e \u2028 \t\v\f",
    "one long word": "9" * 5_000,
    "wide characters": "漢字" * 2_000,
    "many lines": "<reasoning>\n" + "a line of reasoning\n" * 500 + "</reasoning>\n<answer>\n5\n</answer>\n",
    "surrogates": "\ud800 5",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [80, 40])
def test_answers_of_any_form_fit(name: str, terminal: bool, width: int, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    to = Console(width=width, force_terminal=terminal, color_system=None, highlight=False)
    answer = HOSTILE[name]
    with to.capture() as capture:
        answers = {0: (Text("wrong"), answer), 50: (Text("wrong"), answer)}
        to.print(WatchedAnswer(f"{answer} How many? (gold: 5)", answers, TAGS))
    lines = [line for line in capture.get().split("\n") if line]
    assert 2 <= len(lines) <= 6 and max(map(cell_len, lines)) <= width
    assert lines[-1].endswith("</answer>") or name != "many lines"  # the end of an answer is shown
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e\u2028\ud800]", "".join(lines))


def test_other_formats_and_data(forked, tmp_path: Path) -> None:
    rows = "".join(f'{{"question": "How much is {n} and 1?", "answer": "{n + 1}"}}\n' for n in range(30))
    (tmp_path / "own.jsonl").write_text(rows)
    said = forked("grpo.train", *SHORT, "format=boxed", "data=jsonl", "data.path=own.jsonl").stdout
    assert re.search(r"^How much is \d+ and 1\? \(gold: \d+\)\nstep 0, (right|wrong)", said, re.MULTILINE)
    assert r"right inside \boxed" in said
