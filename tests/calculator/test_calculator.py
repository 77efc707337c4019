"""The reward calculator: its scoring in a real browser is that of `grpo/`, to the last bit; and its server."""

import inspect
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import unicodedata
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from grpo.calculator import HOST, PAGE, OnePage, Server, listen
from grpo.core.errors import UserError
from grpo.rewards.advantages import attribute
from grpo.rewards.registry import REWARDS
from grpo.rewards.stack import RewardStack
from grpo.tasks.answers import TAGS, single_number
from tests.conftest import surroundings
from tests.rewards import test_rewards
from tests.rewards.test_rewards import PERFECT, answered
from tests.tasks import test_answers as test_prompts

KINDS = ["correctness", "int", "strict_format", "soft_format", "xmlcount"]
NAMES = KINDS + [f"verbatim_{kind}" for kind in KINDS]
Case = tuple[str, str]  # completion and gold


# ---- The parity


def by_python(cases: list[Case]) -> list[list[float]]:
    """What grpo/rewards gives each case, in the order of NAMES."""
    takes_gold = ["gold" in inspect.signature(REWARDS[name]).parameters for name in NAMES]
    return [
        [
            REWARDS[name](text, gold) if both else REWARDS[name](text)
            for name, both in zip(NAMES, takes_gold, strict=True)
        ]
        for text, gold in cases
    ]


def by_page(page, cases: list[Case]) -> list[list[float]]:
    return ask(
        page, "(cases) => cases.map((each) => names.map((name) => REWARDS[name][0](...each).value))", cases, names=NAMES
    )


def ask(page, function: str, of: Any, **constants: Any) -> Any:
    """What a function of the page's makes of something; as JSON, which carries every text and every float as it is."""
    named = "".join(f"const {name} = {json.dumps(value)};" for name, value in constants.items())
    return json.loads(
        page.evaluate(f"(text) => {{ {named} return JSON.stringify(({function})(JSON.parse(text))); }}", json.dumps(of))
    )


def differences(cases: list[Case], expected: list[list[float]], found: list[list[float]]) -> list[str]:
    """The first few; floats are compared by the digits that tell every one from its neighbours."""
    assert len(cases) == len(expected) == len(found)
    return [
        f"{name}: {ours!r} here, {theirs!r} on the page, of {case!r}"
        for case, row, other in zip(cases, expected, found, strict=True)
        for name, ours, theirs in zip(NAMES, row, other, strict=True)
        if repr(float(ours)) != repr(float(theirs))
    ][:5]


def table(test: Any) -> list[tuple[Any, ...]]:
    """The rows that a test of tests/test_rewards.py is parametrized with."""
    (mark,) = [mark for mark in test.pytestmark if mark.name == "parametrize"]
    return list(mark.args[1])


