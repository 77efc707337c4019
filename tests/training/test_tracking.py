"""W&B without an account: real offline runs, read back."""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.reports.run_report import headline
from grpo.runs.labels import RunLabel, run_name
from grpo.runs.saved_run import read_run
from grpo.training.tracking import build_tracker, check_tracking
from tests.conftest import read_wandb
from tests.helpers import fake_wandb
from tests.helpers.runs import STACK, metrics


@pytest.fixture
def environment() -> Iterator[Callable[[dict[str, str]], None]]:
    """Give W&B these variables; it reads them once a process, unless it is torn down."""
    import wandb

    def call(variables: dict[str, str]) -> None:
        wandb.teardown()
        os.environ.update(variables)

    before = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # which is torn down
    yield call
    wandb.teardown()
    os.environ.clear()
    os.environ.update(before)


def test_an_offline_run_holds_the_curves_and_the_table(train, environment, capsys) -> None:
    environment({})
    out, results = train("tracking=wandb", "max_steps=4", "tracking.completions_every=2", "tracking.completions_rows=6")
    history, summary, tables = read_wandb(out)
    # W&B's step is the training step, and its curves are those of metrics.jsonl.
    assert [row["_step"] for row in history] == [1, 2, 3, 4]
    for row, expected in zip(history, metrics(out), strict=True):
        assert not [key for key in row if key.startswith("profiling")]
        assert {f"advantage_share/{name}" for name in STACK} | {"groups/mixed", "rewards/int/mean"} <= row.keys()
        for name in expected.keys() - {"step"}:
            assert row[name] == pytest.approx(expected[name]), name
    assert summary["after/accuracy_strict"] == results["after"]["accuracy_strict"]
    assert summary["headline"] == " ".join(headline(read_run(out)))
    assert summary["before/rewards/int"] == results["before"]["rewards/int"]
    # Sampled at steps 1, 3 and 4, a group of four each, and only the newest six rows kept.
    table = tables[-1]
    assert table["columns"] == ["step", "question", "gold", "completion", *STACK, "total", "advantage"]
    assert [row[0] for row in table["data"]] == [3, 3, 4, 4, 4, 4]
    assert all(isinstance(value, float) for row in table["data"] for value in row[4:])
    said = capsys.readouterr().out
    assert said.count("W&B: not logged in, so tracked offline. To upload: wandb sync run/wandb/offline-run-") == 1


def test_an_unreachable_service_costs_seconds(tmp_path, environment, capsys) -> None:
    environment({"WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"})
    began = time.perf_counter()
    tracker = build_tracker(compose().tracking, {}, tmp_path)
    assert time.perf_counter() - began < 15
    tracker.log({"reward": 1.0}, step=1)
    tracker.finish(0)
    assert "could not be used online" in capsys.readouterr().out
    assert [row["_step"] for row in read_wandb(tmp_path)[0]] == [1]


@pytest.mark.parametrize(
    "variables",
    [{"WANDB_API_KEY": "too-short"}, {"WANDB_MODE": "online"}, {"WANDB_MODE": "offline"}, {"WANDB_MODE": "disabled"}],
)
def test_wandb_never_asks_and_never_stops_a_run(train, environment, capsys, variables: dict[str, str]) -> None:
    environment(variables)
    out, _ = train("tracking=wandb")
    said = capsys.readouterr().out
    if variables.get("WANDB_MODE") == "disabled":
        assert "W&B" not in said
    else:
        assert "so tracked offline. To upload: wandb sync" in said
        assert len(read_wandb(out)[0]) == 2


# A variable of the environment or a setting that W&B cannot take, and what a person reads.
REFUSED = {
    "a team in the project": ({}, ["tracking.project=team/grpo"], "tracking.entity=team tracking.project=grpo."),
    "a long project": ({}, [f"tracking.project={'x' * 129}"], "exceeded 128 characters"),
    "a mark in the project": ({}, ["tracking.project='a#b'"], "tracking.project=a#b: Invalid project name"),
    "a team in WANDB_PROJECT": ({"WANDB_PROJECT": "a/b"}, [], "WANDB_PROJECT=a/b: Invalid project name"),
    "an unknown mode": ({"WANDB_MODE": "nope"}, [], "WANDB_MODE=nope: Input should be 'online', 'offline'"),
    "a slash in the id": ({"WANDB_RUN_ID": "a/b"}, [], "WANDB_RUN_ID=a/b: Run ID cannot contain"),
    "an unknown resume": ({"WANDB_RESUME": "yes"}, [], "WANDB_RESUME=yes: Input should be 'allow'"),
    "a word for a number": ({"WANDB_HTTP_TIMEOUT": "soon"}, [], "WANDB_HTTP_TIMEOUT=soon: Input should be a valid num"),
    "no address": ({"WANDB_BASE_URL": "nowhere"}, [], "WANDB_BASE_URL=nowhere: Input should be a valid URL"),
    "an unknown console": ({"WANDB_CONSOLE": "no"}, [], "WANDB_CONSOLE=no: Input should be 'auto'"),
}


