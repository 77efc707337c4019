"""The reward calculator in use: typed in, read in two languages, followed by links, and fed what is hostile."""

import json
import random
import re
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grpo.calculator import PAGE
from grpo.core.tables import FORMAT_TAG
from grpo.reports.figures import COLOURS
from grpo.rewards.advantages import attribute
from grpo.tasks.answers import TAGS, extract_answer
from tests.calculator.test_calculator import KINDS, by_python, many
from tests.rewards.test_rewards import PERFECT, answered


def typed(page, selector: str, text: str) -> None:
    """Type as a person does, key by key."""
    page.locator(selector).fill("")
    page.locator(selector).press_sequentially(text)


def fill(page, selector: str, text: str) -> None:
    """As `Locator.fill`, with lone surrogates, which its way to the browser does not carry."""
    script = """([selector, text]) => {
      const field = document.querySelector(selector);
      field.value = JSON.parse(text);
      field.dispatchEvent(new Event("input"));
    }"""
    page.evaluate(script, [selector, json.dumps(text)])


def totals(page) -> list[float]:
    return [float(cell.get_attribute("data-value")) for cell in page.locator("#scores tfoot b").all()]


def reasons(page, kind: str) -> list[str]:
    return page.locator(f"#scores .{kind} td small").all_inner_texts()


def advantages(page) -> list[float]:
    return [float(cell.get_attribute("data-value")) for cell in page.locator("#panels .panel td:last-child").all()]


def verdicts(page) -> list[str]:
    return page.locator("#panels .verdict").all_inner_texts()


def paused(page) -> None:
    """Typing pauses, and the address bar follows."""
    page.evaluate("write_link()")


def until(page, holds: str) -> None:
    """Wait for an expression of the page's (Playwright's own way evaluates text, which the page forbids)."""
    end = time.monotonic() + 10
    while not page.evaluate(holds):
        assert time.monotonic() < end, holds
        time.sleep(0.02)


def test_typing_scores_at_once(open_page) -> None:
    page = open_page()
    typed(page, "#completion-field", PERFECT)
    typed(page, "#gold-field", "18")
    assert totals(page) == [4.0, 3.5]
    page.locator("#completion-field").press("Backspace")
    assert page.locator("#length").inner_text() == f"{len(PERFECT) - 1} characters"
    assert reasons(page, "strict_format") == [
        "exactly the format; no line break after </answer>: allowed",
        "the line break after </answer> is missing",
    ]
    assert totals(page)[0] == 4.0 and totals(page)[1] < 3.5
    page.locator("#completion-field").press_sequentially("\nx")
    assert reasons(page, "xmlcount")[0] == "4 of 4 tags alone on their lines; 1 character after </answer>: −0.001"
    typed(page, "#gold-field", "19")
    assert page.locator("#scores .correctness td b").all_inner_texts() == ["0.0", "0.0"]
    page.get_by_label("default", exact=True).check()
    assert len(totals(page)) == 1 and page.locator("#scores td.differs").count() == 0
    # Read out once typing pauses, not with every key.
    until(page, "document.getElementById('said').textContent.startsWith('default: total 1.499, of at most 4.0.')")


def test_weights(open_page) -> None:
    page = open_page()
    page.locator("[data-t=eg_perfect]").click()
    page.get_by_label("weight of correctness, as a number").fill("0.5")
    assert totals(page) == [3.0, 2.5] and page.get_by_label("weight of correctness", exact=True).input_value() == "0.5"
    assert page.locator("#scores tfoot small").all_inner_texts()[1:] == ["of at most 3.0", "of at most 2.5"]
    page.get_by_label("weight of correctness", exact=True).press("ArrowRight")
    assert page.get_by_label("weight of correctness, as a number").input_value() == "0.55"
    # A reward that is a penalty pays at best nothing; the length that verbatim charges has no bound.
    page.get_by_label("weight of xmlcount, as a number").fill("-1")
    assert page.locator("#scores tfoot small").all_inner_texts()[1:] == ["of at most 2.6", "without an upper bound"]
    page.get_by_label("weight of xmlcount, as a number").fill("")
    page.get_by_label("weight of xmlcount, as a number").blur()
    assert page.get_by_label("weight of xmlcount, as a number").input_value() == "-1"
    page.get_by_role("button", name="All 1.0").click()
    assert totals(page) == [4.0, 3.5]


