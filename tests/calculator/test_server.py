"""`python -m grpo.calculator`: the server, the command line, and a page that requests nothing from the network."""

import re
import signal
import socket
import threading
import time
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from grpo.core.errors import UserError
from grpo.reports.calculator_server import HOST, PAGE, Server, listen


def got(address: str, method: str = "GET") -> tuple[int, bytes, Any]:
    try:
        with urlopen(Request(address, method=method), timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except HTTPError as error:
        return error.code, error.read(), error.headers


def test_the_server_serves_the_page_and_nothing_else(serve, tmp_path, browser) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    process, _, address = serve("--port", "0", "--no-browser")
    status, page, headers = got(f"{address}?lang=zh")
    assert status == 200 and page == PAGE.read_bytes() and headers["Content-Type"] == "text/html; charset=utf-8"
    assert got(address, "HEAD")[:2] == (200, b"")
    for path in ("secret.txt", "calculator.html", "../calculator.py", "%2e%2e/calculator.py", "/etc/passwd", "assets/"):
        assert got(address + path)[0] == 404
    assert got(f"{address}score", "POST")[0] == 404 and got(address, "PUT")[0] == 501
    requests: list[str] = []
    seen = browser.new_page()
    seen.on("request", lambda request: requests.append(request.url))
    seen.goto(address)
    assert seen.title() == "Reward calculator · grpo" and seen.locator("#scores td").count() and requests == [address]
    seen.get_by_role("button", name="Copy link").click()
    seen.locator("#message > div").wait_for()
    seen.close()
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=10)
    assert process.returncode == 0 and said == "\nStopped.\n" and complained == ""


def test_the_next_port_if_one_is_taken(serve) -> None:
    _, _, first = serve("--port", "0", "--no-browser")
    port = int(first.rstrip("/").rpartition(":")[2])
    _, said, second = serve("--port", str(port), "--no-browser")
    assert said[0] == f"Port {port} is taken.\n" and int(second.rstrip("/").rpartition(":")[2]) > port
    assert got(second)[1] == got(first)[1]


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET http://[/ HTTP/1.1", b"HTTP/1.0 400 "),
        (b"GET http://a]/ HTTP/1.1", b"HTTP/1.0 400 "),
        (b"HEAD http://[::1/ HTTP/1.1", b"HTTP/1.0 400 "),
        (b"GET http://a[b/ HTTP/1.1", b"HTTP/1.0 400 "),
        (b"GET / / HTTP/1.1", b"HTTP/1.0 400 "),
        (b"GET /\xff\x00 HTTP/1.1", b"HTTP/1.0 404 "),
        (b"\xff\xfe / HTTP/1.1", b"HTTP/1.0 501 "),
        (b"GET /?q=[ HTTP/1.1", b"HTTP/1.0 200 "),
    ],
)
def test_a_malformed_request_is_answered(capsys, request_line: bytes, status: bytes) -> None:
    with listen(0) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        with socket.create_connection(server.server_address, timeout=5) as client:
            client.sendall(request_line + b"\r\nHost: 127.0.0.1\r\n\r\n")
            assert client.makefile("rb").readline().startswith(status)
        server.shutdown()
    assert capsys.readouterr().err == ""


def test_the_browser_is_opened(serve, tmp_path) -> None:
    browser = tmp_path / "browser.sh"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    serve("--port", "0", "--no-browser", BROWSER=str(browser))
    _, _, address = serve("--port", "0", BROWSER=str(browser))
    end = time.monotonic() + 10
    while not (tmp_path / "opened").exists() or not (tmp_path / "opened").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert (tmp_path / "opened").read_text() == f"{address}\n"


def test_the_command_line(light, command, monkeypatch) -> None:
    done = light("grpo.calculator", "--help")
    assert done.returncode == 0 and "--no-browser" in done.stdout and str(PAGE) in done.stdout
    for given, message in (("70000", "--port 70000: a port is a number from 0"), ("x", "invalid int value: 'x'")):
        done = light("grpo.calculator", "--port", given)
        assert done.returncode == 2 and message in done.stderr
    monkeypatch.setattr("grpo.reports.calculator_server.TRIES", 1)
    with (
        Server((HOST, 0)) as server,
        pytest.raises(UserError, match="are all taken; give another port, or 0 for any"),
    ):
        listen(server.server_address[1])
    heavy = command("grpo.calculator", "--help", PYTHONPROFILEIMPORTTIME="1").stderr
    assert "argparse" in heavy and not re.search(r"\b(torch|numpy|hydra|omegaconf|pandas)\b", heavy)


def test_the_page_requests_nothing_from_the_network() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not re.search(
        r"https?:|//[\w-]+\.\w|@import|url\(|\bsrc=|<link(?! rel=\"icon\" href=\"data:,\")|fetch\(|XMLHttp|innerHTML",
        page,
    )
    assert re.findall(r"<script[^>]*>", page) == ['<script id="scoring">', '<script id="page">']
    assert "default-src 'none'" in page
