"""The first tab: scores while typing, weights, examples, reasons, and tinted tags."""

import re

import pytest

from grpo.tasks.answer_format import DEFAULT_FORMAT
from tests.helpers.calculator import EXAMPLES, by_python, reasons, totals, typed, until
from tests.helpers.random_completions import many_completions
from tests.helpers.reward_tables import PERFECT, answered


def test_scores_update_while_typing(open_page) -> None:
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
    # Read by screen readers when typing pauses, not after every key.
    until(page, "document.getElementById('said').textContent.startsWith('default: total 1.499, of at most 4.0.')")


def test_weights(open_page) -> None:
    page = open_page()
    page.locator("[data-t=eg_perfect]").click()
    page.get_by_label("weight of correctness, as a number").fill("0.5")
    assert totals(page) == [3.0, 2.5] and page.get_by_label("weight of correctness", exact=True).input_value() == "0.5"
    assert page.locator("#scores tfoot small").all_inner_texts()[1:] == ["of at most 3.0", "of at most 2.5"]
    page.get_by_label("weight of correctness", exact=True).press("ArrowRight")
    assert page.get_by_label("weight of correctness, as a number").input_value() == "0.55"
    # The best score of a penalty is 0; verbatim's charge for length has no bound.
    page.get_by_label("weight of xmlcount, as a number").fill("-1")
    assert page.locator("#scores tfoot small").all_inner_texts()[1:] == ["of at most 2.6", "without an upper bound"]
    page.get_by_label("weight of xmlcount, as a number").fill("")
    page.get_by_label("weight of xmlcount, as a number").blur()
    assert page.get_by_label("weight of xmlcount, as a number").input_value() == "-1"
    page.get_by_role("button", name="All 1.0").click()
    assert totals(page) == [4.0, 3.5]


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
        ("a\n</answer>", "xmlcount", "1 of 4 tags alone on their lines; no line break after </answer>: allowed", "1 of 4 tags with their line breaks; no line break after </answer>: one character is refunded, 0.001"),
        ("<answer>8</answer>\nab\n</answer>\nabcd", "xmlcount", "0 of 4 tags alone on their lines; 4 characters after </answer>: −0.004; never below 0", "1 of 4 tags with their line breaks; 4 characters charged: −0.004"),
        ("\n<answer>\n8", "xmlcount", "1 of 4 tags alone on their lines", "1 of 4 tags with their line breaks; no </answer> between line breaks: the whole text is charged, −0.011"),
        (PERFECT + "x" * 700, "xmlcount", "4 of 4 tags alone on their lines; 700 characters after </answer>: −0.7; never below 0", "4 of 4 tags with their line breaks; 1,400 characters charged, counted twice: −1.4"),
    ]:  # fmt: skip
        page.locator("#completion-field").fill(completion)
        assert reasons(page, kind) == [default, verbatim]


def test_tinted_ranges(open_page) -> None:
    page = open_page()
    found = page.evaluate(
        """texts => texts.map((text) => ["default", "verbatim"].map((stack) => {
          const { tags, answer, charged } = spans(stack, text);
          return [tags.map((span) => text.slice(...span)), answer && text.slice(...answer), text.slice(...charged)];
        }))""",
        [text for text, _ in many_completions()[:2000]],
    )
    for (text, _), (default, verbatim) in zip(many_completions()[:2000], found, strict=True):
        tail = text.rpartition("</answer>")[2].removeprefix("\n") if "</answer>" in text else ""
        assert default == [re.findall("|".join(DEFAULT_FORMAT.tags), text), DEFAULT_FORMAT.extract_answer(text), tail]
        assert verbatim[1] == text.split("<answer>")[-1].split("</answer>")[0].strip()
    tinted = "() => MARKS.map((name) => Array.from(highlights[name], ({ startContainer, startOffset, endOffset }) => startContainer.data.slice(startOffset, endOffset)))"
    page.locator("[data-t=eg_chatter]").click()
    assert page.evaluate(tinted) == [
        list(DEFAULT_FORMAT.tags),
        ["18"],
        ["I hope this helps! Let me know if you have any other questions."],
    ]
    page.locator("[data-t=eg_unbroken]").click()
    page.get_by_label("verbatim", exact=True).check()
    assert page.evaluate(tinted)[2] == [page.locator("#completion-field").input_value()]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_tint_is_under_its_text(open_page, width: int) -> None:
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
    for text in [*long, *(text for text, _ in many_completions()[:30])]:
        assert page.evaluate(script, text) == [0, 0, 0], repr(text[:80])
