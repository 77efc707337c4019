"""The page of a run: read as text, and opened in a browser without network and JavaScript."""

import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from grpo.core.errors import UserError
from grpo.report import main
from grpo.reports.run_report import headline, write_run_report
from grpo.runs.saved_run import read_run
from tests.conftest import SMALL, Process, seen

FIGURES = {
    "reward",
    "rewards",
    "advantage_share",
    "groups",
    "length",
    "truncated",
    "entropy",
    "grad_norm",
    "kl",
    "accuracy",
}


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory) -> Path:
    """A real run that has every figure, reported by itself at its end."""
    folder = tmp_path_factory.mktemp("report")
    given = ["max_steps=6", "eval_steps=3", "data.validation_problems=4", "algorithm=grpo_kl", "algorithm.beta=0.2"]
    done = Process(server, folder, *SMALL, *given, "tracking=none", "hydra.run.dir=run")
    assert done.ended() == 0, done.complained()
    assert "Report: run/report.html\n" in done.said()
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(finished, browser, width: int, scheme: str) -> None:
    page = seen(browser, finished / "report.html", width, scheme, FIGURES, 150)
    line = page.locator("#reward svg path[style*='--c0']").first
    assert line.count() == 1
    # Read without opening or unfolding anything.
    for text in ("Before and after", "Which rewards moved the policy", "before training", "To run it again"):
        assert page.get_by_text(text, exact=False).first.is_visible()


def test_the_content_of_the_page(finished) -> None:
    page = (finished / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    results = json.loads((finished / "results.json").read_text())
    assert "http:" not in re.sub(r'xmlns(:\w+)?="http://[^"]+"', "", page) and "https:" not in page
    assert "<script" not in page
    (headline,) = re.findall(r"<h1>(.*)</h1>", page)
    change = "(rose|fell|went|stayed) .*"
    assert re.fullmatch(
        rf"On 4 held-out problems, answers right inside &lt;answer&gt; {change}, and answers right as last number {change}",
        headline,
    )
    assert f"{results['before']['reward']:.2f}" in page and "95% interval" in page
    assert page.count("<small>before training") == page.count("<small>after 6 steps") == 3
    assert all(page.count(f"<small>step {step}</small>") == 3 for step in (2, 4))
    for example in results["examples"]:
        assert page.count(example["question"]) == 1
    assert "<title>tiny on arithmetic: max_steps=2 num_generations=4 " in page and "eval_steps=3" in page
    for key, default, here in (
        ("max_steps", "100", "6"),
        ("algorithm.beta", "0.0", "0.2"),
        ("num_generations", "16", "4"),
    ):
        assert re.search(rf"<td>{key}</td><td[^>]*>{default}</td><td[^>]*>{here}</td>", page), key
    assert "python -m grpo.train max_steps=2" in page and "optimizer.lr" not in page
    assert "2 prompts x 4 completions = 8 per step" in page
    assert all(name in page for name in ("trl 1.", "training", "evaluation before"))


def test_an_estimator_without_parts_has_no_shares(train) -> None:
    out, _ = train("algorithm=passk", "algorithm.pass_k=2", "algorithm.gate=none_right")
    page = write_run_report(out).read_text()
    assert "Those of this estimator are not a sum over rewards, so there are no shares. Means over" in page
    assert '<td data-of="flips">none</td>' in page and 'id="advantage_share"' not in page


def test_a_placebo_has_no_shares(train) -> None:
    out, _ = train("rewards=no_format", "placebo=true")
    page = write_run_report(out).read_text()
    assert "which a placebo has permuted at random among the completions of each group: no reward has a share" in page
    assert '<td data-of="flips">none</td>' in page and 'id="advantage_share"' not in page
    assert "xmlcount 0; a placebo</dd>" in page and "<td>placebo</td>" in page


def test_phantom_advantages_are_in_the_page(run) -> None:
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    parts = {"advantage_share/phantom/none_correct": 0.25, "advantage_share/phantom/all_correct": 0.125}
    file.write_text("".join(json.dumps(row | parts | {"advantage_share/phantom": 0.375}) + "\n" for row in rows))
    page = write_run_report(run).read_text()
    assert "25.0% of the squared advantages are in groups whose answers are all wrong, 12.5% in groups whose" in page


def test_selected_groups_are_named_as_such(run) -> None:
    file = run / "metrics.jsonl"
    rows = [row for line in file.read_text().splitlines() if "loss" in (row := json.loads(line))]
    for i, row in enumerate(rows):
        row |= {"resample/groups_drawn": [2, 6][i % 2], "resample/groups_discarded": [0, 4][i % 2]}
        row |= {"resample/prompts_consumed": 4 * i + 2, "completions/correct": [0.5, 0.1][i % 2]}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    page = write_run_report(run).read_text()
    assert "6 were sampled, and 50% of them replaced." in page and "sampled, 20.0% were right." in page


def test_figures_are_saved_as_png(run, monkeypatch, capsys) -> None:
    (run / "report.html").unlink()
    monkeypatch.setattr(sys, "argv", ["grpo.report", str(run), "--figures"])
    main()
    assert {file.stem for file in (run / "figures").glob("*.png")} == FIGURES
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (run / "figures").iterdir())
    assert (run / "report.html").is_file() and "10 figures" in capsys.readouterr().out


