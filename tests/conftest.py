"""Every test runs offline, on the CPU, untracked by any account, and outside the repository."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["WANDB_API_KEY"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("COLUMNS", "LINES"):  # readline sets them for the processes of pytest-xdist
    os.environ.pop(name, None)
if "GRPO_TEST_CUDA" not in os.environ:  # scripts/check_gpu.py sets it for the tests of kernels
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

import pytest  # noqa: E402

# The smallest run that still trains: two steps of four completions.
SMALL = [
    "max_steps=2",
    "num_generations=4",
    "prompts_per_step=2",
    "max_completion_length=16",
    "data.train_problems=20",
    "data.eval_problems=4",
]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# A run without an end: each step waits for its reward until the run is stopped.
LONG = [*SMALL[1:], "max_steps=12", "save_steps=null", "threads=1", "reward_files=[slow.py]", "+rewards.slow=0"]


MODULES_WHEN_FROZEN = [0]


def pytest_runtest_logfinish() -> None:
    """Each run collects garbage; what imported modules hold, millions of objects, it need not visit."""
    if len(sys.modules) > MODULES_WHEN_FROZEN[0] + 100:
        gc.collect()
        gc.freeze()
        MODULES_WHEN_FROZEN[0] = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def configuration(tmp_path_factory) -> None:
    """Runs are signed with a key of the tests' own."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("configuration"))