# What each example shows: the totals of both stacks, and the gold.
EXAMPLES = {
    "bare": (0.0, 2.5, "18"),
    "perfect": (4.0, 3.5, "18"),
    "unbroken": (4.0, 2.5 + 0.389, "18"),
    "two": (2.0 + 0.5 + 0.5, None, "18"),
    "chinese": (4.0, 3.0, "18"),
    "chatter": (3.5 - 0.063, None, "18"),
    "comma": (4.0, 1.5, "1,080"),
}


def test_examples(open_page) -> None:
    page = open_page()
    assert [button.get_attribute("data-t") for button in page.locator("#examples-one button").all()] == [
        f"eg_{name}" for name in EXAMPLES
    ]
    for name, (default, verbatim, gold) in EXAMPLES.items():
        page.locator(f"[data-t=eg_{name}]").click()
        completion = page.locator("#completion-field").input_value()
        assert page.locator("#gold-field").input_value() == gold
        (row,) = by_python([(completion, gold)])
        assert totals(page) == [pytest.approx(sum(row[:5])), pytest.approx(sum(row[5:]))]
        assert totals(page)[0] == pytest.approx(default) and verbatim in (None, pytest.approx(totals(page)[1]))


def test_reasons(open_page) -> None:
    page = open_page()
    for completion, kind, default, verbatim in [
        ("18", "correctness", "no closed <answer> block", "“18” is the gold text; no <answer>: the whole text counts"),
        (answered("18.0"), "correctness", "“18.0” equals the gold “18”", "“18.0” is not the text “18”"),
        (answered("9") + answered("18"), "correctness", "“18” is the gold answer; the last closed block counts", "“18” is the gold text"),
        (answered("²"), "int", "“²”: not ASCII digits", "“²” passes str.isdigit"),
        (answered("1,0800"), "int", "“1,0800”: commas are not at every third digit", "“1,0800” fails str.isdigit"),
        (answered(" \n"), "int", "the answer is blank", "the answer is blank"),
        (answered("x" * 40), "int", f"“{'x' * 15}…” is not an integer in plain digits", f"“{'x' * 15}…” fails str.isdigit"),
        (PERFECT * 2, "strict_format", "<reasoning> occurs 2 times, not once", "not the four tags on lines of their own, in order"),
        (PERFECT + "x", "strict_format", "the last line is not </answer> alone", "not the four tags on lines of their own, in order"),
        (PERFECT.replace("8*3=24 pages.", " "), "soft_format", "the reasoning is blank", "does not begin with reasoning, then answer"),
        (PERFECT.replace("\n", ""), "soft_format", "a reasoning block, then an answer block", "reasoning and answer without a line break inside"),
        ("a\n</answer>", "xmlcount", "1 of 4 tags alone on their lines; no line break after </answer>: allowed", "1 of 4 tags with their line breaks; no line break after </answer>: one character is paid back, 0.001"),
        ("<answer>8</answer>\nab\n</answer>\nabcd", "xmlcount", "0 of 4 tags alone on their lines; 4 characters after </answer>: −0.004; never below 0", "1 of 4 tags with their line breaks; 4 characters charged: −0.004"),
        ("\n<answer>\n8", "xmlcount", "1 of 4 tags alone on their lines", "1 of 4 tags with their line breaks; no </answer> between line breaks: the whole text is charged, −0.011"),
        (PERFECT + "x" * 700, "xmlcount", "4 of 4 tags alone on their lines; 700 characters after </answer>: −0.7; never below 0", "4 of 4 tags with their line breaks; 1,400 characters charged, counted twice: −1.4"),
    ]:  # fmt: skip
        page.locator("#completion-field").fill(completion)
        assert reasons(page, kind) == [default, verbatim]


