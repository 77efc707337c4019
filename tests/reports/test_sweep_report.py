"""The page about a sweep and its table: of a real one, of damaged ones, and of ones that were made up."""

import json
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest
from scipy.stats import ttest_rel

from grpo.core.errors import UserError
from grpo.report import main
from grpo.reports.arms import PRIMARY_METRIC
from grpo.reports.sweep_report import write_sweep_report
from grpo.reports.sweep_results import read_sweep
from tests.conftest import SMALL, Process, seen
from tests.helpers.made_up import made_up, made_up_sweep, plan

FIGURES = {  # the scores of both formats are zero in so short a run
    "settings",
    "effect_0",
    "completions_correct",
    "by_completions",
    "completions_mean_length",
    "groups_zero_std",
    "advantage_share_phantom",
    "eval_accuracy_strict",
}


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory) -> Path:
    """A real sweep of six jobs, reported."""
    folder = tmp_path_factory.mktemp("sweep")
    varied = ["num_generations=2,4", "seed=0,1,2"]
    given = [*SMALL, "eval_steps=1", "data.validation_problems=4", "tracking=none", "threads=1"]
    given = [each for each in given if not each.startswith("num_generations")]
    done = Process(server, folder, "-m", *varied, *given, "hydra.sweep.dir=sweep")
    assert done.ended() == 0, done.complained()
    (folder / "sweep" / "report.html").unlink(missing_ok=True)
    report_of(folder / "sweep")
    return folder / "sweep"


@pytest.fixture
def sweep(finished, tmp_path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(finished, tmp_path / "sweep")


def report_of(folder: Path, *baseline: str) -> Path:
    return write_sweep_report(read_sweep(folder), *baseline)


def solved(folder: Path, job: int, share: float) -> None:
    """Write down that a job had this share of right answers."""
    path = folder / str(job) / "results.json"
    results = json.loads(path.read_text())
    results["after"]["accuracy_strict"] = share
    path.write_text(json.dumps(results))


def phantom_shares(job: Path) -> list[float]:
    steps = map(json.loads, (job / "metrics.jsonl").read_text().splitlines())
    return [step["advantage_share/phantom"] for step in steps if "advantage_share/phantom" in step]


def text(page: str) -> str:
    """What is read of a page, its figures left out."""
    page = re.sub(r"<(svg|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", page.replace("<wbr>", "")).split())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(finished, browser, width: int, scheme: str) -> None:
    page = seen(browser, finished / "report.html", width, scheme, FIGURES, 80)
    for words in (
        "Right answers",
        "Other metrics",
        "The effect of num_generations",
        "Curves",
        "for new seeds and new problems",
    ):
        assert page.get_by_text(words, exact=False).first.is_visible()


def test_page_and_table_agree_with_scipy(sweep) -> None:
    right = {2: [0.25, 0.5, 0.25], 4: [0.75, 0.75, 1.0]}
    for job, share in enumerate(right[2] + right[4]):
        solved(sweep, job, share)
    page = report_of(sweep).read_text()
    assert "http:" not in re.sub(r'xmlns(:\w+)?="http://[^"]+"', "", page) and "https:" not in page
    assert "<script" not in page
    test = ttest_rel(right[4], right[2])
    low, high = test.confidence_interval()
    cells = ["num_generations=4", "0 1 2", "83.3% (14.4)", "16", "+50.0", f"{low * 100:.1f} to {high * 100:.1f}", "–"]
    assert " ".join([*cells, f"{test.pvalue:.2g}", f"{test.pvalue:.2g}"]) in text(page)
    assert f"differences from num_generations=2 below about {(high - low) * 50:.1f} points are not significant" in text(
        page
    )
    table = pd.read_csv(sweep / "sweep.csv").set_index(["num_generations", "figure"])
    row = table.loc[(4, PRIMARY_METRIC)]
    assert (row["low"], row["high"]) == pytest.approx((low, high)) and row["p"] == pytest.approx(test.pvalue)
    assert row["p_holm"] == row["p"] and row["mean"] == pytest.approx(fmean(right[4])) and row["seeds"] == 3
    assert (
        not row["baseline"]
        and table.loc[(2, PRIMARY_METRIC)]["baseline"]
        and pd.isna(table.loc[(2, PRIMARY_METRIC)]["p"])
    )
    results = [json.loads((sweep / str(job) / "results.json").read_text()) for job in (3, 4, 5)]
    for figure in ("mean_completion_tokens", "truncated", "rewards/xmlcount", "reward"):
        assert table.loc[(4, figure)]["mean"] == pytest.approx(fmean(each["after"][figure] for each in results))
        assert table.loc[(4, figure)]["both_low"] <= table.loc[(4, figure)]["low"]
    assert table.loc[(4, "train_seconds")]["mean"] == pytest.approx(fmean(each["train_seconds"] for each in results))
    phantom = [fmean(shares) for shares in map(phantom_shares, (sweep / "3", sweep / "4", sweep / "5")) if shares]
    assert table.loc[(4, "advantage_share/phantom")]["mean"] == pytest.approx(fmean(phantom))