@pytest.fixture
def slow(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfrom grpo.rewards import reward\n\n\n"
        "@reward\ndef slow(completions):\n    time.sleep(0.3)\n    return [0.0] * len(completions)\n"
    )


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run the training command's own `run` in this process; gives the run's folder and results."""
    from grpo.config.composition import compose
    from grpo.runs.settings import save_settings
    from grpo.training.session import train_run

    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> tuple[Path, dict[str, Any]]:
        out = tmp_path / "run"
        out.mkdir()
        typed = [*SMALL, "tracking=none", *overrides]
        config = compose(typed)
        save_settings(out, config, typed)
        results = train_run(config, out)
        assert json.loads((out / "results.json").read_text()) == results
        return out, results

    return call


@pytest.fixture
def trainer(tmp_path_factory):
    """Build the trainer of a run with these overrides."""
    from tests.helpers.trainers import build

    return lambda *overrides, **settings: build(tmp_path_factory.mktemp("run"), *overrides, **settings)


def wandb_records(out: Path) -> tuple[list[dict[str, Any]], Path]:
    """What an offline W&B run wrote down, and its folder."""
    (folder,) = (out / "wandb").glob("offline-run-*")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    lines = subprocess.run([*inspect, str(folder)], capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines], folder


def read_wandb(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """An offline W&B run read back: its history rows, its summary, and its tables of completions."""
    records, folder = wandb_records(out)
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    summary: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            summary |= record["summary"]["update"]
    tables = [folder / "files" / row["completions.path"] for row in history if "completions.path" in row]
    return history, summary, [json.loads(file.read_text()) for file in tables]


class Process:
    """A run in a process of its own, as tests/warm.py starts it."""

    def __init__(
        self,
        server: "subprocess.Popen[str]",
        folder: Path,
        *arguments: str,
        module: str = "train",
        kill: Any = None,
        processes: int = 1,
        files: dict[str, str] | None = None,
        **environment: str,
    ):
        self.server = server
        output = folder.with_name(f"{folder.name}.output")
        output.mkdir(exist_ok=True)
        self.files = {name: output / name for name in ("stdout", "stderr", "modules")}
        for path in self.files.values():
            path.unlink(missing_ok=True)
        files = {name: str(path) for name, path in self.files.items()} | (files or {})
        job = {"cwd": str(folder), "module": module, "arguments": arguments, "kill": kill, **files}
        job |= {"environment": environment, "processes": processes}
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())
        self.code: int | None = None

    def said(self) -> str:
        return self.files["stdout"].read_text() if self.files["stdout"].exists() else ""

    def complained(self) -> str:
        return self.files["stderr"].read_text()

    def until(self, text: str, seconds: float = 60, stream: str = "stdout") -> None:
        """Wait until it has said something."""
        end = time.monotonic() + seconds
        while not self.files[stream].exists() or text not in self.files[stream].read_text():
            assert time.monotonic() < end, f"{text!r} was not said:\n{self.said()}\n{self.complained()}"
            time.sleep(0.005)

    def ended(self) -> int:
        """Wait for its end; the exit code, or minus the signal that killed it."""
        if self.code is None:
            assert self.server.stdout
            self.code = int(self.server.stdout.readline())
        return self.code


# Libraries set these in this process when a run trains in it. A new process would use the W&B service of that run, and
# take itself for one of several processes.
SET_BY_RUNS = (
    "WANDB_SERVICE", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
)  # fmt: skip


def surroundings(*without: str) -> dict[str, str]:
    """The environment of a new process."""
    return {name: value for name, value in os.environ.items() if name not in (*SET_BY_RUNS, *without)}


@contextmanager
def forking(environment: dict[str, str], *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A process of tests/helpers/warm.py, which forks commands."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.warm", *arguments],
        cwd=Path(__file__).parent.parent,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def server():
    with forking(surroundings()) as process:
        yield process


@pytest.fixture(scope="session")
def light_server():
    with forking(surroundings("HF_HUB_OFFLINE"), "light") as process:
        yield process


@pytest.fixture
def start(server, tmp_path):
    """Start `python -m grpo.MODULE ARGUMENTS` in an empty folder, within a second; one at a time.

    `files` are other places for its stdout and stderr.
    """

    def call(*arguments: str, **settings: Any) -> Process:
        started.append(Process(server, tmp_path, *arguments, **settings))
        return started[-1]

    started: list[Process] = []
    yield call
    for process in started:
        if process.code is None:
            os.kill(process.pid, signal.SIGKILL)
            process.ended()


@pytest.fixture
def forked(start):
    """Run `python -m MODULE ARGUMENTS` to its end as `start` does, which saves the seconds that imports take."""

    def call(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = start(*arguments, module=module.removeprefix("grpo."), **environment)
        code = process.ended()
        return subprocess.CompletedProcess(arguments, code, process.said(), process.complained())

    return call


class Ended(subprocess.CompletedProcess[str]):
    """A command that has ended, and the modules that it had imported."""

    modules: set[str]


@pytest.fixture
def light(light_server, tmp_path):
    """Run `python -m MODULE ARGUMENTS` to its end in an empty folder, from a process that has not imported torch."""

    def call(module: str, *arguments: str, **environment: str) -> Ended:
        process = Process(light_server, tmp_path, *arguments, module=module.removeprefix("grpo."), **environment)
        ended = Ended(arguments, process.ended(), process.said(), process.complained())
        ended.modules = set(process.files["modules"].read_text().split())
        return ended

    return call


@pytest.fixture
def command(tmp_path):
    """Run `python -m MODULE ARGUMENTS` in an empty folder, as a user would, in a new process."""

    def call(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env=surroundings("HF_HUB_OFFLINE") | environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    return call


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is here; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)


def seen(browser, report: Path, width: int, scheme: str, names: set[str], lowest: float):
    """A report as it is seen without a network and JavaScript: all of its figures in sight, in the scheme's colours."""
    from grpo.reports.figures import COLOURS

    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=False
    )
    page, requests, complaints = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(report.as_uri())
    assert requests == [report.as_uri()] and not complaints
    figures = page.locator("figure").all()
    assert {figure.get_attribute("id") for figure in figures} == names
    for figure in figures:
        box, drawn = figure.bounding_box(), figure.locator("svg").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert drawn["width"] > 300 and drawn["height"] > lowest
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page_colour = COLOURS["page"][scheme == "dark"]
    assert background == f"rgb({', '.join(str(int(page_colour[i : i + 2], 16)) for i in (1, 3, 5))})"
    return page


@pytest.fixture
def open_page(browser):
    """Open the reward calculator from disk, each time as a new visitor.

    It may say nothing to the console, and ask no one for anything.
    """
    from grpo.reports.calculator_server import PAGE

    contexts, complaints, requests = [], [], []

    def call(query: str = "", **settings: Any):
        contexts.append(
            browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-US"} | settings)
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{PAGE.as_uri()}{query}")
        return page

    yield call
    for context in contexts:
        context.close()
    assert not complaints
    assert all(url.startswith(PAGE.as_uri()) for url in requests)
