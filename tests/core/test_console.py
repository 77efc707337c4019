"""Output in a terminal of 80 columns, progress, and escaping of text from a model or a data set."""

import json
import re
import threading
import time
from importlib import import_module
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from grpo.core import console as terminal
from grpo.core.console import error_message, print_message
from grpo.core.progress import progress, spinner
from grpo.core.tables import key_value_table, run_header
from grpo.core.text import printable
from grpo.reports.page import highlight_tags
from grpo.reports.run_report import write_run_report
from grpo.reports.sweep_report import write_sweep_report
from grpo.reports.sweep_results import read_sweep
from tests.helpers.made_up import made_up, made_up_sweep, plan

RESUME = "python -m grpo.train resume=outputs/2026-11-28/19-22-15 max_steps=N optimizer.lr=1e-4"
SYNC = "wandb sync outputs/sweeps/2026-11-28/19-22-15/*/wandb/offline-run-20261128_192215-abcdefgh"
QUOTED = "torchrun --nproc_per_node 2 -m grpo.train 'resume=\"my runs/first of the new ones\"' system_prompt='a b c'"
PATH = "outputs/a_folder_with_a_name_that_is_longer/than_one_line_of_the_terminal/policy/model.safetensors"


def at_80(message) -> list[str]:
    """The lines printed to a terminal of 80 columns."""
    to = Console(width=80, force_terminal=True, color_system=None, highlight=False)
    with to.capture() as capture:
        print_message(message, to)
    return capture.get().splitlines()


@pytest.mark.parametrize(
    "message,pieces",
    [
        (f"Stopped by SIGTERM after step 3 of 10. To resume: {RESUME}", [RESUME]),
        (f"W&B: tracked offline, in a folder of the run. To upload: {SYNC}", [SYNC]),
        (f"This needs the processes that it was started with, so type {QUOTED} in that folder", [QUOTED]),
        (f"the policy is not here any more, so nothing can be sampled from it: {PATH}.", [f"{PATH}."]),
        (f"two of them: {PATH} and {PATH}, of which the first is newer", [PATH, f"{PATH},"]),
        ("about 33 minutes, by the first steps; " * 6, ["minutes,", "first"]),
        ("a question with a long word: " + "漢字" * 25 + " " + "漢字" * 10, ["漢字" * 25, "漢字" * 10]),
        ("  indented " + "first_message: there is no such reward " * 4, ["first_message:"]),
    ],
)
def test_lines_wrap_at_spaces_and_paths_and_commands_are_not_broken(message: str, pieces: list[str]) -> None:
    for form in (message, Text(message, "bold"), key_value_table({"name": message}), run_header({"name": message})):
        lines = at_80(form)
        assert len(lines) > 1
        for line in lines:
            assert Console().measure(Text(line)).maximum <= 80 or any(piece in line for piece in pieces), line
        assert all(any(piece in line for line in lines) for piece in pieces)
        words = " ".join(lines).split()
        assert [word for word in words if word != "name"] == message.split()


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "plan", "preflight", "audit", "sample", "reproduce", "report"]
)
def test_help_has_lines_of_80_columns_without_a_broken_word(command: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", [f"grpo.{command}", "--help"])
    monkeypatch.setattr(terminal.Console, "is_terminal", True)
    with pytest.raises(SystemExit):
        import_module(f"grpo.{command}").main()
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines and [line for line in lines if len(line) > 80] == []
    assert any("python -m grpo." in line for line in lines)


def test_continuation_lines_are_indented() -> None:
    assert all(line.startswith("  ") for line in at_80("  " + "word " * 40))
    first, *others = at_80(run_header({"folder": "word " * 40}))
    assert first.startswith("folder  word") and all(line.startswith("        word") for line in others)


def test_lines_are_not_wrapped_without_a_terminal(capsys) -> None:
    terminal.say("word " * 40)
    terminal.say(run_header({"folder": "word " * 40}))
    assert capsys.readouterr().out.count("\n") == 2
    assert error_message("word " * 40) == "word " * 40


# Invisible characters that a terminal or browser may act on -> their escapes.
INVISIBLE = {
    "\x00": r"\x00",
    "\x1b[31m": r"\x1b[31m",
    "\r": r"\x0d",
    "\x7f": r"\x7f",
    "\x9b2J": r"\x9b2J",  # C1: CSI in one character
    "\xad": r"\xad",  # soft hyphen
    "\u200b": r"\u200b",  # zero width space
    "\u200d": r"\u200d",
    "\u200f": r"\u200f",  # right-to-left mark
    "\u061c": r"\u061c",  # Arabic letter mark
    "\u2028": r"\u2028",
    "\u2029": r"\u2029",
    "\u202e": r"\u202e",  # right-to-left override
    "\u2066": r"\u2066",
    "\ufeff": r"\ufeff",
    "\ufff9": r"\ufff9",
    "\ud800": r"\ud800",
    "\U000e0041": r"\U000e0041",  # tag character
    "é 漢 🙂 \n\t": "é 漢 🙂 \n\t",
}


@pytest.mark.parametrize("text,seen", INVISIBLE.items(), ids=lambda text: ascii(text))
def test_invisible_characters_are_escaped(text: str, seen: str, tmp_path) -> None:
    assert printable(f"a{text}b") == f"a{seen}b"
    assert "".join(at_80(f"a{text}b")).replace(" ", "") == f"a{seen}b".replace("\n", "").expandtabs().replace(" ", "")
    assert seen.strip() in highlight_tags(f"<answer>{text}</answer>", ["<answer>", "</answer>"])


HOSTILE = "".join(INVISIBLE)
TYPED = "".join(character for character in HOSTILE if character < "\ud800")  # YAML cannot hold the others


def page_of_a_run(folder: Path) -> Path:
    run = made_up(folder / "run")
    (run / "results.json").unlink()  # the page of a run without results shows the samples taken during training
    told = {"step": 1, "question": HOSTILE, "gold": HOSTILE, "completion": HOSTILE}
    (run / "transcripts.jsonl").write_text(json.dumps(told) + "\n")
    (run / "metrics.jsonl").write_text(json.dumps({"step": 10, "alarm": HOSTILE, "message": HOSTILE}) + "\n")
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps([TYPED]))
    return write_run_report(run)