def test_missing_jobs_are_listed_and_not_averaged(sweep) -> None:
    for job, share in enumerate([0.25, 0.5, 0.5, 1.0, 0.75, 0.75]):
        solved(sweep, job, share)
    (sweep / "0" / "results.json").unlink()
    (sweep / "4" / "results.json").unlink()
    (sweep / "4" / "error.txt").write_text("no space is left <b>\n")
    solved(sweep, 5, 0.0)
    results = json.loads((sweep / "5" / "results.json").read_text())
    (sweep / "5" / "results.json").write_text(json.dumps(results | {"stopped_by": "no_signal", "steps": 1}))
    plan(sweep, *(f"num_generations={k} seed={seed}" for k in (2, 4, 8) for seed in (0, 1, 2)))
    page = text(report_of(sweep).read_text())
    assert "5 of 9 jobs are missing from this." in page
    assert "job 0 · unfinished · num_generations=2 seed=0 interrupted, or still running: 2 steps logged" in page
    assert "job 4 · failed · num_generations=4 seed=1 no space is left &lt;b&gt;" in page
    assert "Without a step: 6, 7, 8." in page
    assert "job 5 · num_generations=4 seed=2 Ended early, by the alarm no_signal at step 1; its results count" in page
    # Two seeds each, one of them in common.
    assert "num_generations=4 0 2 50.0% (70.7) 16 -50.0 1 in common unknown – – –" in page
    assert "python -m grpo.train -m ..." in page


def test_a_sweep_without_a_finished_run(sweep, tmp_path) -> None:
    for path in sweep.glob("*/results.json"):
        path.unlink()
    page = text(report_of(sweep).read_text())
    assert "None of 6 jobs has finished: there is nothing to compare yet." in page and "job 5 · unfinished" in page
    assert pd.read_csv(sweep / "sweep.csv").empty
    with pytest.raises(UserError, match="none of its runs has finished"):
        report_of(sweep, "num_generations=4")
    (tmp_path / "planned").mkdir()
    plan(tmp_path / "planned", "seed=0", "seed=1")
    assert "None of 2 jobs has finished" in text(report_of(tmp_path / "planned").read_text())


def test_the_command_writes_page_and_table(sweep, monkeypatch, capsys) -> None:
    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["grpo.report", *arguments])
        main()
        return capsys.readouterr().out

    assert "8 figures" in call(str(sweep), "--baseline", "num_generations=4", "--figures")
    assert {file.stem for file in (sweep / "figures").glob("*.png")} == FIGURES
    assert pd.read_csv(sweep / "sweep.csv").query("baseline")["num_generations"].unique().tolist() == [4]
    assert "report.html" in call(str(sweep / "0"))
    for arguments, words in (
        ([str(sweep), "--baseline", "num_generations=3"], r"Did you mean 'num_generations=4'\? Known: .*=4\."),
        ([str(sweep / "0"), "--baseline", "x"], "is a run; only a sweep has a baseline"),
        ([str(sweep / "0" / "evaluations")], "is not the folder of a run"),
    ):
        with pytest.raises(SystemExit, match=words):
            call(*arguments)


