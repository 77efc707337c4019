"""The process of a command: output, environment variables, working directory, signals."""

import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import pytest

from grpo import audit, calculator, evaluate, plan, report, reproduce, sample, train
from grpo.core import distributed
from grpo.core.errors import UserError
from grpo.core.process import guard_stream
from grpo.core.signals import SignalHandler, StoppedBySignal
from tests.conftest import SMALL


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def closed_terminal() -> int:
    terminal, process = pty.openpty()
    os.close(terminal)
    return process


def closed_socket() -> int:
    import socket

    here, there = socket.socketpair()
    there.close()
    return here.detach()


LOST: dict[str, tuple[Callable[[], int], str, str]] = {
    "a pipe without a reader": (closed_pipe, "INFO", "Broken pipe"),
    "a socket without a reader": (closed_socket, "INFO", "Broken pipe"),
    "a full device": (lambda: os.open("/dev/full", os.O_WRONLY), "WARNING", "No space left on device"),
    "a terminal that was closed": (closed_terminal, "WARNING", "Input/output error"),
    "a file that is only read": (lambda: os.open(os.devnull, os.O_RDONLY), "WARNING", "Bad file descriptor"),
}


@pytest.mark.parametrize(("open_lost", "level", "reason"), LOST.values(), ids=LOST)
def test_output_that_cannot_be_written_is_discarded_after_one_log_message(
    caplog, open_lost, level: str, reason: str
) -> None:
    caplog.set_level("INFO")
    with open(open_lost(), "wb", buffering=0) as file:
        plain = io.TextIOWrapper(file)
        stream = guard_stream(plain, "Standard output")
        for line in range(3):
            print(f"line {line}", file=stream, flush=True)
    (note,) = [record for record in caplog.records if record.name == "grpo"]
    assert note.levelname == level
    assert note.getMessage() == f"Standard output cannot be written ({reason}): the rest of it is dropped."


def test_output_waits_for_a_slow_reader_and_replaces_characters_that_the_encoding_lacks() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    text = "\N{SNOWMAN}" + "x" * 300_000  # more than the buffer of a pipe
    read: list[bytes] = []
    with open(reading, "rb") as reader, open(writing, "wb", buffering=0) as file:
        later = Timer(0.1, lambda: read.append(reader.read(300_001)))
        later.start()
        plain = io.TextIOWrapper(file, encoding="ascii")
        print(text, file=guard_stream(plain, "Standard output"), flush=True)
        later.join()
    assert read == [b"?" + b"x" * 300_000]