def page_of_a_sweep(folder: Path) -> Path:
    made_up_sweep(folder / "sweep", {"num_generations=4": [0.5, 0.6], "num_generations=8": [0.6, 0.8]})
    for job in range(4):
        typed = [f"+{TYPED}={TYPED}{job // 2}", f"num_generations={4 + 4 * (job // 2)}"]
        (folder / "sweep" / str(job) / ".hydra" / "overrides.yaml").write_text(json.dumps(typed))
    (folder / "sweep" / "4").mkdir()
    (folder / "sweep" / "4" / "error.txt").write_text(HOSTILE, errors="surrogatepass")
    plan(folder / "sweep", *[HOSTILE] * 5, command=HOSTILE)
    return write_sweep_report(read_sweep(folder / "sweep"))


@pytest.mark.parametrize("write", [page_of_a_run, page_of_a_sweep])
def test_pages_contain_no_invisible_characters(write, tmp_path) -> None:
    page = write(tmp_path).read_text(encoding="utf-8")
    assert page.count(r"\x1b[31m") > 5 and page.count(r"\u202e") > 5
    assert [character for character in sorted(set(page)) if printable(character) != character] == []


def printed_lines(capsys, lines: int) -> list[str]:
    """Wait for `lines` printed lines; seconds are replaced by `_`."""
    said, end = "", time.monotonic() + 10
    while said.count("\n") < lines and time.monotonic() < end:
        time.sleep(0.01)
        said += capsys.readouterr().out
    return re.sub(r"\d+ s", "_ s", said).splitlines()


def test_progress_without_a_terminal_is_printed_as_lines(capsys, monkeypatch) -> None:
    monkeypatch.setattr("grpo.core.progress.FIRST_LINE_SECONDS", 0.05)
    monkeypatch.setattr("grpo.core.progress.LINE_INTERVAL_SECONDS", 0.1)
    threads = threading.active_count()
    with spinner("loading the policy"):
        assert set(printed_lines(capsys, 3)) == {"loading the policy: _ s"}
    with progress("training", 4) as advance:
        advance(0, "sampling")
        assert set(printed_lines(capsys, 2)) == {"training 0/4  _ s  sampling"}
        advance(4, "reward 0.50")
        assert "training 4/4  _ s  reward 0.50" in printed_lines(capsys, 1)
    capsys.readouterr()
    with terminal.quiet(), spinner("loading"), progress("training", 4) as advance:
        advance(4, "")
        time.sleep(0.2)
    assert capsys.readouterr().out == "" and threading.active_count() == threads


def test_progress_in_a_terminal_is_shown_immediately(monkeypatch) -> None:
    to = Console(width=80, force_terminal=True, highlight=False)
    monkeypatch.setattr("grpo.core.progress.console", to)
    with to.capture() as capture:
        with spinner("loading the policy"):
            pass
        with progress("training", 4) as advance:
            advance(0, "sampling")
    assert "loading the policy" in capture.get() and "training" in capture.get()


def test_the_text_of_a_step_is_below_the_bar(monkeypatch) -> None:
    to = Console(width=80, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr("grpo.core.progress.console", to)
    text = "last step: mean reward 0.97, 24% right inside <answer>, mean length 18 tokens, 16 groups drawn"
    with to.capture() as capture, progress("training", 1000, unit="steps") as advance:
        advance(12, text, "sampling")
    assert re.search(r"training .*  12/1000 steps .*sampling", capture.get())
    assert text in " ".join(capture.get().split())  # in full, wrapped
