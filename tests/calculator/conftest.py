"""The calculator as a command: started in an empty folder, and opened in a browser at the address that it prints."""

import re
import signal
import subprocess
import sys

import pytest

from tests.conftest import surroundings


@pytest.fixture
def serve(tmp_path):
    """Start `python -m grpo.calculator ARGUMENTS` in an empty folder, and wait for its address."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: str, **environment: str) -> tuple[subprocess.Popen[str], list[str], str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "grpo.calculator", *arguments],
                cwd=tmp_path,
                env=surroundings("DISPLAY", "WAYLAND_DISPLAY") | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # As at a terminal: if tests run in the background, the processes that they start ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        said = [started[-1].stdout.readline()]
        while said[-1] and "http://" not in said[-1]:
            said.append(started[-1].stdout.readline())
        assert said[-1], started[-1].stderr.read()
        return started[-1], said, re.search(r"http://\S+", said[-1]).group()

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def open_address(browser):
    """Open the page at an address of the calculator; it may ask only its own server.

    It may say nothing to the console, except what a browser says of itself about an error of the endpoint.
    """
    contexts, complaints, requests, addresses = [], [], [], []

    def call(address: str, **settings):
        contexts.append(
            browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-US"} | settings)
        )
        addresses.append(address.partition("?")[0])
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        return page

    yield call
    for context in contexts:
        context.close()
    assert not [text for text in complaints if not text.startswith("Failed to load resource")]
    assert all(url.startswith(tuple(addresses)) for url in requests)