def test_a_sweep_of_many_settings_and_factors(tmp_path) -> None:
    shares = {
        f"num_generations={k} rewards={rewards}": [0.5 + k / 100, 0.5 + k / 90, 0.5 + k / 80]
        for k in (2, 4, 8, 16, 32)
        for rewards in ("default", "no_format")
    }
    page = report_of(made_up_sweep(tmp_path, shares)).read_text()
    said = text(page)
    assert "Of 10 arms these are the baseline and the 7 that end furthest from it." in said
    assert "mean total reward" not in said and "reward xmlcount" in said  # the stacks weigh differently
    assert "Runs that differ only in the factor are compared" in said and 'id="effect_1"' in page
    assert "first" in said and "1 of the differences is the same in every seed" in said


def test_the_report_of_a_search(tmp_path) -> None:
    right = {f"num_generations={k}": [share] for k, share in ((2, 0.5), (4, 0.7), (8, 0.9), (16, 0.8))}
    folder = made_up_sweep(tmp_path, right)
    made_up(folder / "4", "num_generations=32", right=0.95, stopped_by="pruning", steps=3)
    (folder / "5").mkdir()
    (folder / "5" / "error.txt").write_text("out of memory")
    names = [*right, "num_generations=32", "num_generations=64"]
    plan(folder, *names, maximize=["accuracy_strict"])
    said = text(report_of(folder).read_text())
    assert "num_generations=8 had the highest value of right inside &lt;answer&gt;, 90.0%." in said
    assert "4 num_generations=32 pruned at step 3 5 num_generations=64 failed" in said and "job 5 · failed" in said
    assert "1 of 6 jobs is missing from this." in said and "Other metrics" not in said
    assert not pd.read_csv(folder / "sweep.csv")["baseline"].any()
    with pytest.raises(UserError, match="is a search, whose trials are compared with one another"):
        report_of(folder, "num_generations=2")
    plan(folder, *names, maximize=["accuracy_strict"], minimize=["train_seconds"])
    page = report_of(folder).read_text()
    assert 'id="front"' in page and "the Pareto front" in page
    assert len(re.findall(r"<tr><td><strong>", page)) == 1  # the seconds are alike
    plan(folder, *names, maximize=["accuracy_strict", "soft_format"], minimize=["train_seconds"])
    assert 'id="front"' not in report_of(folder).read_text()


@pytest.fixture
def outputs(tmp_path) -> Path:
    """Runs of many settings on two days, some that ended before their first step, and a link to the newest."""
    folder = tmp_path / "outputs"
    for number in range(40):
        given = (f"{key}={2 ** (1 + number // 2**place % 2)}" for place, key in enumerate(VARIED))
        run = made_up(folder / f"2026-11-2{number % 2}" / f"{number:02d}", *given, right=(number + 1) / 100)
        if number % 4 == 3:
            (run / "results.json").unlink()
            (run / "metrics.jsonl").unlink()
    (folder / "latest").symlink_to("2026-11-21/39")
    (folder / "sweeps" / "2026-11-20" / "12-00-00").mkdir(parents=True)
    (folder / "notes.txt").write_text("")
    return folder


VARIED = [
    "num_generations",
    "prompts_per_step",
    "max_completion_length",
    "eval_batch_size",
    "max_steps",
    "data.eval_problems",
]


def reported(monkeypatch, capsys, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["grpo.report", *map(str, arguments)])
    main()
    return capsys.readouterr().out