@pytest.mark.parametrize("full", [False, True], ids=["a reader that leaves", "a full device"])
def test_training_continues_after_its_terminal_is_closed(start, tmp_path: Path, full: bool) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    output = {"stdout": "/dev/full", "stderr": "/dev/full"} if full else {"stdout": str(fifo)}
    run = start(*SMALL, "tracking=none", "hydra.run.dir=run", files=output)
    if not full:
        with fifo.open() as reader:
            assert reader.readline().startswith("model ")
    assert run.ended() == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 2
    log = (tmp_path / "run" / "train.log").read_text()
    assert "2 steps in" in log and "Report: run/report.html" in log
    assert log.count("Standard output cannot be written") == 1 and "Traceback" not in log


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--shell-completion", "install=bash"]])
def test_a_command_ends_without_a_message_when_its_reader_ends(start, tmp_path: Path, arguments: list[str]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    run = start(*arguments, files={"stdout": str(fifo)})
    with fifo.open() as reader:
        assert reader.read(1)
    assert run.ended() == 0
    assert run.complained() == ""


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (train.main, ["max_steps=1"]),
        (evaluate.main, ["run=x"]),
        (audit.main, []),
        (plan.main, []),
        (report.main, ["x"]),
        (sample.main, ["x"]),
        (reproduce.main, ["x"]),
        (calculator.main, ["--no-browser"]),
    ],
    ids=lambda each: getattr(each, "__module__", None),
)
def test_a_working_directory_that_was_deleted(tmp_path, monkeypatch, capsys, main, arguments: list[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # commands set it; monkeypatch restores it
    with pytest.raises(SystemExit) as ended:
        main()
    error = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err.strip()
    assert error == "error: the working directory was deleted; change to one that exists, cd FOLDER."


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x: must be a whole number, at least 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: must be a whole number, at least 1"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE=: must be a whole number"),
        ({"RANK": "x"}, "RANK=x: must be a whole number, at least 0"),
        ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK=1.5: must be a whole number"),
        ({"LOCAL_WORLD_SIZE": "two"}, "LOCAL_WORLD_SIZE=two: must be a whole number"),
        ({"RANK": "3"}, "RANK=3: must be less than WORLD_SIZE=1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2: must be less than WORLD_SIZE=2"),
    ],
    ids=str,
)
def test_invalid_variables_of_a_launcher(monkeypatch, variables: dict[str, str], message: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as refused:
        distributed.init_process()
    assert str(refused.value).startswith(message)
    with pytest.raises(SystemExit, match=message.partition(":")[0]):
        train.main()


def python(code: str, *arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("argument", "environment", "message"),
    [
        ("system_prompt=é", {"LC_ALL": "C", "PYTHONUTF8": "0"}, "lacks some of its characters; set LC_ALL=C.UTF-8"),
        ("data.path=数据", {"LC_ALL": "C", "PYTHONUTF8": "0"}, "lacks some of its characters; set LC_ALL=C.UTF-8"),
        ("é", {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, "lacks some of its characters; set LC_ALL=C.UTF-8"),
        ("system_prompt=é", {"LC_ALL": "C", "PYTHONUTF8": "1"}, ""),
        ("system_prompt=é", {"LC_ALL": "C.UTF-8"}, ""),
        (b"hydra.run.dir=\xff", {"LC_ALL": "C.UTF-8"}, "it is not UTF-8"),
    ],
)
def test_an_argument_that_the_locale_cannot_read(argument: str | bytes, environment, message: str) -> None:
    done = python("from grpo.core.process import prepare_process; prepare_process()", argument, **environment)
    assert (done.returncode == 0) == (message == "")
    assert message in done.stderr


def test_a_backend_that_matplotlib_does_not_know() -> None:
    assert python("import grpo.reports.run_figures", MPLBACKEND="nope").returncode == 0


LONG_CALL = 5_000_000  # iterations of one call that takes seconds and that Python cannot interrupt


def test_a_signal_during_a_long_call_is_reported_immediately(caplog, capsys) -> None:
    with SignalHandler() as signals, signals.deferred("finishing the step"):
        Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", LONG_CALL)
        ended = time.time()
    assert signals.received == signal.SIGTERM
    (noted,) = caplog.records
    assert noted.getMessage() == "SIGTERM: finishing the step; a second one stops at once."
    assert noted.created < ended - 0.5
    assert capsys.readouterr().err == f"\n{noted.getMessage()}\n"


def test_a_second_signal_ends_a_long_call() -> None:
    code = (
        "import hashlib, os, signal, threading, time\nfrom grpo.core.signals import SignalHandler\n"
        "for wait in (0.2, 0.6): threading.Timer(wait, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "with SignalHandler() as signals, signals.deferred('finishing the step'):\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    assert python(code).returncode == 128 + signal.SIGTERM


def test_a_signal_to_a_child_process_does_not_stop_the_run(caplog) -> None:
    with SignalHandler() as signals, signals.deferred("finishing the step"):
        if not (child := os.fork()):
            signal.pause()
            os._exit(0)
        time.sleep(0.2)
        for number in (signal.SIGTERM, signal.SIGTERM):
            os.kill(child, number)
        os.waitpid(child, 0)
        time.sleep(0.1)
    assert signals.received is None and not caplog.records


def test_nested_signal_handlers() -> None:
    with SignalHandler() as outer, pytest.raises(StoppedBySignal):
        with SignalHandler() as inner, inner.deferred("finishing the step"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner.received == signal.SIGTERM and outer.received is None
        os.kill(os.getpid(), signal.SIGTERM)
    assert outer.received == signal.SIGTERM
