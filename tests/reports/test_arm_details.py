"""What the page of a sweep shows of each arm: a page for each job, advantage shares, answers to the same problems."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from grpo.reports.run_report import write_run_report
from grpo.reports.sweep_report import write_sweep_report
from grpo.reports.sweep_results import read_sweep
from tests.helpers.made_up import made_up_sweep, plan

STACKS = {"rewards=default": [0.9, 0.8], "rewards=no_correctness": [0.5, 0.6]}


@pytest.fixture
def sweep(tmp_path) -> Path:
    return made_up_sweep(tmp_path / "sweep", STACKS)


def page_of(sweep: Path, *arguments) -> str:
    return write_sweep_report(read_sweep(sweep), *arguments).read_text()


def text(page: str) -> str:
    page = re.sub(r"<(svg|style).*?</\1>|<wbr>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_each_row_links_to_the_pages_of_its_jobs(sweep, browser) -> None:
    (sweep / "0" / "report.html").write_text("written before")
    page_of(sweep)
    assert (sweep / "0" / "report.html").read_text() == "written before"
    page = browser.new_page()
    page.goto((sweep / "report.html").as_uri())
    links = page.get_by_role("row").filter(has_text="rewards=no_correctness").first.get_by_role("link")
    assert links.all_text_contents() == ["0", "1"]
    links.nth(1).click()
    assert page.url == (sweep / "3" / "report.html").as_uri()
    assert "Before and after" in page.content() and "with the folder of this job draws them" in page.content()
    assert (sweep / "3" / "report.html").stat().st_size < 50_000 and page.locator("svg").count() == 0
    back = page.get_by_role("link", name="its sweep")
    assert (
        back.get_attribute("href") == "../report.html" and "job 3 of its sweep" in page.locator("header").text_content()
    )
    back.click()
    assert page.url == (sweep / "report.html").as_uri()


def test_the_page_of_a_job_links_to_its_sweep_once_that_has_a_page(sweep) -> None:
    plan(sweep, *(f"{stack} seed={seed}" for stack in STACKS for seed in (0, 1)))
    assert "<a href" not in write_run_report(sweep / "1").read_text()
    page_of(sweep)
    assert '<a href="../report.html">its sweep</a>' in write_run_report(sweep / "1").read_text()


def test_a_page_elsewhere_links_to_pages_that_exist_and_writes_none(sweep, tmp_path) -> None:
    (sweep / "2" / "report.html").write_text("")
    page = page_of(sweep, None, None, tmp_path / "elsewhere")
    assert re.findall(r'<a href="([^"]+)"', page) == ["../sweep/2/report.html"]
    assert not (sweep / "1" / "report.html").exists()


def test_shares_are_means_over_seeds_and_a_reward_without_weight_is_off(sweep) -> None:
    for job, shares in enumerate([(0.5, 0.25), (0.7, 0.05), (0.0, 0.6), (0.0, 0.8)]):
        logged = {"advantage_share/correctness": shares[0], "advantage_share/int": shares[1], "reward": 1.0}
        phantom = "advantage_share/phantom"
        logged |= dict.fromkeys((phantom, f"{phantom}/none_correct", f"{phantom}/all_correct"), 0.1) if job < 2 else {}
        logged |= {f"groups/zero_std/{name}": 0.5 for name in ("correctness", "int")}
        (sweep / str(job) / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": step} | logged) + "\n" for step in (1, 2))
        )
    said = text(page_of(sweep))
    assert "arm correctness int strict_format soft_format xmlcount phantom" in said
    assert "rewards=default 60.0% 15.0% – – – 10.0%" in said
    assert "rewards=no_correctness off 70.0% – – – –" in said


def test_the_arms_answer_the_same_problems_folded_under_their_names(sweep) -> None:
    for job in range(4):
        path = sweep / str(job) / "evaluations" / "after.parquet"
        table = pd.read_parquet(path)
        table["completion"] = [f"<answer>\n{job}/{i}\n</answer>" for i in range(len(table))]
        table["accuracy_strict"] = [i not in (1, 2) if job == 2 else True for i in range(len(table))]
        table["accuracy_flexible"] = [i != 1 if job == 2 else True for i in range(len(table))]
        table.sample(frac=1, random_state=job).to_parquet(path)
    page = page_of(sweep)
    assert page.count("<details>") == 2 and "<details open" not in page
    said = text(page)
    assert "rewards=no_correctness seed 0: right; wrong; right, but not inside" in said
    for job in (0, 2):
        for problem in range(3):
            assert f"Q{problem} Gold: 1." in said and f"<b>&lt;answer&gt;</b>\n{job}/{problem}\n" in page
    assert "1/0" not in said and "/3\n" not in page
    # The lowest seed that all arms have; without completions an arm has no answers.
    (sweep / "0" / "results.json").unlink()
    (sweep / "3" / "evaluations" / "after.parquet").unlink()
    page = page_of(sweep)
    assert "Which rewards moved each arm" not in page  # no shares are logged
    assert page.count("<details>") == 1 and "\n1/0\n" in page
