"""Links that contain the state of the page."""

import random
import re

from tests.helpers.calculator import fill, paused, totals, until, verdicts


def test_a_link_contains_the_state(open_page) -> None:
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


def test_the_back_button_restores_what_an_example_replaced(open_page) -> None:
    page = open_page()
    page.locator("#completion-field").fill("my own")
    page.locator("[data-t=eg_bare]").click()
    until(page, "history.length > 2")
    paused(page)
    assert page.locator("#completion-field").input_value() == "18"
    page.go_back()
    until(page, "document.getElementById('completion-field').value === 'my own'")


def test_the_back_button_restores_a_state_too_long_for_a_link(open_page) -> None:
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


def test_a_link_with_text_appended(open_page) -> None:
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
        page.get_by_text("The content of the link cannot be read").wait_for()
        assert totals(page) and page.locator("#completion-field").input_value().startswith("my own")
    page.close()
    page = open_page(fragments[-1])
    page.get_by_text("The content of the link cannot be read").wait_for()
    assert totals(page)[0] == 4.0 and page.evaluate("location.hash") == ""


def test_a_state_too_long_for_a_link(open_page) -> None:
    page = open_page()
    noise = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=60_000))
    page.locator("#completion-field").fill(noise)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("This is too long for a link").wait_for()
    assert "#" not in page.url