@pytest.mark.parametrize(("variables", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_wandb_cannot_take_is_refused_in_one_line(environment, variables, settings, message: str) -> None:
    environment(variables)
    config = compose(["tracking=wandb", *settings]).tracking
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        check_tracking(config)
    assert "\n" not in str(refused.value)
    check_tracking(replace(config, name="none"))  # of which W&B's settings are none of its business


def test_what_trackio_cannot_take_is_refused_in_one_line() -> None:
    pytest.importorskip("trackio")
    check_tracking(compose(["tracking=trackio", "tracking.project=team/grpo"]).tracking)
    with pytest.raises(UserError, match="^tracking.project=registry-a: Project name 'registry-a' is not allowed"):
        check_tracking(compose(["tracking=trackio", "tracking.project=registry-a"]).tracking)


@pytest.mark.parametrize(
    "variables",
    [
        {"WANDB_MODE": ""},
        {"WANDB_MODE": "ONLINE"},
        {"WANDB_MODE": "run"},
        {"WANDB_MODE": "shared"},
        {"WANDB_MODE": "dryrun"},
        {"WANDB_TAGS": ""},
        {"WANDB_TAGS": f"a,,{'x' * 70}"},
        {"WANDB_QUIET": "", "WANDB_RUN_ID": "", "WANDB_PROJECT": ""},
        {"WANDB_API_KEY": "x\n", "WANDB_MODE": "offline"},
    ],
    ids=str,
)
def test_a_mode_by_another_word_and_blank_variables_are_taken(tmp_path, environment, capsys, variables) -> None:
    environment(variables)
    config = compose(["tracking=wandb"]).tracking
    check_tracking(config)
    tracker = build_tracker(config, {}, tmp_path)
    tracker.log({"reward": 1.0}, step=1)
    tracker.finish(0)
    assert [row["_step"] for row in read_wandb(tmp_path)[0]] == [1]
    assert capsys.readouterr().out.count("so tracked offline. To upload: wandb sync") == 1


@pytest.mark.parametrize("given", [{}, {"HOME": ""}, {"HOME": "/proc/no"}, {"WANDB_CACHE_DIR": "/proc/no"}], ids=str)
def test_without_a_cache_wandb_logs_nothing_to_the_terminal(tmp_path, environment, capfd, given) -> None:
    environment({})
    for name in ("HOME", "XDG_CACHE_HOME", "WANDB_CACHE_DIR"):
        os.environ.pop(name, None)
    os.environ.update(given)
    tracker = build_tracker(compose(["tracking=wandb"]).tracking, {}, tmp_path)
    tracker.finish(0)
    environment({})
    assert capfd.readouterr().err == ""


def test_wandb_gets_what_the_environment_names_where_the_setting_does_not(tmp_path, environment) -> None:
    named = {"ENTITY": "team", "PROJECT": "p", "NAME": "n", "RUN_GROUP": "g", "TAGS": "a, b", "NOTES": "why"}
    sent = {"entity": "team", "project": "p", "displayName": "n", "groupName": "g", "tags": ["a", "b"], "notes": "why"}
    with fake_wandb.running() as service:
        environment(service.login | {f"WANDB_{name}": value for name, value in named.items()} | {"WANDB_RUN_ID": "own"})
        ids = []
        for settings, label, expected in (
            ([], None, sent),
            (["entity=me", "project=q", "run_name=m", "group=h"], None, {"entity": "me", "project": "q"}),
            ([], RunLabel("seed=0", "day-time", ("b", "c")), {"displayName": "n seed=0", "tags": ["b", "c", "a"]}),
            ([], RunLabel("seed=1", "day-time"), {"displayName": "n seed=1", "groupName": "g"}),
        ):
            service.started.clear()
            config = compose(["tracking=wandb", *(f"tracking.{each}" for each in settings)]).tracking
            tracker = build_tracker(config, {}, tmp_path, label)
            tracker.finish(0)
            ids.append(tracker.id)
            assert {name: service.started[tracker.id][name] for name in expected} == expected
    # Each job of a sweep is a run of its own.
    assert ids[:2] == ["own", "own"] and len(set(ids)) == 3


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("wandb", "wandb"),  # a file where its folder would be
        ("tensorboard", "tensorboard"),
    ],
)
def test_a_tracker_that_cannot_start_costs_one_warning(tmp_path, environment, capsys, name: str, broken: str) -> None:
    environment({})
    (tmp_path / broken).touch()
    tracker = build_tracker(compose([f"tracking={name}"]).tracking, {}, tmp_path)
    tracker.log({"reward": 1.0}, step=1)
    tracker.finish(0)
    said = capsys.readouterr().out
    assert said.count(f"Tracking with {name} could not start") == 1 and "Training continues" in said


def test_names(tmp_path) -> None:
    out = tmp_path / "outputs" / "2026-11-22" / "10-00-00"
    assert run_name(out) == "2026-11-22-10-00-00"