def test_runs_of_a_folder_are_compared_by_the_settings_that_differ(outputs, monkeypatch, capsys) -> None:
    said = reported(monkeypatch, capsys, outputs)
    assert len(said.splitlines()) < 80 and max(map(len, said.partition("With ")[0].splitlines())) <= 80
    assert "The best 20 of 30 arms; all are in sweep.csv." in said and "10  without a step" in said
    table = pd.read_csv(outputs / "sweep.csv").query(f"figure == '{PRIMARY_METRIC}'")
    assert len(table) == 30 and f"{table['mean'].max():.1%}" in said and f" {table['mean'].iloc[1]:.1%} " not in said
    # The baseline with all that varies; another setting with what is other in it.
    named = dict(re.findall(r"^(\d+) {2,3}(\S.*(?:\n    \S.*)*)", said, re.MULTILINE))
    assert len(named["1"].split()) == len(VARIED) > max(len(named[str(row)].split()) for row in (2, 3, 20))
    page = text((outputs / "report.html").read_text())
    assert (
        "Without a step: 2026-11-21/03, 2026-11-21/07, 2026-11-21/11, 2026-11-21/15, 2026-11-21/19 and 5 more." in page
    )
    assert "No run has a counterpart at every level of" in page or "The effect of each factor" in page


@pytest.mark.parametrize(
    "stranger",
    [
        "project/.hydra/config.yaml",  # of another program
        "project/src/main.py",
        "2026-11-20/notes/todo.txt",
        "a/b/c/d/e",
        "data/train.jsonl",
    ],
)
def test_nothing_is_written_among_foreign_files(outputs, stranger: str, monkeypatch, capsys, tmp_path) -> None:
    (outputs / stranger).parent.mkdir(parents=True)
    (outputs / stranger).write_text("lr: 3\n")
    before = sorted(outputs.rglob("*"))
    name = Path(stranger).parts[0]
    with pytest.raises(SystemExit, match=f"also contains other things than runs, such as {name}, .* --out FOLDER"):
        reported(monkeypatch, capsys, outputs)
    assert "Report: " in reported(monkeypatch, capsys, outputs, "--out", tmp_path / "new" / "page")
    assert sorted(outputs.rglob("*")) == before
    assert {file.name for file in (tmp_path / "new" / "page").iterdir()} == {"report.html", "sweep.csv"}


def test_runs_are_searched_two_levels_down(outputs, monkeypatch, capsys, tmp_path) -> None:
    (tmp_path / "work").mkdir()
    outputs.rename(tmp_path / "work" / "outputs")
    (tmp_path / "work" / "other" / ".hydra").mkdir(parents=True)
    (tmp_path / "work" / "other" / ".hydra" / "config.yaml").write_text("rewards: 3\nlr: 1\n")
    with pytest.raises(SystemExit, match=r"work is not the folder of a run or a sweep, and contains none"):
        reported(monkeypatch, capsys, tmp_path / "work")


HOSTILE = "</td><script>document.title='owned'</script><img src=http://127.0.0.1/x> $x^{2$ \x1b[31m漢 " + "y" * 3000


