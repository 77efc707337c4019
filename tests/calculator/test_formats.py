"""Other answer formats on the page: chosen there, or in a link."""

from tests.helpers.calculator import paused, reasons, totals, until


def test_the_format_is_chosen_on_the_page(open_page) -> None:
    page = open_page()
    page.locator("[data-t=eg_perfect]").click()
    page.get_by_label("\\boxed{}", exact=True).check()
    # Examples follow the format; verbatim knows only its own tags.
    assert page.locator("#completion-field").input_value() == "3 boxes of 6 pens are 3 * 6 = 18 pens.\n\\boxed{18}\n"
    assert totals(page) == [4.0, 0.0] and not page.get_by_label("tag of the answer").is_visible()
    for completion, kind, expected in [
        ("18", "int", "no closed \\boxed{}"),
        ("So \\boxed{17}, no, \\boxed{18}", "correctness", "“18” is the gold answer; the last closed block counts"),
        ("So \\boxed{17}, no, \\boxed{18}", "strict_format", "\\boxed{} occurs 2 times, not once"),
        ("\\boxed{18}", "soft_format", "the reasoning is blank"),
        ("<think>\n</think>\n\\boxed{18}", "soft_format", "the reasoning is blank"),
        ("So \\boxed{18} it is", "strict_format", "text after \\boxed{}"),
        ("So \\boxed{18}.", "strict_format", "exactly the format"),
        ("So \\boxed{18} it is", "xmlcount", "one \\boxed{}; 6 characters after \\boxed{}: −0.006"),
        ("\\boxed{1}\\boxed{18}", "xmlcount", "\\boxed{} 2 times; once is paid"),
    ]:
        page.locator("#completion-field").fill(completion)
        assert reasons(page, kind)[0] == expected
    page.get_by_role("tab", name="The group").click()
    page.locator("[data-t=eg_right]").click()
    assert page.locator("#panels .facts b").first.inner_text() == "4 / 4"
    paused(page)
    restored = open_page(page.evaluate("location.hash"))
    until(restored, "state.format.name === 'boxed'")


def test_the_names_of_the_tags(open_page) -> None:
    page = open_page()
    page.locator("[data-t=eg_perfect]").click()
    page.get_by_label("tag of the reasoning").fill("think")
    assert page.locator("#completion-field").input_value().startswith("<think>\n") and totals(page)[0] == 4.0
    for name in ("answer", "a b", "<x>", ""):
        page.get_by_label("tag of the reasoning").fill(name)
        page.get_by_text("The name of a tag consists of letters").wait_for()
        assert page.evaluate("state.format.reasoning") == "think"
    page.locator("#completion-field").fill("<think>\nwork\n</think>\n18")
    assert page.get_by_label("tag of the reasoning").input_value() == "think"
    assert reasons(page, "correctness")[0] == "no closed <answer> block"
    page.get_by_label("tag of the answer").fill("solution")
    # A text of one's own remains as it is.
    assert page.locator("#completion-field").input_value() == "<think>\nwork\n</think>\n18"
    assert reasons(page, "strict_format")[0] == "<solution> is missing"
    page.get_by_role("button", name="中文").click()
    assert reasons(page, "strict_format")[0] == "缺少 <solution>"
