"""Untrusted text stays text, and long text stays fast."""

import json

import pytest

from tests.helpers.calculator import DROP, fill, paused, totals, until

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
    page.get_by_text("Parquet files are not supported here").wait_for()
    page.evaluate(DROP, ["broken.jsonl", '{"completion": "<img src=x onerror=alert(1)>'])
    page.get_by_text("Line 1 is not JSON").wait_for()
    paused(page)
    again = open_page(page.evaluate("location.hash"))
    until(again, "state.groups.length === 10")
    assert again.evaluate("state") == page.evaluate("state")
    for each in (page, again):
        assert each.locator("img, svg, script:not(#scoring):not(#page)").count() == 0 and each.title() == title


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