def test_what_is_tinted(open_page) -> None:
    page = open_page()
    found = page.evaluate(
        """texts => texts.map((text) => ["default", "verbatim"].map((stack) => {
          const { tags, answer, charged } = spans(stack, text);
          return [tags.map((span) => text.slice(...span)), answer && text.slice(...answer), text.slice(...charged)];
        }))""",
        [text for text, _ in many()[:2000]],
    )
    for (text, _), (default, verbatim) in zip(many()[:2000], found, strict=True):
        tail = text.rpartition("</answer>")[2].removeprefix("\n") if "</answer>" in text else ""
        assert default == [re.findall(FORMAT_TAG, text), extract_answer(text), tail]
        assert verbatim[1] == text.split("<answer>")[-1].split("</answer>")[0].strip()
    tinted = "() => MARKS.map((name) => Array.from(highlights[name], ({ startContainer, startOffset, endOffset }) => startContainer.data.slice(startOffset, endOffset)))"
    page.locator("[data-t=eg_chatter]").click()
    assert page.evaluate(tinted) == [
        list(TAGS),
        ["18"],
        ["I hope this helps! Let me know if you have any other questions."],
    ]
    page.locator("[data-t=eg_unbroken]").click()
    page.get_by_label("verbatim", exact=True).check()
    assert page.evaluate(tinted)[2] == [page.locator("#completion-field").input_value()]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_tint_lies_under_its_text(open_page, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 900})
    long = [
        "\n" * 100,
        "word " * 900,
        "x" * 3000,
        "思考，" * 900,
        "a\n\n\n" * 60 + "\n",
        "\t1\t2\n" * 90,
        "👩‍👩‍👧 " * 500,
    ]
    script = """(text) => {
      const field = document.getElementById("completion-field"), mirror = field.previousElementSibling;
      field.value = text;
      field.dispatchEvent(new Event("input"));
      field.scrollTop = 1e6;
      return new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve([
        field.scrollHeight - mirror.scrollHeight, field.clientWidth - mirror.clientWidth, field.scrollTop - mirror.scrollTop,
      ]))));
    }"""
    for text in [*long, *(text for text, _ in many()[:30])]:
        assert page.evaluate(script, text) == [0, 0, 0], repr(text[:80])


# ---- The group


def test_a_group_is_edited(open_page) -> None:
    page = open_page()
    page.get_by_role("tab", name="The group").click()
    page.get_by_label("default", exact=True).check()
    assert verdicts(page) == ["1 of 4 is right; correctness makes 49.0% of the advantage."]
    bar = page.locator("#panels .shares i").first
    before = bar.get_attribute("style")
    page.get_by_label("Completion 4", exact=True).fill(PERFECT)
    assert verdicts(page)[0].startswith("2 of 4 are right") and bar.get_attribute("style") != before
    page.get_by_role("button", name="Add a completion").click()
    assert page.evaluate("document.activeElement.ariaLabel") == "Completion 5"
    page.keyboard.type("18")
    page.get_by_role("button", name="Remove completion 2").click()
    assert page.evaluate("document.activeElement.ariaLabel") == "Completion 2"
    completions = [field.input_value() for field in page.locator(".card textarea").all()]
    assert len(completions) == 4 and completions[2:] == [PERFECT, "18"]

    scores = np.array(by_python([(completion, "18") for completion in completions]))[:, :5]
    for scale, label in (("group", "the group's std"), ("batch", "the batch's std"), ("none", "nothing")):
        page.get_by_label(label, exact=True).check()
        split = attribute(scores, np.ones(5), 4, scale)
        assert advantages(page) == pytest.approx(split.advantages, abs=1e-9)
        shares = [float(cell.get_attribute("data-value")) for cell in page.locator(".shares dd[data-value]").all()]
        assert shares == pytest.approx(split.shares(), abs=1e-9)
        assert ("the batch is the group" in page.locator("#note-group").inner_text()) == (scale == "batch")
    assert page.locator(".facts b").all_inner_texts() == [
        "2 / 4",
        f"{scores.sum(1).mean():.3f}".rstrip("0"),
        f"{scores.sum(1).std(ddof=1):.3f}",
    ]
    page.locator("#group-gold").fill("19")
    assert verdicts(page)[0].startswith("None of the 4 is right, so correctness tells nothing apart")


def test_why_an_answer_is_wrong(open_page) -> None:
    page = open_page()
    for answer, why in (
        ("16 or 18", "“16 or 18” does not hold exactly one number"),
        ("none", "“none” does not hold exactly one number"),
        ("19 pens", "“19 pens” is not “18”"),
        ("", "a blank answer is not “18”"),
        ("18 pens", "“18 pens” equals the gold “18”"),
    ):
        page.locator("#completion-field").fill(answered(answer))
        assert reasons(page, "correctness")[0] == why


def test_a_card_keeps_its_undo_when_others_come_and_go(open_page) -> None:
    page = open_page()
    page.get_by_role("tab", name="The group").click()
    field = page.get_by_label("Completion 4", exact=True)
    field.press("End")
    field.press_sequentially("xyz")
    page.get_by_role("button", name="Add a completion").click()
    page.get_by_role("button", name="Remove completion 1").click()
    page.locator("#language").click()
    moved = page.locator(".card textarea").nth(2)
    assert moved.input_value() == "The answer is 18.xyz"
    moved.press("Control+z")
    assert (
        moved.input_value() == "The answer is 18."
        and page.evaluate("state.groups[0].completions[2]") == "The answer is 18."
    )