def cases_of_the_tests() -> list[Case]:
    cases = [(completion, gold) for completion, gold, _ in table(test_rewards.test_correctness)]
    cases += [(answered(answer), "18") for answer, _ in table(test_rewards.test_int)]
    cases += [(completion, "18") for completion, *_ in table(test_rewards.test_formats)]
    cases += [(completion, "18") for completion, _ in table(test_rewards.test_xmlcount)]
    cases += [(completion, "18") for _, completion, _ in table(test_rewards.test_verbatim)]
    cases += [(answered(text), str(number)) for text, number in test_prompts.ONE_NUMBER]
    for test in (test_prompts.test_same_answer, test_prompts.test_texts, test_prompts.test_the_strict_rule):
        cases += [case for left, right, _ in table(test) for case in ((answered(left), right), (answered(right), left))]
    long = [
        "\n",
        " ",
        "1,111",
        "9",
        "<reasoning>x</reasoning> ",
        "</reasoning><answer>",
        "\n</answer>\n",
        "\U0001f600",
        "1/",
        "- ",
        "\\frac{",
        "<reasoning>x</reasoning><answer> </answer>",
        *TAGS,
    ]
    # The originals take quadratic time on some of these.
    return cases + [(answered(piece * (20_000 // len(piece))), "18") for piece in long]


def test_the_tables_of_the_tests(open_page) -> None:
    cases = cases_of_the_tests()
    assert not differences(cases, by_python(cases), by_page(open_page(), cases))


def golds_of_gsm8k() -> list[str]:
    folder = os.environ.get("GRPO_GSM8K_DIR")
    if not folder:
        pytest.skip("GRPO_GSM8K_DIR names no folder with GSM8K's test.jsonl")
    lines = (Path(folder) / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["answer"] for line in lines]


def test_real_answers_of_gsm8k(open_page) -> None:
    cases = []
    for worked in golds_of_gsm8k():
        work, _, gold = worked.rpartition("\n#### ")
        written = PERFECT.replace("8*3=24 pages.", work)
        for answer in (gold, gold.replace(",", ""), f"${gold}", f"{gold}.0", f"-{gold}"):
            cases.append((written.replace("18", answer), gold))
        cases += [(worked, gold), (gold, gold)]
    expected = by_python(cases)
    assert not differences(cases, expected, by_page(open_page(), cases))
    assert len(cases) > 9000 and sum(row[0] for row in expected) > 2 * 0.5 * len(cases)


# Python's white space, and what other tables take for it.
WHITE = [chr(code) for code in range(0x3001) if chr(code).isspace()] + ["\ufeff", "\u200b", "\u180e", "\x00", "\x7f"]
# The page's digits, which are Unicode 14's: a newer Python knows more.
RUNS = re.findall(r"\[0x([0-9a-f]+), 0x([0-9a-f]+)\]", PAGE.read_text(encoding="utf-8"))
DIGITS = [chr(code) for first, last in RUNS for code in range(int(first, 16), int(last, 16) + 1)]
DIGITS += list("0123456789") * 20 + list("½Ⅷ九〇৴௰")
PIECES = [
    *TAGS,
    *TAGS,
    "<answer>\n",
    "\n</answer>",
    "\n</answer>\n",
    "</reasoning>\n<answer>",
    "<Answer>",
    "< answer>",
    "</answer",
]
PIECES += [
    "\n",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    " ",
    "x",
    "pens",
    "思考",
    "é",
    "e\u0301",
    "\U0001f600",
    "\U00020000",
    "👩‍👩‍👧",
    "$",
    "-",
    ",",
]


def number_like(draw: random.Random) -> str:
    digits = "".join(draw.choices("0123456789", k=draw.choice([1, 1, 2, 3, 4, 7, 40])))
    if draw.random() < 0.3:
        digits = f"{int(digits):,}" if draw.random() < 0.7 else ",".join([digits[:2], digits[2:]])
    sign, dollar, tail = (
        draw.choice(["", "", "-", "+", "--"]),
        draw.choice(["", "", "$", "$ "]),
        draw.choice(["", "", "", "$"]),
    )
    fraction = draw.choice(["", "", "", ".", ".0", ".50", ".5e3", "e5", ".00"])
    body = draw.choice([digits, digits, digits, "." + digits, "0" * draw.randrange(4) + digits])
    text = draw.choice([sign + dollar, dollar + sign, sign + draw.choice(WHITE)]) + body + fraction + tail
    if draw.random() < 0.15:
        text = "".join(draw.choices(DIGITS, k=draw.randrange(1, 4)))
    return text


WRITTEN = "{} pens|{}%|x = {}|**{}**|\\boxed{{{}}}|\\({}\\)|= {}|{},|-{}|− {}|{}/{}|{} {}/{}|\\frac{{{}}}{{{}}}"
WRITTEN += "|{} or {}|{} x {}|{}-{}|{} - {}|x{} = {}|{}e{}|{}²|{}½|{} = {}|({})|{}:{}|\\text{{{} cm}}^2|$-{}|total - {}"


def answer_like(draw: random.Random) -> str:
    """A number as models write it, or a text that is one of few apart from its surroundings."""
    if draw.random() < 0.15:
        around = draw.choice(["({})", "{}.", "**{}**", "\\boxed{{{}}}", "“{}”", "{}", "-{}", ".{}", "$\\text{{{}}}$"])
        return around.format(draw.choice(["A", "a", "Éa", "5", "05", "New York", "", "ß"]))
    written = draw.choice(WRITTEN.split("|"))
    numbers = [draw.choice([number_like(draw), "2", "36", "1,080", "0.5", "0"]) for _ in range(3)]
    if draw.random() < 0.3:
        numbers = [numbers[0]] * 3
    return written.format(*numbers)


def random_text(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.2:  # any character that UTF-8 can carry
        codes = [draw.randrange(draw.choice([0x80, 0x800, 0x3100, 0x110000])) for _ in range(draw.randrange(12))]
        return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
    if kind < 0.4:
        return "".join(draw.choices(WHITE, k=draw.randrange(1, 4)))
    return "".join(draw.choice([*PIECES, draw.choice(WHITE), draw.choice(DIGITS)]) for _ in range(draw.randrange(8)))


def generated(draw: random.Random) -> Case:
    """A completion and a gold: a soup of pieces, or the asked format with a few things amiss."""
    answer = number_like(draw) if draw.random() < 0.6 else answer_like(draw)
    golds = [
        answer_like(draw),
        str(single_number(answer)),
        answer,
        answer.strip(),
        answer.replace(",", ""),
        f"{answer}.0",
        f" {answer}\n",
        number_like(draw),
        random_text(draw),
    ]
    gold = draw.choice(golds)
    if draw.random() < 0.3:
        return "".join(
            random_text(draw) + draw.choice([answer, draw.choice(PIECES)]) for _ in range(draw.randrange(7))
        ), gold
    work = draw.choice(["8*3=24", "思考一下。", "x" * draw.choice([0, 5, 300, 700]), random_text(draw)])
    gap = ["\n", "\n", "\n", "", draw.choice(WHITE)]
    parts = ["<reasoning>", draw.choice(gap), work, draw.choice(gap), "</reasoning>", draw.choice(gap)]
    parts += [
        "<answer>",
        draw.choice(gap),
        answer,
        draw.choice(gap),
        "</answer>",
        draw.choice(["\n", "", "\n\n", random_text(draw)]),
    ]
    if draw.random() < 0.4:
        parts = ["\n" if part in WHITE or part == "" else part for part in parts]  # one line each
    if draw.random() < 0.25:
        parts = [part for part in parts if part != "\n"]  # all on one line
    for _ in range(draw.choice([0, 0, 0, 1, 1, 2])):
        at = draw.randrange(len(parts) + 1)
        parts[at:at] = draw.choice([[random_text(draw)], [draw.choice(PIECES)], [draw.choice(WHITE)], parts[-6:]])
        if draw.random() < 0.3:
            del parts[draw.randrange(len(parts))]
    return "".join(parts), gold


@cache
def many() -> list[Case]:
    draw = random.Random(0)
    return [generated(draw) for _ in range(20_000)]


def test_twenty_thousand_generated_texts(open_page) -> None:
    cases, page = many(), open_page()
    expected = by_python(cases)
    assert not differences(cases, expected, by_page(page, cases))
    # Rich enough: every reward is often paid, and often not.
    for name, column in zip(NAMES, zip(*expected, strict=True), strict=True):
        most = max(column)
        assert min(sum(value == most for value in column), sum(value != most for value in column)) > 400, name
    assert len({row[4] for row in expected}) > 50 and len({row[9] for row in expected}) > 500

    draw = random.Random(1)
    weights = [[draw.choice([1.0, 0.0, 0.1, -0.5, draw.uniform(-2, 3), 1e-9]) for _ in KINDS] for _ in cases]
    for half in (0, 5):
        rows = [row[half : half + 5] for row in expected]
        found = ask(page, "(cases) => cases.map((each) => total(...each))", list(zip(rows, weights, strict=True)))
        for row, of, theirs in zip(rows, weights, found, strict=True):
            stack = RewardStack(dict(zip(KINDS, of, strict=True)))
            (ours,) = stack.total({name: [value] for name, value in zip(KINDS, row, strict=True)})
            assert repr(ours) == repr(float(theirs)), (row, of)


def test_python_s_own_tables(open_page) -> None:
    page = open_page()
    assert page.evaluate("[...SPACES].sort()") == sorted(chr(code) for code in range(0x110000) if chr(code).isspace())
    digits = set(page.evaluate("[...ALL_DIGITS]"))
    ours = {chr(code) for code in range(0x110000) if chr(code).isdigit()}
    assert digits == ours if unicodedata.unidata_version == "14.0.0" else digits <= ours
    sums = [
        [0.1] * 10,
        [1e16, 1.0, 1e-16],
        [1e300, 1.0, -1e300],
        [2.0**53, 1.0, 2.0**-60],
        [2.0**53, -0.5, -(2.0**-60)],
        [],
        [-0.0],
    ]
    assert [repr(float(value)) for value in page.evaluate("sums => sums.map(fsum)", sums)] == [
        repr(math.fsum(s)) for s in sums
    ]


def normalised(text: str) -> str:
    """As HTML prescribes for a textarea's value."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def test_through_the_textarea(open_page) -> None:
    cases = many()[:400] + cases_of_the_tests()[:150]
    found = ask(
        open_page(),
        """(cases) => cases.map((each) => {
          for (const [i, id] of ["completion-field", "gold-field"].entries()) {
            document.getElementById(id).value = each[i];
            document.getElementById(id).dispatchEvent(new Event("input"));
          }
          const cells = [...document.querySelectorAll("#scores tbody b")].map((cell) => Number(cell.dataset.value));
          return [0, 1].flatMap((stack) => cells.filter((_, i) => i % 2 === stack));
        })""",
        cases,
    )
    cases = [(normalised(completion), normalised(gold)) for completion, gold in cases]
    assert not differences(cases, by_python(cases), found)


# ---- Advantages and shares


@pytest.fixture(scope="module")
def trl_s_lines() -> Any:
    """What TRL computes of scores (trl 1.16.0, trl/trainer/grpo_trainer.py, from line 2759 on), as code to run."""
    trl = pytest.importorskip("trl")
    source = inspect.getsource(inspect.unwrap(trl.GRPOTrainer._generate_and_score_completions))
    lines = source[
        source.index("        unscorable_mask =") : source.index("        # Slice to keep only the local part")
    ]
    return compile(textwrap.dedent(lines), "trl/trainer/grpo_trainer.py", "exec")


def by_trl(lines: Any, scores: np.ndarray, weights: np.ndarray, k: int, scale: str) -> np.ndarray:
    """Those lines in float64."""
    import torch
    from trl.trainer.utils import nanstd

    of = SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize",
        reward_weights=torch.tensor(weights, dtype=torch.float64),
        scale_rewards=scale,
    )
    names = {"torch": torch, "nanstd": nanstd, "self": of, "device": "cpu", "num_generations": k}
    names["rewards_per_func"] = torch.tensor(scores, dtype=torch.float64)
    exec(lines, names)
    return names["advantages"].numpy()


BY_PAGE = """cases => cases.map(([groups, weights, scale]) => {
  const of = attribute(groups, weights, scale), totals = groups.map((group) => group.map((scores) => total(scores, weights)));
  return {
    advantages: of.flatMap((group) => group.advantages), parts: of.flatMap((group) => group.parts), shares: shares(of),
    zero: of.map(({ constant, flat }) => [...constant, flat]), means: totals.map(mean), stds: totals.map(std),
  };
})"""


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_and_shares(open_page, trl_s_lines, scale: str) -> None:
    rng, cases = np.random.default_rng(0), []
    for _ in range(300):
        k, groups = int(rng.integers(2, 17)), int(rng.integers(1, 6))
        scores = rng.choice([0.0, 0.125, 0.389, 0.5, 2.0, -1.271], size=(groups, k, 5))
        if rng.random() < 0.3:
            scores[0] = scores[0, 0]  # a group without signal
        cases.append((scores, rng.choice([-1.0, 0.0, 0.1, 1.0, 3.0], size=5)))
    found = ask(open_page(), BY_PAGE, [[scores.tolist(), weights.tolist(), scale] for scores, weights in cases])
    varied = 0
    for (scores, weights), page in zip(cases, found, strict=True):
        k, flat = scores.shape[1], scores.reshape(-1, 5)
        split = attribute(flat, weights, k, scale)
        assert page["advantages"] == pytest.approx(by_trl(trl_s_lines, flat, weights, k, scale), abs=1e-5)
        assert page["advantages"] == pytest.approx(split.advantages, abs=1e-9)
        assert np.array(page["parts"]) == pytest.approx(split.parts, abs=1e-9)
        assert page["zero"] == split.zero_std.tolist()
        ours = split.shares()
        assert page["shares"] == (None if ours is None else pytest.approx(ours, abs=1e-9))
        assert page["means"] == pytest.approx((scores @ weights).mean(axis=1), abs=1e-9)
        assert page["stds"] == pytest.approx((scores @ weights).std(axis=1, ddof=1), abs=1e-9)
        varied += ours is not None
    assert varied > 200


# ---- The server


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
                # As at a terminal: where tests run in the background, Ctrl-C is ignored by all that they start.
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
    assert got(address, "POST")[0] == 501
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
    assert process.returncode == 0 and said == "\nEnded.\n" and complained == ""


def test_a_taken_port_gives_way_to_the_next(serve) -> None:
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
            client.sendall(request_line + b"\r\n\r\n")
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


def test_the_command_line(command, monkeypatch) -> None:
    done = command("grpo.calculator", "--help")
    assert done.returncode == 0 and "--no-browser" in done.stdout and str(PAGE) in done.stdout
    for given, message in (("70000", "--port 70000: a port is a number from 0"), ("x", "invalid int value: 'x'")):
        done = command("grpo.calculator", "--port", given)
        assert done.returncode == 2 and message in done.stderr
    monkeypatch.setattr("grpo.calculator.TRIES", 1)
    with (
        Server((HOST, 0), OnePage) as server,
        pytest.raises(UserError, match="are all taken; give another one, or 0 for any"),
    ):
        listen(server.server_address[1])
    heavy = command("grpo.calculator", "--help", PYTHONPROFILEIMPORTTIME="1").stderr
    assert "argparse" in heavy and not re.search(r"\b(torch|numpy|hydra|omegaconf|pandas)\b", heavy)


def test_one_file_that_asks_no_one() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not re.search(
        r"https?:|//[\w-]+\.\w|@import|url\(|\bsrc=|<link(?! rel=\"icon\" href=\"data:,\")|fetch\(|XMLHttp|innerHTML",
        page,
    )
    assert re.findall(r"<script[^>]*>", page) == ['<script id="scoring">', '<script id="page">']
    assert "default-src 'none'" in page
