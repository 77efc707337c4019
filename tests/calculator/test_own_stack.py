"""The page with a stack of one's own, scored by Python, and opened from a run: as a person uses it, in Chromium."""

import json
import signal
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect

from grpo.rewards.advantages import attribute
from tests.helpers.calculator import DROP, advantages, paused, reasons, until, verdicts

REWARDS = """
from grpo.rewards import reward

@reward
def mine(completion: str, gold: str, question: str, difficulty: int) -> float | None:
    if "boom" in completion:
        raise ValueError("no boom")
    while "forever" in completion:
        pass
    return None if question == "" else difficulty * 0.1 if gold in completion else 0.0

@reward
def brevity(completions: list[str], limit: int = 40) -> list[float]:
    return [float(len(text) < limit) for text in completions]
"""
OWN = [
    "reward_files=[mine.py]",
    "+rewards.mine=1",
    "+rewards.brevity=0.5",
    "format.reasoning=think",
    "reward_timeout=2",
]


def scored(page) -> dict[str, str]:
    """What the first tab shows for each reward, once the scores have come."""
    until(page, "!document.body.classList.contains('waiting')")
    rows = page.locator("#scores tbody tr").all()
    return {row.get_attribute("data-reward"): row.locator("td b").inner_text() for row in rows}