@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844)])
def test_shares_are_in_sight_while_one_types(open_page, width: int, height: int) -> None:
    page = open_page(viewport={"width": width, "height": height})
    page.get_by_role("tab", name="The group").click()
    page.get_by_label("Completion 4", exact=True).press("x")
    in_sight = """() => {
      const inside = ({ top, bottom }) => top >= 0 && bottom <= innerHeight;
      const bars = [...document.querySelectorAll(".track i")].filter((bar) => bar.offsetParent);
      return bars.filter((bar) => inside(bar.getBoundingClientRect())).length;
    }"""
    until(page, f"({in_sight})() === 10")


def test_a_group_without_signal_says_why(open_page) -> None:
    page = open_page()
    page.get_by_role("tab", name="The group").click()
    page.locator("[data-t=eg_trap]").click()
    assert verdicts(page) == [
        "No signal: all 4 are right, and no reward tells them apart. Every advantage is 0, and nothing is learnt from this group.",
        "Only length is rewarded. All 4 are right, and xmlcount alone tells them apart, by the characters it charges: the fewer, the higher the advantage, whatever they say.",
    ]
    found = advantages(page)
    assert found[:4] == [0, 0, 0, 0] and found[4:] == sorted(found[4:], reverse=True)
    page.get_by_label("default", exact=True).check()
    page.locator("[data-t=eg_wrong]").click()
    assert verdicts(page)[0].startswith("No signal: none of the 4 is right")

    def weigh(**weights: float) -> str:
        for name, value in weights.items():
            page.get_by_label(f"weight of {name}, as a number").fill(str(value))
        return verdicts(page)[0]

    page.evaluate("texts => { state.groups = [prompt_of(texts)]; show(); }", [answered("18"), answered("x")])
    assert (
        weigh(correctness=0, int=0)
        == "No signal: only correctness and int would tell them apart, at a weight of 0. Every advantage is 0."
    )
    assert (
        weigh(correctness=0.25, int=-1)
        == "No signal: correctness and int tell them apart, but their differences cancel in the total. Every advantage is 0."
    )
    assert (
        weigh(correctness=0, int=1) == "1 of 2 is right, but correctness has no weight: the advantage is made of int."
    )
    assert (
        weigh(int=0, strict_format=0, soft_format=0, xmlcount=0)
        == "No signal: every weight is 0, so nothing is trained."
    )
    page.evaluate(
        "texts => { state.groups[0].completions = texts; show(); }", [PERFECT, PERFECT.replace("18", "17") + "x"]
    )
    assert weigh(xmlcount=1).endswith("right, but correctness has no weight: the advantage is made of xmlcount.")
    page.get_by_role("button", name="Remove completion 2").click()
    assert weigh(correctness=1) == "One completion has nothing to be compared with: its advantage is 0. Add another."
    assert page.get_by_role("button", name="Remove completion 1").is_disabled()


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