def test_html_in_any_text_is_escaped(tmp_path, browser, recwarn) -> None:
    folder = tmp_path / "<i>sweep"
    made_up_sweep(folder, {"num_generations=4": [0.5, 0.6], "num_generations=8": [0.6, 0.8]})
    for job in range(4):
        overrides = [f"+{HOSTILE[:60]}=${HOSTILE[:300]}{job // 2}", f"optimizer.lr=<b>{job // 2}$"]
        (folder / str(job) / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    (folder / "4").mkdir()
    (folder / "4" / "error.txt").write_text(HOSTILE)
    plan(folder, *[HOSTILE] * 5, command=HOSTILE)
    page = browser.new_page(viewport={"width": 390, "height": 900})
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report_of(folder).as_uri())
    assert (
        page.title().endswith(", tiny on arithmetic · grpo report")
        and "owned" not in page.title()
        and page.locator("script, img").count() == 0
        and len(requests) == 1
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "\x1b" not in (folder / "report.html").read_text()
    assert pd.read_csv(folder / "sweep.csv")["setting"].nunique() == 2
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_the_headline_is_one_sentence_and_at_most_three_follow(tmp_path) -> None:
    right = {
        f"num_generations={k}": [share, share + 0.01, share + 0.02] for k, share in ((4, 0.9), (8, 0.3), (32, 0.5))
    }
    folder = made_up_sweep(tmp_path, right | {"num_generations=16": [0.92, 0.9, 0.93], "num_generations=64": [0.4]})
    plan(folder, *(f"num_generations={k} seed={seed}" for k in (4, 8, 32, 16, 64) for seed in range(3)))
    page = report_of(folder).read_text()
    (headline,) = re.findall(r"<h1>(.*)</h1>", page)
    assert headline == "With num_generations=8, 31.0% of answers are right; with num_generations=4, 91.0%."
    lead = re.findall(r"^  <p>(.*)</p>$", page[: page.index("<main>")], re.MULTILINE)
    assert len(lead) == 3 and lead[0].startswith("All 3\N{NO-BREAK SPACE}seeds agree: the difference on")
    assert "Each of the 3" not in page[: page.index("<main>")] and "Each of the 3 runs" in text(page)


def test_the_dotted_line_leaves_the_names_of_the_rows_alone(tmp_path, browser) -> None:
    right = {f"num_generations={k}": [share, share + 0.02] for k, share in ((4, 0.4), (8, 0.42), (16, 0.38))}
    page = browser.new_page()
    page.goto(report_of(made_up_sweep(tmp_path, right)).as_uri())
    dotted = [path.bounding_box() for path in page.locator("#settings path[style*='stroke-dasharray']").all()]
    names = [name.bounding_box() for name in page.locator("#settings text").filter(has_text="num_generations").all()]
    assert len(dotted) == len(names) == 3
    for line in dotted:
        for name in names:
            assert line["y"] >= name["y"] + name["height"] or line["y"] + line["height"] <= name["y"]


def test_ticks_say_where_they_are(tmp_path, browser) -> None:
    right = {"num_generations=4": [0.875, 0.883], "num_generations=8": [0.8, 0.867]}
    page = browser.new_page()
    page.goto(report_of(made_up_sweep(tmp_path, right)).as_uri())
    ticks = [text for text in page.locator("#settings text").all_text_contents() if text.endswith("%")]
    steps = {round(float(b[:-1]) - float(a[:-1]), 3) for a, b in pairwise(ticks)}
    assert len(ticks) >= 3 and len(steps) == 1


def test_the_completions_of_an_arm_count_those_of_discarded_groups(tmp_path) -> None:
    folder = made_up_sweep(
        tmp_path, {"num_generations=4": [0.5, 0.6], "num_generations=4 algorithm.resample=3": [0.6, 0.8]}
    )
    for job in (2, 3):
        file = folder / str(job) / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            consumed = {"resample/prompts_consumed": row["step"] * (6 + 2 * job), "resample/groups_drawn": 6 + 2 * job}
            row |= consumed | {"completions/correct": 0.5, "resample/groups_discarded": 2 + 2 * job}
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    page = report_of(folder).read_text()
    table = pd.read_csv(folder / "sweep.csv").query("figure == 'completions_sampled'")["mean"].tolist()
    assert table == [4 * 4 * 10, (10 + 12) / 2 * 4 * 10]
    assert "0 1 55.0% (7.1) 160 baseline" in text(page) and "70.0% (14.1) 440" in text(page)
    assert 'id="by_completions"' in page


def test_a_metric_that_was_zero_in_each_arm_has_no_figure(tmp_path) -> None:
    folder = made_up_sweep(tmp_path, {"num_generations=4": [0.5, 0.6], "num_generations=8": [0.6, 0.8]})
    for file in folder.glob("*/metrics.jsonl"):
        rows = map(json.loads, file.read_text().splitlines())
        file.write_text("".join(json.dumps(row | {"groups/zero_std": 0.0}) + "\n" for row in rows))
    page = report_of(folder).read_text()
    assert 'id="groups_zero_std"' not in page and 'id="completions_mean_length"' in page
    assert "zero at each step of each arm: Groups without advantages." in text(page)
