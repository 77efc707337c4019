"""Layout that does not jump, the keyboard alone, contrast, and reduced motion."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from grpo.reports.figures import COLOURS
from tests.helpers.calculator import DROP


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [1280, 1024, 390])
def test_the_layout_does_not_jump_while_typing(open_page, language: str, width: int) -> None:
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


def test_by_keyboard_only(open_page) -> None:
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
    # axe does not check text on its tint.
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


def test_reduced_motion(open_page) -> None:
    page = open_page(reduced_motion="reduce")
    page.locator("#tab-group").click()
    assert page.evaluate("getComputedStyle(document.querySelector('.shares i')).transitionProperty") == "none"
