"""The second tab: a group of completions, their advantages, and the share of each reward."""

import numpy as np
import pytest

from grpo.rewards.advantages import attribute
from grpo.rewards.estimators import batch_std, group_std, no_scaling
from tests.helpers.calculator import advantages, by_python, reasons, until, verdicts
from tests.helpers.reward_tables import PERFECT, answered


def test_a_group_is_edited(open_page) -> None:
    page = open_page()
    page.get_by_role("tab", name="The group").click()
    page.get_by_label("default", exact=True).check()
    assert verdicts(page) == ["1 of 4 is right; 49.0% of the advantage comes from correctness."]
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
    for estimator, label in (
        (group_std, "the group's std"),
        (batch_std, "the batch's std"),
        (no_scaling, "nothing"),
    ):
        page.get_by_label(label, exact=True).check()
        split = attribute(scores, np.ones(5), 4, estimator)
        assert advantages(page) == pytest.approx(split.advantages, abs=1e-9)
        shares = [float(cell.get_attribute("data-value")) for cell in page.locator(".shares dd[data-value]").all()]
        assert shares == pytest.approx(split.shares(), abs=1e-9)
        assert ("the batch is the group" in page.locator("#note-group").inner_text()) == (estimator is batch_std)
    assert page.locator(".facts b").all_inner_texts() == [
        "2 / 4",
        f"{scores.sum(1).mean():.3f}".rstrip("0"),
        f"{scores.sum(1).std(ddof=1):.3f}",
    ]
    page.locator("#group-gold").fill("19")
    assert verdicts(page)[0].startswith("None of the 4 is right, so correctness distinguishes nothing")


def test_why_an_answer_is_wrong(open_page) -> None:
    page = open_page()
    for answer, why in (
        ("16 or 18", "“16 or 18” does not have exactly one number"),
        ("none", "“none” does not have exactly one number"),
        ("19 pens", "“19 pens” is not “18”"),
        ("", "a blank answer is not “18”"),
        ("18 pens", "“18 pens” equals the gold “18”"),
    ):
        page.locator("#completion-field").fill(answered(answer))
        assert reasons(page, "correctness")[0] == why


def test_a_card_retains_its_undo_history_when_others_are_added_and_removed(open_page) -> None:
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
def test_shares_are_visible_while_typing(open_page, width: int, height: int) -> None:
    page = open_page(viewport={"width": width, "height": height})
    page.get_by_role("tab", name="The group").click()
    page.get_by_label("Completion 4", exact=True).press("x")
    in_sight = """() => {
      const inside = ({ top, bottom }) => top >= 0 && bottom <= innerHeight;
      const bars = [...document.querySelectorAll(".track i")].filter((bar) => bar.offsetParent);
      return bars.filter((bar) => inside(bar.getBoundingClientRect())).length;
    }"""
    until(page, f"({in_sight})() === 10")


def test_the_reason_why_a_group_has_no_signal(open_page) -> None:
    page = open_page()
    page.get_by_role("tab", name="The group").click()
    page.locator("[data-t=eg_trap]").click()
    assert verdicts(page) == [
        "No signal: all 4 are right, and no reward distinguishes them. Every advantage is 0, so the policy learns nothing from this group.",
        "Only length is rewarded. All 4 are right, and only xmlcount distinguishes them, by the number of characters that it charges: the fewer, the higher the advantage, whatever the text says.",
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
        == "No signal: only correctness and int would distinguish them, but with weight 0. Every advantage is 0."
    )
    assert (
        weigh(correctness=0.25, int=-1)
        == "No signal: correctness and int distinguish them, but their differences cancel in the total. Every advantage is 0."
    )
    assert (
        weigh(correctness=0, int=1) == "1 of 2 is right, but correctness has no weight: the advantage comes from int."
    )
    assert (
        weigh(int=0, strict_format=0, soft_format=0, xmlcount=0)
        == "No signal: every weight is 0, so nothing is trained."
    )
    page.evaluate(
        "texts => { state.groups[0].completions = texts; show(); }", [PERFECT, PERFECT.replace("18", "17") + "x"]
    )
    assert weigh(xmlcount=1).endswith("right, but correctness has no weight: the advantage comes from xmlcount.")
    page.get_by_role("button", name="Remove completion 2").click()
    assert weigh(correctness=1) == "A single completion cannot be compared: its advantage is 0. Add another."
    assert page.get_by_role("button", name="Remove completion 1").is_disabled()
