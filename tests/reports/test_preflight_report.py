"""The page of a preflight: read as text, and opened in a browser without network and JavaScript."""

import re
from pathlib import Path

import pytest

from grpo.forecast.verdict import headline, judge
from grpo.reports.preflight_report import write_preflight_report
from tests.conftest import seen
from tests.helpers.preflight import made_up

RIGHT = "<reasoning>\n2 + 3\n</reasoning>\n<answer>\n5\n</answer>\n"
HOSTILE = "<script>alert(1)</script>\u202e <reasoning>x</reasoning><answer>6</answer>"
PROVENANCE = {
    "model": {"path": "embedded:tiny", "sha256": "0123456789abcdef"},
    "data": {"train": {"n": 2000, "sha256": "0"}, "held_out": {"n": 256, "sha256": "1"}},
    "hardware": {"threads": 2},
    "code": {"revision": "fedcba9876543210", "clean": True},
    "versions": {"torch": "2.13"},
}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A page with warnings, notes and a wrong completion above a right one."""
    forecast = made_up([[RIGHT, HOSTILE, "", "5"] * 4] * 6, "rewards.xmlcount=-8")
    folder = tmp_path_factory.mktemp("asked")
    return write_preflight_report(
        folder / "preflight.html", forecast, judge(forecast), "python -m grpo.preflight", PROVENANCE
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(page: Path, browser, width: int, scheme: str) -> None:
    shown = seen(browser, page, width, scheme, {"solve_rates", "groups", "length"}, 150)
    for text in ("What to change", "Will there be a signal?", "Which reward will drive it?", "To ask again"):
        assert shown.get_by_text(text, exact=False).first.is_visible()


def test_the_content_of_the_page(page: Path) -> None:
    text = page.read_text().replace("\N{NO-BREAK SPACE}", " ")
    forecast = made_up([[RIGHT, HOSTILE, "", "5"] * 4] * 6, "rewards.xmlcount=-8")
    advice = judge(forecast)
    assert {"wrong_outscores_right", "reward_opposes_total"} <= {each.cause for each in advice}
    assert headline(forecast, advice) in text
    assert all(each.change in text for each in advice)
    assert "<script" not in text and "\u202e" not in text and "&lt;script&gt;" in text
    assert "http:" not in re.sub(r'xmlns(:\w+)?="http://[^"]+"', "", text) and "https:" not in text
    assert "Wrong above right" in text and "16 (num_generations)" in text
    assert "embedded:tiny (0123456789)" in text and "revision fedcba9876" in text