def test_a_stack_of_ones_own(serve, open_address, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    process, _, address = serve("--port", "0", "--no-browser", *OWN)
    page = open_address(address)
    assert page.locator("#served-format").inner_text() == "Format <think> <answer>"
    assert not page.locator("#stack").is_visible() and not page.locator("#tags").is_visible()
    until(page, "document.querySelectorAll('#scores td b').length > 0")
    row = page.locator("#scores tr[data-reward=mine]")
    expect(row.locator("td small")).to_have_text("the reward takes 'difficulty', which has no value here")
    page.locator("#columns-one").get_by_label("Column difficulty").fill("3")
    page.locator("#columns-one").get_by_label("Question").fill("3 boxes of 6 pens?")
    page.get_by_role("button", name="perfect").click()
    perfect = {"correctness": "2.0", "int": "0.5", "strict_format": "0.5", "soft_format": "0.5", "xmlcount": "0.5"}
    assert scored(page) == perfect | {"mine": "0.3", "brevity": "0.0"}
    assert page.locator("#scores tfoot b").get_attribute("data-value") == "4.3"
    # The built-in rewards have their reasons, the others say who scores them.
    assert reasons(page, "strict_format") == ["exactly the format"]
    assert row.locator("td small").inner_text() == "scored by Python"

    page.locator("#completion-field").fill("boom")
    expect(row.locator("td small")).to_have_text("raised ValueError: no boom (mine.py:7)")
    assert scored(page)["mine"] == "–" and page.locator("#scores tfoot b").inner_text() == "–"
    page.locator("#completion-field").fill("forever")
    expect(page.locator("#note-one")).to_contain_text("reward 'mine': no scores after 2 seconds", timeout=15_000)
    page.locator("#columns-one").get_by_label("Question").fill("")
    page.locator("#completion-field").fill("18")
    expect(row.locator("td small")).to_have_text("abstains", timeout=15_000)
    assert scored(page)["brevity"] == "1.0"
    paused(page)
    again = open_address(address + page.evaluate("location.hash"))
    until(again, "state.one.completion === '18' && state.one.columns.difficulty === '3'")

    process.send_signal(signal.SIGKILL)
    process.wait()
    page.locator("#completion-field").fill("19")
    expect(page.locator("#note-one")).to_contain_text("does not answer. Start it again")


def test_a_group_of_ones_own(serve, open_address, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    _, _, address = serve("--port", "0", "--no-browser", *OWN[:3], "rewards=correctness_only")
    page = open_address(address)
    rows = [{"completion": text, "gold": "18", "question": "q", "difficulty": 4} for text in ("18", "17", "x" * 60)]
    page.evaluate(DROP, ["x.jsonl", "\n".join(map(json.dumps, rows))])
    until(
        page,
        "document.querySelectorAll('.group tbody tr').length === 3 && !document.body.classList.contains('waiting')",
    )
    scores = np.array([[0.0, 0.4, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    expected = attribute(scores, np.array([1.0, 1.0, 0.5]), 3).advantages
    until(page, "document.querySelector('.group td:last-child').textContent !== ''")
    assert advantages(page) == pytest.approx(expected, abs=1e-9)
    assert verdicts(page) == [
        "None of the 3 is right, so correctness distinguishes nothing: the advantage comes from mine and brevity alone."
    ]
    # A completion for which a reward abstains, as in training.
    page.locator("#columns-group").get_by_label("Question").fill("")
    until(page, "!document.body.classList.contains('waiting')")
    page.wait_for_timeout(400)
    scores[:, 1] = np.nan
    assert advantages(page) == pytest.approx(attribute(scores, np.array([1.0, 1.0, 0.5]), 3).advantages, abs=1e-9)
    page.get_by_label("Completion 2", exact=True).fill("boom")
    expect(page.locator(".verdict")).to_have_text(
        "The reward mine fails on completion 2, and a run would stop here: raised ValueError: no boom (mine.py:7)."
    )
    assert page.locator(".group td:last-child").all_inner_texts() == ["–"] * 3
    page.get_by_role("button", name="中文").click()
    expect(page.locator(".verdict")).to_contain_text("奖励 mine 在第 2 条补全上出错")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(serve, open_address, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    _, _, address = serve("--port", "0", "--no-browser", *OWN)
    page = open_address(address, color_scheme=scheme, bypass_csp=True)
    page.evaluate(Path(str(files("axe_playwright_python").joinpath("axe.min.js"))).read_text(encoding="utf-8"))
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    page.evaluate(
        "state.one.columns = present().columns = { difficulty: '3' }; present().completions[1] = 'boom'; show()"
    )
    for tab, width in (("one", 1280), ("one", 390), ("group", 390), ("group", 1280)):
        page.set_viewport_size({"width": width, "height": 900})
        page.locator(f"#tab-{tab}").click()
        until(page, "!document.body.classList.contains('waiting')")
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        assert not found["violations"], json.dumps(found["violations"], indent=1)[:3000]
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_opened_from_a_run(train, serve, open_address, tmp_path: Path) -> None:
    """The page shows the scores and advantages that the run has recorded."""
    (tmp_path / "mine.py").write_text(REWARDS)
    schedule = "rewards.xmlcount={start: 1.0, end: 0.0, until: 1.0}"
    folder, _ = train(
        "reward_files=[mine.py]", "+rewards.brevity=0.5", "rewards.int=0.25", "format.reasoning=think", schedule
    )
    _, _, address = serve("run", "--port", "0", "--no-browser")
    page = open_address(address)
    assert page.locator("#served-stack b").inner_text() == "run"
    assert page.locator("#served-format code").inner_text() == "<think> <answer>"
    assert page.locator("#step option").all_inner_texts() == ["1", "2"]
    for step in (1, 2):
        if step > 1:
            page.locator("#step").select_option(str(step))
        table = pd.read_parquet(folder / "completions" / f"step_{step:06d}.parquet")
        for group, recorded in enumerate([table[:4], table[4:]]):
            until(page, f"state.groups[0].step === {step}")
            page.locator("#which").select_option(str(group))
            until(page, f"state.at === {group} && !document.body.classList.contains('waiting')")
            assert page.locator("#columns-group").get_by_label("Question").input_value() == recorded.question.iloc[0]
            texts = [field.input_value() for field in page.locator(".card textarea").all()]
            assert texts == list(recorded.completion)
            assert advantages(page) == pytest.approx(list(recorded.advantage), abs=1e-4)
            sums = [
                float(cell.get_attribute("data-value")) for cell in page.locator(".group td:nth-last-child(2)").all()
            ]
            assert sums == pytest.approx(list(recorded.total))
