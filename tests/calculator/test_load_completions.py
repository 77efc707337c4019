"""Loading completions: dropped files, pasted text, opened files."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from grpo.rewards.advantages import attribute
from grpo.rewards.estimators import batch_std
from tests.helpers.calculator import DROP, KINDS, advantages, by_python, until
from tests.helpers.reward_tables import PERFECT, answered


def rows_of_a_run() -> tuple[pd.DataFrame, np.ndarray]:
    """Two steps of two groups of four, as a run leaves them in `completions/`, and their scores."""
    rng, rows = np.random.default_rng(0), []
    for step in (1, 2):
        for question, gold in (("How many? <b>", "18"), ("How much?", "1,080")):
            for _ in range(4):
                answer = rng.choice([gold, "7", f"{gold} pens"])
                completion = rng.choice(
                    [PERFECT.replace("18", answer), answered(answer), answer, PERFECT + "x\r\ny" * int(rng.integers(9))]
                )
                rows.append({"step": step, "question": question, "gold": gold, "completion": completion})
    frame = pd.DataFrame(rows)
    scores = np.array(by_python(list(zip(frame["completion"], frame["gold"], strict=True))))[:, :5]
    frame[KINDS] = scores
    frame["total"] = scores.sum(axis=1)
    return frame, scores


def test_the_rows_of_a_run_are_dropped(open_page, tmp_path) -> None:
    frame, scores = rows_of_a_run()
    frame.to_parquet(tmp_path / "step.parquet")
    page = open_page()
    page.evaluate(DROP, ["step 1.parquet", "PAR1"])
    said = page.locator("#message > div")
    said.wait_for()
    # The printed command makes a file that the page can load.
    command = re.search(r'python -c "(.*)"', said.inner_text()).group(1)
    assert "'step?1.jsonl'" in command
    subprocess.run([sys.executable, "-c", command.replace("step?1", "step")], cwd=tmp_path, check=True)
    page.evaluate(DROP, ["step.jsonl", (tmp_path / "step.jsonl").read_text()])
    until(page, "document.getElementById('message').textContent.includes('16 completions in 4 groups loaded.')")
    page.get_by_label("default", exact=True).check()
    page.get_by_label("the batch's std").check()
    assert page.locator("#which option").all_inner_texts()[2] == "3 of 4, step 2"
    for group in range(4):
        page.locator("#which").select_option(str(group))
        here = slice(4 * group, 4 * group + 4)
        # As the run scored them: carriage returns remain until the text is edited.
        shown = [float(cell.get_attribute("data-value")) for cell in page.locator(".group td:nth-last-child(2)").all()]
        assert shown == pytest.approx(frame["total"][here].tolist(), abs=1e-9)
        step = slice(8 * (group // 2), 8 * (group // 2) + 8)
        split = attribute(scores[step], np.ones(5), 4, batch_std)
        assert advantages(page) == pytest.approx(split.advantages.reshape(2, 4)[group % 2], abs=1e-9)
        of_batch = [
            float(share.replace("−", "-"))
            for share in re.findall("[−0-9.]+(?=%)", page.locator(".made p").inner_text())
        ]
        assert of_batch == pytest.approx(split.shares() * 100, abs=0.051)
        assert page.locator("#question").inner_text() == frame["question"][4 * group]
    carriage = frame["completion"].str.contains("\r")
    assert carriage.any()
    page.locator("#which").select_option(str(carriage.idxmax() // 4))
    assert "carriage returns" in page.locator("#note-group").inner_text()


# Pasted text -> the message, and the completions of the group afterwards (None: unchanged).
PASTED = [
    ("first\n\n \nsecond, of\ntwo lines\n", "2 completions in 1 group loaded.", ["first", "second, of\ntwo lines"]),
    ('{"completion": "a"}\n\n{"completion": "b"}', "2 completions in 1 group loaded.", ["a", "b"]),
    (
        '{"completion": "a", "gold": 5}\n{"completion": "b", "gold": "x #### 6"}',
        "2 completions in 2 groups loaded.",
        ["a"],
    ),
    ('{"completion": "a"}\n{"completion": ', "Line 2 is not JSON (", None),
    ('{"completion": 5}', 'Line 1 has no text under "completion". Nothing is loaded.', None),
    (
        '{"completion": "a", "gold": []}',
        'Line 1: "gold" is neither text nor a number that can be read exactly. Nothing is loaded.',
        None,
    ),
    (" \n", "It contains no completion.", None),
    ('[{"completion": "a"}, {"completion": "b\\n"}]', "2 completions in 1 group loaded.", ["a", "b\n"]),
    ("[1, 2]", "1 completion in 1 group loaded.", ["[1, 2]"]),
    ('\ufeff{"completion": "a"}', "1 completion in 1 group loaded.", ["a"]),
    ("{18}\n\n18", "2 completions in 1 group loaded.", ["{18}", "18"]),
    ('completion": "a"}\n{"completion": "b"}', "Line 1 is not JSON (", None),
    ("\x89PNG\x00\x01", "This is not a text file.", None),
    ('{"completion": "a", "gold": 1e21}', 'Line 1: "gold" is neither text nor a number', None),
    (
        "x\n\n" * 70,
        "64 completions in 1 group loaded. 6 more are ignored: the limit is 64 per group and 5,000 per file.",
        ["x"] * 64,
    ),
]


def test_pasted(open_page) -> None:
    page = open_page()

    def completions() -> list[str]:
        return page.evaluate("[...document.querySelectorAll('.card textarea')].map((field) => field.value)")

    page.get_by_role("tab", name="The group").click()
    page.get_by_text("Paste several").click()
    for text, message, expected in PASTED:
        before = completions()
        page.locator("#pasted").fill(text)
        page.get_by_role("button", name="Replace the group").click()
        assert page.locator("#message").inner_text().startswith(message)
        assert completions() == (before if expected is None else expected)
        # Text that cannot be read remains, to be corrected.
        assert page.locator("#pasted").input_value() == (text if expected is None else "")
        page.get_by_role("button", name="Close").click()
    entries = page.evaluate("history.length")
    for text, expected in (
        ("a", ["x"] * 64),
        ("b\n\nc", ["18", "b", "c"]),
        ('{"completion": "d", "gold": "7"}', ["18"]),
    ):
        page.locator("#pasted").fill(text)
        page.get_by_role("button", name="Add to the group").click()
        assert completions() == expected
        page.evaluate("() => { state.groups = [prompt_of(['18'])]; show(); }")
    assert page.evaluate("history.length") == entries + 1  # what was refused replaced nothing


# Numbers as gold answers, as Python reads and writes them.
@pytest.mark.parametrize("gold", ["18", "-3", "18.0", "-0", "-0.0", "12345678901234567890", "1.50", "0.0001"])
def test_a_number_as_gold_answer_becomes_the_text_that_python_writes(open_page, gold: str) -> None:
    page = open_page()
    page.evaluate("text => load(text)", f'{{"completion": "a", "gold": {gold}}}')
    assert page.evaluate("state.groups[0].gold") == str(json.loads(gold))


def test_a_gold_answer_of_several_lines_is_unchanged(open_page) -> None:
    page = open_page()
    page.evaluate("text => load(text)", json.dumps({"completion": answered("a\nb"), "gold": "a\nb"}))
    assert page.locator(".facts b").first.inner_text() == "1 / 1"
    page.locator("#group-gold").press("x")
    page.locator("#group-gold").press("Backspace")
    assert page.evaluate("state.groups[0].gold") == "a\nb"
    page.evaluate("text => load(text)", json.dumps({"completion": "a", "gold": "a\rb"}))
    assert "carriage returns" in page.locator("#note-group").inner_text()


def test_a_file_is_opened(open_page, tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"completion": "<answer>5</answer>", "gold": "5"}\n')
    page = open_page()
    page.get_by_role("tab", name="The group").click()
    page.locator("#file").set_input_files(tmp_path / "rows.jsonl")
    page.get_by_text("1 completion in 1 group loaded.").wait_for()
    assert page.locator(".facts b").first.inner_text() == "1 / 1"
