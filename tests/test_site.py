"""The site of docs/: built without a warning, complete, and readable from a folder without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The site, as `make docs` builds it: a warning, as of a link without a target, fails."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    return folder


def test_a_page_has_the_lists_tables_and_blocks_of_its_source(site: Path) -> None:
    """The Markdown of MkDocs differs from GitHub's: without a blank line before it, a list is a paragraph."""
    for page in PAGES:
        article = re.findall(r"<article.*?</article>", (site / f"{page.stem}.html").read_text(), re.DOTALL)[0]
        text = page.read_text(encoding="utf-8")
        source = MarkdownIt().enable("table").render(text)
        tags = ["<h2", "<img"]
        if "\n::: " not in text:  # where docstrings are inserted, there are more of the others
            tags += ["<li", "<tr", "<td", "<pre", "<blockquote"]
        for tag in tags:
            assert article.count(tag) == source.count(tag), (page.name, tag)


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"?([^\s\">]+)", page.read_text())
        loaded += re.findall(r"<link[^>]+href=\"?([^\s\">]+)", page.read_text())
        assert [address for address in loaded if "//" in address] == [], page.name


def test_what_is_public_is_described(site: Path) -> None:
    described = (site / "reference.html").read_text()
    for name in (
        "grpo.compose",
        "grpo.train.run",
        "grpo.load_run",
        "grpo.rewards.reward",
        "grpo.config.schema.Config",
        "grpo.config.schema.ModelConfig",
    ):
        assert f'id="{name}"' in described, name


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_the_search_finds_from_a_folder(site: Path, browser, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, requests, complaints = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for name in ("index", "coming-from", "reference", "source/conf/config.yaml"):
        page.goto((site / f"{name}.html").as_uri())
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
    page.goto((site / "index.html").as_uri())
    if width < 1000:
        page.locator("label[for=__search]").first.click()
    page.locator("input[name=query]").click()
    page.locator("input[name=query]").press_sequentially("phantom")
    found = page.locator(".md-search-result__link[href*='phantom-advantage.html']").first
    found.wait_for(state="attached")
    assert not complaints
    assert all(url.startswith((site.as_uri(), "data:", "blob:")) for url in requests), requests
    context.close()
