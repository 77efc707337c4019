"""The panels of a W&B project: they show all that a run logs; saving them, against a service of our own; refusals."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.wandb_workspace import sections, workspace

SCRIPT = Path(__file__).parents[2] / "scripts" / "wandb_workspace.py"
KEY = "x" * 40
# What stands on the x-axis; what TRL counts as groups/zero_std does.
LEFT_OUT = {"step", "epoch", "frac_reward_zero_std"}


def panels() -> list[dict[str, Any]]:
    """The panels as they are sent, in their order, each with its section."""
    section = workspace("me", "mine")._to_model().spec.model_dump(by_alias=True, exclude_none=True)["section"]
    return [
        panel["config"] | {"section": part["name"], "view": panel["viewType"]}
        for part in section["panelBankConfig"]["sections"]
        for panel in part["panels"]
    ]


def selects(panel: dict[str, Any]) -> list[str]:
    """The names that a panel shows, or its regex, or its table."""
    if panel["view"] == "Weave":
        return [panel["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]]
    if "metricRegex" in panel:
        assert panel["useMetricRegex"] and not panel["metrics"]
        return [panel["metricRegex"]]
    return panel["metrics"]


def shown(panel: dict[str, Any], logged: set[str]) -> set[str]:
    """Which of the logged names the panel shows; there is one for each that it selects."""
    found = [{name for name in logged if re.fullmatch(regex, name)} for regex in selects(panel)]
    assert all(found), panel
    return set().union(*found)


def test_all_that_a_run_logs_is_in_a_panel(train, tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from grpo.rewards import reward\n\n\n@reward\ndef of_my_own(completion):\n"
        "    return 1.0 if len(completion) % 2 else None\n"
    )
    stack = ["rewards=verbatim", f"reward_files=[{file}]", "+rewards.of_my_own=0.1"]
    schedule = ["rewards.verbatim_int={start: 1.0, end: 0.5, until: 1.0}"]
    validation = ["eval_steps=1", "data.validation_problems=4"]
    out, results = train(
        "algorithm=grpo_kl", "algorithm.entropy_coef=0.001", "optimizer.lr=0.01", *stack, *schedule, *validation
    )
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logged = {name for row in rows if "alarm" not in row for name in row}
    summary = {f"{when}/{name}" for when in ("before", "after") for name in results[when]}

    by_panel = [(panel, shown(panel, logged | summary | {"completions"})) for panel in panels()]
    assert logged - set().union(*(names for _, names in by_panel)) == LEFT_OUT
    # One panel overlays all rewards, those of one's own among them.
    for names in (
        {f"rewards/{name}/mean" for name in ("verbatim_xmlcount", "correctness", "of_my_own")},
        {f"advantage_share/{name}" for name in ("verbatim_xmlcount", "correctness", "of_my_own")},
        {f"eval/accuracy_strict{end}" for end in ("", "_low", "_high")},
    ):
        assert len([panel for panel, these in by_panel if names <= these]) == 1


def test_what_a_run_is_about_comes_first() -> None:
    text = " ".join(name for panel in panels() for name in selects(panel))
    order = ["reward ", "^eval/accuracy_strict", "^rewards/", "^advantage_share/", " groups/", "^completions/"]
    order += [
        "completions/clipped_ratio",
        " completions ",
        " loss ",
        " grad_norm ",
        " entropy ",
        " kl ",
        "learning_rate",
    ]
    places = [text.find(name) for name in order]
    assert places[0] == 0 and places == sorted(places)
    assert [section.is_open for section in sections()] == [True] * 7 + [False]


def test_regexes_are_such_as_the_service_takes() -> None:
    for panel in panels():
        regex = panel.get("metricRegex", "^$")
        assert regex[0] == "^" and regex[-1] == "$"
        # RE2 cannot look ahead; a group that captures may split a panel in two.
        assert re.compile(regex).groups == 0 and not re.search(r"\(\?(?!:)", regex)


def call(*arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=os.environ | {"NETRC": os.devnull} | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    return done, time.perf_counter() - began


@pytest.fixture
def service() -> Iterator[ThreadingHTTPServer]:
    """As much of W&B as the script asks; `saved` are the views that it was given, `refuses` makes it give none."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            answer: dict[str, Any] = {}
            if self.path == "/graphql" and body:
                asked = json.loads(body)
                if "upsertView" not in asked["query"]:
                    answer = {"data": {"viewer": {"id": "1", "username": "me", "entity": "me", "flags": "{}"}}}
                elif server.refuses:
                    answer = {"errors": [{"message": "project not found"}]}
                else:
                    server.saved.append(asked["variables"])
                    answer = {"data": {"upsertView": {"view": {"id": "2", "name": "nw-abc-v"}, "inserted": True}}}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.saved, server.refuses = [], False
    server.login = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "entity", "project"), [([], "me", "grpo"), (["p"], "me", "p"), (["team/p"], "team", "p")]
)
def test_the_panels_are_saved(service: Any, arguments: list[str], entity: str, project: str) -> None:
    done, _ = call(*arguments, **service.login)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{service.login['WANDB_BASE_URL']}/{entity}/{project}?nw=abc\n"
    (view,) = service.saved
    assert (view["entityName"], view["projectName"], view["displayName"]) == (entity, project, "GRPO")
    saved = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    assert [part["name"] for part in saved] == [section.name for section in sections()]
    titles = [panel["config"].get("chartTitle") for part in saved for panel in part["panels"]]
    assert titles == [panel.get("chartTitle") for panel in panels()]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {}, "nobody is logged in to W&B; run `wandb login`, or set WANDB_API_KEY, then run this again."),
        ([], {"WANDB_API_KEY": "short"}, "WANDB_API_KEY invalid"),
        ([], {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, "WANDB_MODE=offline: a view can only be saved online"),
        (
            ["e/p"],
            {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "connection refused. Check that it is reachable",
        ),
        (["a/b/c"], {}, "'a/b/c' is not a project; give ENTITY/PROJECT"),
        (["/p"], {}, "'/p' is not a project"),
    ],
)
def test_refusals_are_one_line(arguments: list[str], environment: dict[str, str], message: str) -> None:
    done, seconds = call(*arguments, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert message in done.stderr and seconds < 15


def test_a_project_that_is_not_there(service: Any) -> None:
    service.refuses = True
    done, _ = call("me/nowhere", **service.login)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "W&B did not accept the panels of me/nowhere: " in done.stderr and "project not found" in done.stderr


def test_without_the_package(tmp_path) -> None:
    (tmp_path / "wandb_workspaces.py").write_text("raise ImportError")
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    done, _ = call(PYTHONPATH=os.pathsep.join(filter(None, paths)))
    message = "error: the package wandb-workspaces is not installed: pip install 'wandb-workspaces>=0.4'.\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_help() -> None:
    done, _ = call("--help")
    assert done.returncode == 0 and "ENTITY/PROJECT" in done.stdout
