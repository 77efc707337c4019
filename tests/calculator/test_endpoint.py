"""The endpoint that scores with Python: what it answers to its page, and what it refuses."""

import json
import signal
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from grpo.config.composition import compose
from grpo.runs.run_dir import RunDir
from grpo.runs.settings import save_settings

REWARDS = """
import os
from grpo.rewards import reward

@reward
def mine(completion, gold, difficulty):
    if completion == "boom":
        raise ValueError("no boom")
    if completion == "forever":
        while True:
            pass
    if completion == "exit":
        os._exit(3)
    return None if completion == "" else difficulty * 0.1
"""
OWN = ("reward_files=[mine.py]", "rewards=correctness_only", "+rewards.mine=0.5", "reward_timeout=1")
GOOD = {"completions": ["18", "<answer>18</answer>"], "gold": "18", "question": "", "columns": {"difficulty": "3"}}


class Client:
    """Sends requests as the page at an address does."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.place, self.token = parts.netloc, parse_qs(parts.query)["token"][0]

    def ask(self, content: Any, path: str = "/score", method: str = "POST", **headers: str | None) -> tuple[int, Any]:
        """The status and the reply to `content`, JSON or bytes; a header that is None is left out."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        sent = {"Host": self.place, "Origin": f"http://{self.place}", "X-Token": self.token}
        sent |= {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
        connection = HTTPConnection(self.place, timeout=20)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


REFUSED = [
    # who asks
    (GOOD, {"Host": "evil.example:8008"}, 403, "the header Host must name 127.0.0.1 or localhost"),
    (GOOD, {"Host": None}, 403, "the header Host must name"),
    (GOOD, {"Host": "127.0.0.1.evil.example"}, 403, "the header Host must name"),
    (GOOD, {"Origin": None}, 403, "the header Origin must be the address of the page"),
    (GOOD, {"Origin": "http://127.0.0.1:1"}, 403, "the header Origin must be"),
    (GOOD, {"Origin": "null"}, 403, "the header Origin must be"),
    (GOOD, {"X_Token": None}, 403, "the token is missing or wrong"),
    (GOOD, {"X_Token": "x"}, 403, "the token is missing or wrong"),
    (GOOD, {"X_Token": "\xff"}, 403, "the token is missing or wrong"),
    (b"", {"method": "GET", "path": "/"}, 403, "the token is missing or wrong; open the address that the calculator"),
    (b"", {"method": "GET", "path": "/", "Host": "evil.example"}, 403, "the header Host must name"),
    # what is asked
    (GOOD, {"path": "/other"}, 404, "POST is for /score and /step"),
    (b"", {"Content_Length": "8000001"}, 413, "a request has at most 8,000,000 bytes"),
    (b"", {"Content_Length": "9" * 5000}, 413, "a request has at most 8,000,000 bytes"),
    (b"", {"Content_Length": None}, 411, "the header Content-Length must be a number"),
    (b"", {"Content_Length": "-1"}, 411, "the header Content-Length must be a number"),
    (b"completions", {}, 400, "the body is not JSON"),
    (b"\xff\x00", {}, 400, "the body is not JSON"),
    (b"[" * 200_000, {}, 400, "the body is not JSON"),
    ([GOOD], {}, 400, "the body is a list, not an object"),
    ({}, {}, 400, "completions is null, not a list"),
    (GOOD | {"completions": "18"}, {}, 400, "completions is a text, not a list"),
    (GOOD | {"completions": []}, {}, 400, "completions must be a list of texts, at least one"),
    (GOOD | {"completions": ["18", 18]}, {}, 400, "completions must be a list of texts"),
    (GOOD | {"gold": 18}, {}, 400, "gold is a number, not a text"),
    (GOOD | {"question": None}, {}, 400, "question is null, not a text"),
    (GOOD | {"columns": []}, {}, 400, "columns is a list, not an object"),
    (GOOD | {"columns": {"difficulty": 3}}, {}, 400, "each of the columns must be a text with JSON"),
    (GOOD | {"columns": {"difficulty": "{"}}, {}, 400, "each of the columns must be a text with JSON"),
    ({"step": True}, {"path": "/step"}, 400, "step is a boolean, not a number"),
    ({"step": 1}, {"path": "/step"}, 422, "step 1: the run has no completions of this step"),
    # what a reward does
    (
        GOOD | {"completions": ["forever"]},
        {},
        422,
        "reward 'mine': no scores after 1 seconds, so its process was ended",
    ),
    (GOOD | {"completions": ["exit"]}, {}, 422, "reward 'mine': its process exited with code 3."),
]


def test_what_the_endpoint_refuses(serve, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    process, said, address = serve("--port", "0", "--no-browser", *OWN)
    assert said[0] == "Python scores correctness 1, int 0, strict_format 0, soft_format 0, xmlcount 0, mine 0.5.\n"
    client = Client(address)
    for content, changes, status, message in REFUSED:
        answered = client.ask(content, **changes)
        assert answered[0] == status and answered[1]["error"].startswith(message), (changes, answered)
        assert "\n" not in answered[1]["error"] and "Traceback" not in answered[1]["error"]
    # After all this it answers as before.
    status, reply = client.ask(GOOD)
    assert status == 200 and reply["errors"] == {}
    assert reply["scores"]["correctness"] == [0.0, 2.0] and reply["scores"]["mine"] == [3 * 0.1] * 2
    process.send_signal(signal.SIGINT)
    out, complained = process.communicate(timeout=10)
    assert process.returncode == 0 and out == "\nStopped.\n" and complained == ""


@pytest.mark.parametrize(
    ("changes", "scores", "errors"),
    [
        ({"completions": ["", "\ud800"]}, [None, 0.1 * 3], {}),
        ({"completions": ["boom", "18"]}, [None, 0.1 * 3], {"0": "raised ValueError: no boom (mine.py:8)"}),
        ({"columns": {}}, [None, None], dict.fromkeys("01", "the reward takes 'difficulty', which has no value here")),
        ({"columns": {"difficulty": '"x"'}}, [None, None], ...),
    ],
    ids=["abstains", "raises", "a column is missing", "a column of another type"],
)
def test_scores_and_errors(endpoint, changes: dict[str, Any], scores: list[float | None], errors: Any) -> None:
    status, reply = endpoint.ask(GOOD | changes)
    assert status == 200 and reply["scores"]["mine"] == scores
    found = reply["errors"].get("mine", {})
    if errors is ...:
        assert found.keys() == {"0", "1"} and "TypeError" in found["0"] and "mine.py" in found["0"]
    else:
        assert found == errors


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """A client of an endpoint in this process."""
    import threading

    from grpo.config.composition import compose_audit
    from grpo.reports.calculator_page import Session
    from grpo.reports.calculator_server import listen

    file = tmp_path_factory.mktemp("rewards") / "mine.py"
    file.write_text(REWARDS)
    session = Session.start(compose_audit([f"reward_files=[{file}]", *OWN[1:]]))
    with listen(0, session) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield Client(f"http://127.0.0.1:{server.server_address[1]}/?token={session.token}")
        server.shutdown()
    session.scoring.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reward_files=[x.py]"], "error: reward_files: no file {}/x.py; give the path of a Python file"),
        (["rewards=mine"], "A reward of your own is added with reward_files=[FILE.py] +rewards.NAME=1."),
        (
            ["fail_on=note"],
            "error: fail_on=note: fail_on is a setting of grpo.audit; the calculator has no such setting.",
        ),
        (["nowhere"], "error: nowhere is not a run directory: it does not exist"),
        (["--config-dir", "nowhere", "rewards=mine"], "error: --config-dir nowhere: there is no such folder."),
        (["nowhere", "rewards=default"], "give one folder of a run, or settings; a run has its own settings"),
    ],
)
def test_mistakes_in_the_command(light, tmp_path, arguments: list[str], message: str) -> None:
    done = light("grpo.calculator", "--no-browser", *arguments)
    assert done.returncode in (1, 2) and message.format(tmp_path) in done.stderr and "Traceback" not in done.stderr


def test_a_stack_from_a_folder_of_configs(serve, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    (tmp_path / "conf" / "rewards").mkdir(parents=True)
    (tmp_path / "conf" / "rewards" / "mine.yaml").write_text("mine: 1.0\n")
    arguments = ("--config-dir", "conf", "rewards=mine", "reward_files=[mine.py]")
    _, said, _ = serve("--port", "0", *arguments, "--no-browser")
    assert said[0] == "Python scores mine 1, correctness 0.\n"


def test_a_run_of_somebody_else_is_not_executed(light, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARDS.replace("import os", "open('executed', 'w')"))
    (tmp_path / "run").mkdir()
    settings = [f"reward_files=[{tmp_path}/mine.py]", "+rewards.mine=1"]
    save_settings(tmp_path / "run", compose(settings), settings)
    RunDir(tmp_path / "run").signature_json.unlink()
    done = light("grpo.calculator", "run", "--no-browser")
    assert done.returncode == 1 and f"reward_files: {tmp_path}/mine.py" in done.stderr
    assert done.stderr.rstrip().endswith("If you trust whoever made it, add --trust-run.")
    assert not (tmp_path / "executed").exists()