DROP = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name));
  for (const type of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def test_the_rows_of_a_run_are_dropped(open_page, tmp_path) -> None:
    frame, scores = rows_of_a_run()
    frame.to_parquet(tmp_path / "step.parquet")
    page = open_page()
    page.evaluate(DROP, ["step 1.parquet", "PAR1"])
    said = page.locator("#message > div")
    said.wait_for()
    # What it tells them to run makes the file that it takes.
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
        # As the run scored them: carriage returns are kept until the text is edited.
        shown = [float(cell.get_attribute("data-value")) for cell in page.locator(".group td:nth-last-child(2)").all()]
        assert shown == pytest.approx(frame["total"][here].tolist(), abs=1e-9)
        step = slice(8 * (group // 2), 8 * (group // 2) + 8)
        split = attribute(scores[step], np.ones(5), 4, "batch")
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


# What is pasted -> what is said, and the completions of the group then (None: as before).
PASTED = [
    ("first\n\n \nsecond, of\ntwo lines\n", "2 completions in 1 group loaded.", ["first", "second, of\ntwo lines"]),
    ('{"completion": "a"}\n\n{"completion": "b"}', "2 completions in 1 group loaded.", ["a", "b"]),
    (
        '{"completion": "a", "gold": 5}\n{"completion": "b", "gold": "x #### 6"}',
        "2 completions in 2 groups loaded.",
        ["a"],
    ),
    ('{"completion": "a"}\n{"completion": ', "Line 2 is not JSON (", None),
    ('{"completion": 5}', 'Line 1 has no text under "completion". Nothing was loaded.', None),
    (
        '{"completion": "a", "gold": []}',
        'Line 1: "gold" is neither text nor a number that can be read as it stands. Nothing was loaded.',
        None,
    ),
    (" \n", "There is no completion in it.", None),
    ('[{"completion": "a"}, {"completion": "b\\n"}]', "2 completions in 1 group loaded.", ["a", "b\n"]),
    ("[1, 2]", "1 completion in 1 group loaded.", ["[1, 2]"]),
    ('\ufeff{"completion": "a"}', "1 completion in 1 group loaded.", ["a"]),
    ("{18}\n\n18", "2 completions in 1 group loaded.", ["{18}", "18"]),
    ('completion": "a"}\n{"completion": "b"}', "Line 1 is not JSON (", None),
    ("\x89PNG\x00\x01", "This is not a text file.", None),
    ('{"completion": "a", "gold": 1e21}', 'Line 1: "gold" is neither text nor a number', None),
    ("x\n\n" * 70, "64 completions in 1 group loaded. 6 more left out: a group takes 64, a file 5,000.", ["x"] * 64),
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
        # What could not be read stays, to be mended.
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


# Numbers as gold answers, as Python writes what it reads there.
@pytest.mark.parametrize("gold", ["18", "-3", "18.0", "-0", "-0.0", "12345678901234567890", "1.50", "0.0001"])
def test_a_number_as_gold_is_the_text_that_python_makes_of_it(open_page, gold: str) -> None:
    page = open_page()
    page.evaluate("text => load(text)", f'{{"completion": "a", "gold": {gold}}}')
    assert page.evaluate("state.groups[0].gold") == str(json.loads(gold))


def test_a_gold_of_several_lines_stays_as_it_is(open_page) -> None:
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


# ---- Languages


def test_languages(open_page) -> None:
    page = open_page()
    assert page.evaluate("document.documentElement.lang") == "en" and page.title() == "Reward calculator · grpo"
    page.get_by_role("button", name="中文").click()
    assert page.evaluate("document.documentElement.lang") == "zh-CN" and page.title() == "奖励计算器 · grpo"
    assert page.locator("h1").inner_text() == "奖励计算器"
    assert reasons(page, "strict_format")[0] == "与格式完全一致；</answer> 后没有换行：允许"
    page.reload()
    assert page.locator("h1").inner_text() == "奖励计算器"  # remembered
    page.goto(f"{PAGE.as_uri()}?lang=en")
    assert page.locator("h1").inner_text() == "Reward calculator"
    assert open_page("?lang=zh").locator("h1").inner_text() == "奖励计算器"
    assert open_page(locale="zh-CN").locator("h1").inner_text() == "奖励计算器"
    assert open_page("?lang=fr").locator("h1").inner_text() == "Reward calculator"


def test_a_language_asked_for_gives_way_to_the_button(open_page) -> None:
    page = open_page("?lang=zh")
    page.get_by_role("button", name="English").click()
    page.reload()
    assert page.locator("h1").inner_text() == "Reward calculator"


def test_without_storage(browser) -> None:
    context = browser.new_context(locale="en-US")
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(PAGE.as_uri())
    page.get_by_role("button", name="中文").click()
    assert page.locator("h1").inner_text() == "奖励计算器" and totals(page)[0] == 4.0 and not errors
    context.close()


# Names that are the same in every language.
NAMES_KEPT = "|".join(
    [r"grpo/\w+\.py", "grpo", *KINDS, r"(?:strict|soft)_\n?format", "default", "verbatim", r"str\.isdigit", *TAGS]
    + [
        "TRL",
        "JSONL?",
        "ASCII",
        "Parquet",
        "MB",
        "English",
        '"completion"',
        '"completion"',
        '"gold"',
        "“completion”",
        "“gold”",
    ]
)


def test_every_string_in_both_languages(open_page) -> None:
    page = open_page("?lang=zh")
    said = page.evaluate(
        """() => {
          const any = { answer: "18", gold: "18", tag: "<answer>", times: 2, tags: 3, charged: 12, toString: () => "7", toLocaleString: () => "7" };
          return Object.entries(STRINGS).map(([key, both]) => [key, both.map((text, i) => {
            language = i;
            return typeof text === "function" ? text(any, any, any) : text;
          })]);
        }"""
    )
    assert len(said) > 100
    same = {"stack_default", "stack_verbatim"}
    han = "[\u3400-\u9fff]"
    for key, (english, chinese) in said:
        assert english and chinese and (english != chinese or key in same), key
        assert not re.search("undefined|NaN|object", english + chinese), key
        assert key == "other_language" or not re.search(f"{han}|[，。；：（）、]", english), key
        if key in same or key in ("other_language", "parquet"):
            continue
        # Full-width punctuation, a space between Chinese and Latin or digits, and no word left over.
        assert re.search(f"{han}|[，。；：、]", chinese), key
        assert not re.search(
            f"{han}[,;:!?()]|[,;:!?()]{han}|{han}[A-Za-z0-9<]|[A-Za-z0-9>%]{han}| [，。；：]|[，。；：] ", chinese
        ), chinese
        assert not re.search("[A-Za-z]{2,}", re.sub(NAMES_KEPT, "", chinese)), chinese
    # Every reason that a reward can give is among them.
    given = page.evaluate(
        "cases => [0, 1].map((of) => { language = of; return cases.map((each) => Object.values(REWARDS).map(([reward]) => reason(reward(...each)))); })",
        [list(case) for case in many()[:3000]],
    )
    assert not any("undefined" in text for rows in given for row in rows for text in row)


def test_no_english_is_left_in_chinese(open_page) -> None:
    page = open_page("?lang=zh")
    for tab, examples in (("one", EXAMPLES), ("group", ["mixed", "trap", "right", "wrong"])):
        page.locator(f"#tab-{tab}").click()
        for name in examples:
            page.locator(f"[data-t=eg_{name}]").click()
            text = page.evaluate(
                "() => { document.querySelectorAll('.mirror, #question').forEach((each) => (each.hidden = true)); return document.body.innerText; }"
            )
            left = re.sub(r"“[^”]*”", "", re.sub(NAMES_KEPT, "", text))
            assert not re.search("[A-Za-z]{2,}", left), re.findall("[A-Za-z ]{2,}", left)
        labels = page.evaluate("[...document.querySelectorAll('[aria-label]')].map((each) => each.ariaLabel)")
        assert all(re.search("[\u3400-\u9fff]", label) for label in labels), labels


# ---- Links


def test_a_link_holds_the_state(open_page) -> None:
    page = open_page()
    fill(page, "#completion-field", "思考 <answer>5</answer>\ud800 😀\x00")
    page.locator("#gold-field").fill("5")
    page.get_by_label("weight of int, as a number").fill("0.25")
    page.get_by_role("tab", name="The group").click()
    page.locator("[data-t=eg_trap]").click()
    page.get_by_label("nothing", exact=True).check()
    page.get_by_role("button", name="Copy link").click()
    page.locator("#message > div").wait_for()
    link = page.url
    assert re.fullmatch(r"[\w-]+", link.partition("#")[2]) and len(link) < 2000
    other = open_page()
    other.goto(link)  # in the same document, as when it is pasted into the address bar
    until(other, "state.tab === 'group'")
    assert other.evaluate("state") == page.evaluate("state")
    fresh = open_page(f"#{link.partition('#')[2]}")
    until(fresh, "state.tab === 'group'")
    assert fresh.evaluate("state") == page.evaluate("state") and verdicts(fresh) == verdicts(page)
    fresh.get_by_role("tab", name="One completion").click()
    assert fresh.evaluate(
        "document.getElementById('completion-field').value === '思考 <answer>5</answer>\\ud800 😀\\0'"
    )
    assert totals(fresh)[0] == 2.125


def test_the_way_back_leads_to_what_an_example_replaced(open_page) -> None:
    page = open_page()
    page.locator("#completion-field").fill("my own")
    page.locator("[data-t=eg_bare]").click()
    until(page, "history.length > 2")
    paused(page)
    assert page.locator("#completion-field").input_value() == "18"
    page.go_back()
    until(page, "document.getElementById('completion-field').value === 'my own'")


def test_the_way_back_from_what_no_link_can_hold(open_page) -> None:
    page = open_page()
    noise = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=60_000))
    page.locator("#completion-field").fill(noise)
    for _ in range(3):  # the same again replaces nothing
        page.locator("[data-t=eg_bare]").click()
    page.locator("[data-t=eg_perfect]").click()
    page.go_back()
    until(page, "document.getElementById('completion-field').value === '18'")
    page.go_back()
    until(page, "document.getElementById('completion-field').value.length === 60000")
    page.go_forward()
    until(page, "document.getElementById('completion-field').value === '18'")


def test_a_link_with_something_behind_it(open_page) -> None:
    from playwright.sync_api import expect

    page = open_page()
    page.locator("#completion-field").fill("my own")
    paused(page)
    fragment = page.evaluate("location.hash")
    for tail in (".", "）", "%20"):
        restored = open_page(fragment + tail)
        expect(restored.locator("#completion-field")).to_have_value("my own")


def test_a_broken_link(open_page) -> None:
    page = open_page()
    fragments = ["#%%%<script>", "#AAAA", "#x"]
    for given in ([1], {"tab": "one", "stack": "<img>"}, None):
        fragments.append(page.evaluate("(given) => pack(given)", given))
    fragments.append(page.evaluate("pack('x'.repeat(5e6))"))  # small as a link, and more than a page should hold
    page.locator("#completion-field").fill("my own " + "yz" * 20)
    paused(page)
    whole = page.evaluate("location.hash")
    for fragment in [whole[: len(whole) // 2], *fragments]:
        page.evaluate("(fragment) => { message(''); location.hash = fragment; }", fragment)
        page.get_by_text("The link's content cannot be read").wait_for()
        assert totals(page) and page.locator("#completion-field").input_value().startswith("my own")
    page.close()
    page = open_page(fragments[-1])
    page.get_by_text("The link's content cannot be read").wait_for()
    assert totals(page)[0] == 4.0 and page.evaluate("location.hash") == ""


def test_too_much_for_a_link(open_page) -> None:
    page = open_page()
    noise = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=60_000))
    page.locator("#completion-field").fill(noise)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("This is too much for a link").wait_for()
    assert "#" not in page.url


# ---- What comes from others

HOSTILE = [
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "</textarea></script><svg onload=alert(1)><answer>1</answer>",
    "lone \ud800 surrogates \udfff, and \udc00\ud800 the wrong way round <answer>\ud83d</answer>",
    "a NUL\x00, an escape \x1b[31m, and a right-to-left override\u202e <answer>1</answer>",
    "{{ 1 + 1 }} ${alert(1)} javascript:alert(1) __proto__ constructor",
]


def test_hostile_text_stays_text(open_page) -> None:
    page = open_page("?lang=en")
    title = page.title()
    for text in HOSTILE:
        for field in ("#completion-field", "#gold-field"):
            fill(page, field, text)
        assert len(totals(page)) == 2
    rows = [{"completion": text, "gold": gold, "question": text} for gold in HOSTILE[:2] for text in HOSTILE]
    page.evaluate(DROP, ["<img src=x onerror=alert(1)>.jsonl", "\n".join(map(json.dumps, rows))])
    page.get_by_text("10 completions in 10 groups loaded.").wait_for()
    for which in range(10):
        page.locator("#which").select_option(str(which))
        shown = "text => document.getElementById('question').textContent === JSON.parse(text)"
        assert page.evaluate(shown, json.dumps(HOSTILE[which % 5]))
    page.evaluate(DROP, ["<img src=x onerror=alert(1)>.parquet", "PAR1"])
    page.get_by_text("Parquet is not read here").wait_for()
    page.evaluate(DROP, ["broken.jsonl", '{"completion": "<img src=x onerror=alert(1)>'])
    page.get_by_text("Line 1 is not JSON").wait_for()
    paused(page)
    again = open_page(page.evaluate("location.hash"))
    until(again, "state.groups.length === 10")
    assert again.evaluate("state") == page.evaluate("state")
    for each in (page, again):
        assert each.locator("img, svg, script:not(#scoring):not(#page)").count() == 0 and each.title() == title


# ---- How it feels

PRESSED = """() => {
  window.pressed = [];
  addEventListener("input", ({ timeStamp }) => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => pressed.push(performance.now() - timeStamp);
    port2.postMessage(0);
  }), true);
}"""


@pytest.mark.parametrize(
    ("tab", "sentence"),
    [
        ("one", "Tom has 3 boxes of 6 pens, so 3 * 6 = 18.\n"),
        ("group", "汤姆有三盒笔，每盒六支。"),
        ("one", "</reasoning><answer>"),
    ],
    ids=["lines", "group-chinese", "tags"],
)
def test_a_key_at_200_000_characters(open_page, tab: str, sentence: str) -> None:
    """From the key to the painted page, in milliseconds; keys follow each other fast, and then with pauses for the tint."""
    page = open_page()
    text = f"<reasoning>{sentence * (200_000 // len(sentence))}</reasoning>\n<answer>\n18\n</answer>"
    page.evaluate(
        "([tab, text]) => { state.tab = tab; state.one.completion = text; state.groups = [prompt_of([text, '18', '19'])]; show(); }",
        [tab, text],
    )
    field = page.locator("#completion-field" if tab == "one" else ".card textarea").first
    field.focus()
    page.evaluate(PRESSED)
    page.wait_for_timeout(800)
    for pause, presses in ((40, 12), (450, 3)):
        for _ in range(presses):
            page.keyboard.press("x")
            page.wait_for_timeout(pause)
    until(page, "pressed.length >= 15")
    times = sorted(page.evaluate("pressed"))
    print(f"{tab} {sentence[:12]!r}: median {times[len(times) // 2]:.1f} ms, largest {times[-1]:.1f} ms")
    assert times[len(times) // 2] < 50
    assert len(field.input_value()) == len(text) + 15


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [1280, 1024, 390])
def test_nothing_jumps_while_one_types(open_page, language: str, width: int) -> None:
    page = open_page(f"?lang={language}", viewport={"width": width, "height": 900})
    text = "<reasoning>\nTom has 3 * 6 pens.\n</reasoning>\n<answer>\n18.5 pens, 1,0800\n</answer>\nI hope this helps!"
    script = """([field, text, watched]) => {
      const of = document.querySelector(field), seen = new Set();
      for (let end = 0; end <= text.length; end++) {
        of.value = text.slice(0, end);
        of.dispatchEvent(new Event("input"));
        const boxes = [...document.querySelectorAll(watched)].map((each) => each.getBoundingClientRect());
        seen.add(JSON.stringify([boxes.map(({ left, top, width }) => [left, top, width]), document.documentElement.scrollWidth]));
      }
      return [...seen];
    }"""
    page.locator("#gold-field").fill("a gold answer of many WWWWWWWWWWWWWWWWWW words")
    for stack in ("both", "default", "verbatim"):
        page.locator("#tab-one").click()
        page.locator(f"#stack input[value={stack}]").check()
        assert (
            len(page.evaluate(script, ["#completion-field", text, "#scores tr, #scores td, #gold-field, footer"])) == 1
        )
        page.locator("#tab-group").click()
        seen = page.evaluate(
            script,
            [".card textarea", text, ".panel > *, .group td, .shares dd, .card, .card dd, .card dd span, footer"],
        )
        assert len(seen) == 1
        assert json.loads(seen[0])[1] <= width


def test_by_keyboard_alone(open_page) -> None:
    page = open_page()

    def tab_to(kind: str, name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            assert not page.evaluate("document.activeElement.closest('[aria-hidden=true]')")
            if page.evaluate(
                "(({ type, ariaLabel, textContent }) => [type, ariaLabel || textContent])(document.activeElement)"
            ) == [kind, name]:
                return
        raise AssertionError(f"{name} is not reached")

    page.locator("#completion-field").fill("x\n" * 200)  # so much that it scrolls
    page.evaluate("document.activeElement.blur()")
    tab_to("radio", "")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("state.stack") == "verbatim"
    tab_to("range", "weight of int")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("state.weights[1]") == 1.05
    tab_to("button", "One completion")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("state.tab") == "group" and page.evaluate("document.activeElement.id") == "tab-group"
    tab_to("textarea", "Completion 1")
    page.keyboard.type("18")
    tab_to("button", "Remove completion 4")
    page.keyboard.press("Enter")
    assert page.evaluate("state.groups[0].completions.length") == 3
    tab_to("button", "Add a completion")
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.ariaLabel") == "Completion 4"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_axe_finds_nothing(open_page, language: str, scheme: str) -> None:
    axe = Path(str(files("axe_playwright_python").joinpath("axe.min.js"))).read_text(encoding="utf-8")
    page = open_page(f"?lang={language}", color_scheme=scheme, bypass_csp=True)
    page.evaluate(axe)
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    for tab, width in (("one", 1280), ("one", 390), ("group", 390), ("group", 1280)):
        page.set_viewport_size({"width": width, "height": 900})
        page.locator(f"#tab-{tab}").click()
        page.evaluate(DROP, ["x.parquet", ""])  # a message, shown
        page.locator("#message > div").wait_for()
        found = page.evaluate("axe.run(document, { resultTypes: ['violations', 'incomplete'] })")
        assert not found["violations"], json.dumps(found["violations"], indent=1)[:3000]
        assert len(found["passes"]) > 25
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    # What axe cannot see: text upon its tint.
    assert page.evaluate(CONTRAST) >= 4.5
    colours = {name: pair[scheme == "dark"] for name, pair in COLOURS.items()}
    assert (
        page.evaluate(
            "names => Object.fromEntries(names.map((name) => [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name)]))",
            list(colours),
        )
        == colours
    )


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const light = (name) => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(--${name})`;
    canvas.fillStyle = getComputedStyle(probe).color;
    probe.remove();
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ink = light("ink");
  return Math.min(...["tag", "answer", "charged", "well"].map((name) => {
    const [low, high] = [ink, light(name)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }));
}"""


def test_less_motion(open_page) -> None:
    page = open_page(reduced_motion="reduce")
    page.locator("#tab-group").click()
    assert page.evaluate("getComputedStyle(document.querySelector('.shares i')).transitionProperty") == "none"
