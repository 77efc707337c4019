"""axe-core finds no fault in any page, in light and in dark, on a screen and on a phone."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from grpo.forecast.verdict import judge
from grpo.reports.preflight_report import write_preflight_report
from grpo.reports.run_report import write_run_report
from grpo.reports.sweep_report import write_sweep_report
from grpo.reports.sweep_results import read_sweep
from tests.helpers.made_up import made_up, made_up_sweep, plan
from tests.helpers.preflight import made_up as made_up_forecast
from tests.reports.test_preflight_report import PROVENANCE, RIGHT


def run_page(folder: Path) -> Path:
    run = made_up(folder / "run", "num_generations=4", steps=4)
    lines = [
        {"step": step, "question": question, "gold": "5", "completion": RIGHT * 20}
        for step in (0, 2, 4)
        for question in ("Q1", "Q2", "another")
    ]
    (run / "transcripts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    alarm = {"step": 3, "alarm": "no_signal", "message": "No group had a signal."}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f"{json.dumps(alarm)}\n")
    return write_run_report(run)


def sweep_page(folder: Path) -> Path:
    made_up_sweep(folder, {"num_generations=4": [0.5, 0.6], "num_generations=8": [0.6, 0.8]})
    plan(folder, *(f"num_generations={k} seed={seed}" for k in (4, 8, 16) for seed in (0, 1)))
    (folder / "4").mkdir()
    (folder / "4" / "error.txt").write_text("no space is left")
    return write_sweep_report(read_sweep(folder))


def job_page(folder: Path) -> Path:
    return sweep_page(folder).parent / "0" / "report.html"


def preflight_page(folder: Path) -> Path:
    forecast = made_up_forecast([[RIGHT, "no", "", "5"] * 4] * 6, "rewards.xmlcount=-8")
    command = "python -m grpo.preflight rewards.xmlcount=-8"
    return write_preflight_report(folder / "preflight.html", forecast, judge(forecast), command, PROVENANCE)


@pytest.mark.parametrize("write", [run_page, sweep_page, job_page, preflight_page])
def test_axe_finds_nothing(write: Callable[[Path], Path], browser, tmp_path) -> None:
    axe = Path(str(files("axe_playwright_python").joinpath("axe.min.js"))).read_text(encoding="utf-8")
    address = write(tmp_path).as_uri()
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        page.goto(address)
        page.evaluate(axe)
        page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
            assert not found["violations"], json.dumps(found["violations"], indent=1)[:3000]
            assert len(found["passes"]) > 20
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        context.close()