HOSTILE = (
    "</pre><script>document.title='owned'</script><img src=http://127.0.0.1/x> \x1b[31m\ud800 <answer>\n"
    + "x" * 1_000_000
)


def test_html_in_any_text_is_escaped(run, browser) -> None:
    with (run / "transcripts.jsonl").open("a") as file:
        for step in (0, 4, 6):
            line = {"step": step, "question": HOSTILE[:100], "gold": "<b>", "completion": HOSTILE}
            file.write(json.dumps(line) + "\n")
    page = browser.new_page(viewport={"width": 390, "height": 900})
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"file://{write_run_report(run)}")
    assert (
        page.title().endswith(" · grpo report")
        and "owned" not in page.title()
        and page.locator("script, img").count() == 0
        and len(requests) == 1
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("pre b").filter(has_text="<answer>").count() >= 2
    assert max(box["height"] for pre in page.locator("pre").all() if (box := pre.bounding_box())) <= 400


def test_the_report_of_an_unfinished_run(run) -> None:
    (run / "results.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:30])  # the next one is being written
    page = write_run_report(run).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert re.search(r"Not finished: \d steps logged, and no evaluation after training yet", page)
    assert "<figure" in page and "Before and after" not in page and "Answers during training" in page
    (run / "metrics.jsonl").unlink()
    (run / "transcripts.jsonl").unlink()
    page = write_run_report(run).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "Not finished: 0 steps logged" in page and "No step has been logged yet" in page


def test_a_single_step_is_visible(run, browser) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(next(line for line in lines if '"reward"' in line))
    page = browser.new_page()
    page.goto(f"file://{write_run_report(run)}")
    assert page.get_by_text("Means over 1 logged step;").is_visible()
    assert page.locator("#reward svg path[style*='--c0']").last.bounding_box()["width"] > 100


def test_folders_without_a_run_are_refused(run, tmp_path) -> None:
    with pytest.raises(UserError, match="is not a run directory; give the one that a run named at its end"):
        read_run(tmp_path)
    whole = (run / "results.json").read_text()
    (run / "results.json").write_text(whole[:50])
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        read_run(run)
    (run / "results.json").write_text(whole)
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged in line 2"):
        read_run(run)
    (run / ".hydra" / "config.yaml").write_text("rewards: 3\n")
    with pytest.raises(UserError, match="settings name no rewards"):
        read_run(run)


@pytest.mark.parametrize(
    "file,content",
    [
        ("results.json", "[1]"),
        ("results.json", "{}"),
        ("results.json", '{"before": {}}'),
        ("metrics.jsonl", "3\n"),
        ("metrics.jsonl", '{"step": 7, "reward": "x"}\n'),
        ("metrics.jsonl", "\udcff\n"),
        ("transcripts.jsonl", "{}\n"),
    ],
)
def test_a_damaged_file_is_named(run, file: str, content: str) -> None:
    (run / file).write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=rf"{file} is damaged"):
        read_run(run)


def test_the_command_refuses_a_missing_folder_in_one_line(light) -> None:
    done = light("grpo.report", "nowhere")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: nowhere is not the folder of a run")


@pytest.mark.parametrize(
    "value,low,high,p,words,points",
    [
        (0.25, 0.1, 0.4, 0.001, "rose from 25.0% to 50.0%", "+25.0 points (95% interval +10.0 to +40.0)"),
        (-0.25, -0.4, -0.1, 0.001, "fell from 50.0% to 25.0%", "-25.0 points (95% interval -40.0 to -10.0)"),
        (0.0, 0.0, 0.0, 1.0, "stayed at 25.0%", "+0.0 points (95% interval +0.0 to +0.0)"),
        (
            0.25,
            -0.1,
            0.6,
            0.2,
            "went from 25.0% to 50.0%, which is not significant",
            "+25.0 points (95% interval -10.0",
        ),
    ],
)
def test_the_headline_states_a_change_only_if_it_is_significant(run, value, low, high, p, words, points: str) -> None:
    results = json.loads((run / "results.json").read_text())
    first, last = (0.25, 0.5) if value > 0 else (0.5, 0.25)
    for name, label in (
        ("accuracy_strict", "answers right inside <answer>"),
        ("accuracy_flexible", "and answers right as last number"),
    ):
        changed = json.loads(json.dumps(results))
        changed["before"][name], changed["after"][name] = first, last
        changed["difference"][name] |= {"value": value, "low": low, "high": high, "p": p}
        (run / "results.json").write_text(json.dumps(changed))
        fact, changes = headline(read_run(run))
        assert f"{label} {words}" in fact and points in changes


def test_a_metric_that_was_always_zero_has_no_figure(run) -> None:
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    zero = {"completions/clipped_ratio": 0.0, "kl": 0.0}
    file.write_text("".join(json.dumps(row | {key: zero[key] for key in zero if key in row}) + "\n" for row in rows))
    page = write_run_report(run).read_text()
    shown = set(re.findall(r'<figure id="(\w+)"', page))
    assert shown == FIGURES - {"truncated", "kl"}
    assert (
        "Left out, because it was zero at each step: Truncated at the limit; KL from the reference policy, nats per token."
        in page
    )


def test_one_of_three_answers_is_wrong_if_a_held_out_answer_is(run) -> None:
    path = run / "evaluations" / "after.parquet"
    table = pd.read_parquet(path)
    example_questions = [each["question"] for each in json.loads((run / "results.json").read_text())["examples"]]
    other = next(question for question in table["question"] if question not in example_questions)
    table["accuracy_strict"] = (table["question"] != other).astype(float)
    table["accuracy_flexible"] = table["accuracy_strict"]
    table.loc[table["question"] == other, "completion"] = "the wrong answer"
    table.to_parquet(path)
    page = write_run_report(run).read_text()
    assert [page.count(question) for question in (*example_questions, other)] == [1, 1, 0, 1]
    last = page[page.index(other) :]
    assert "<small>after 6 steps · <strong>wrong</strong></small>" in last and "the wrong answer" in last
    table["accuracy_flexible"] = 1.0
    table.to_parquet(path)
    page = write_run_report(run).read_text()
    assert [page.count(question) for question in (*example_questions, other)] == [1, 1, 1, 0]


def test_numbers_stay_with_their_units_on_a_phone(run, browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 900}, java_script_enabled=True)
    page = context.new_page()
    page.goto(f"file://{write_run_report(run)}")
    # Each pair of words in question, as the lines that it takes on the screen.
    broken = page.evaluate("""() => {
      const broken = [], walker = document.createTreeWalker(document.querySelector("header"), NodeFilter.SHOW_TEXT);
      for (let node; (node = walker.nextNode()); )
        for (const found of node.data.matchAll(/[\\d.]+[\\s\\u00a0](points|steps|problems)|[-+]?[\\d.]+[\\s\\u00a0]to[\\s\\u00a0][-+]?[\\d.]+/g)) {
          const range = document.createRange();
          range.setStart(node, found.index);
          range.setEnd(node, found.index + found[0].length);
          broken.push([found[0], range.getClientRects().length]);
        }
      return broken;
    }""")
    assert len(broken) >= 5 and all(lines == 1 for _, lines in broken), broken
    for row in page.locator("table.cards tr").all():
        assert all(
            box["x"] >= 0 and box["x"] + box["width"] <= 390
            for cell in row.locator("td").all()
            if (box := cell.bounding_box())
        )
    context.close()
