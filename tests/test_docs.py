"""The documentation names files, functions, tests and lines of code that exist."""

import ast
import os
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG", "examples/README")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_images_and_paths_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [urlsplit(link) for link in links_of(text)]
    inside = [link for link in links if not link.scheme and not link.netloc]
    missing = [link.path for link in inside if not (page.parent / link.path).exists()]
    for link in inside:
        target = (page.parent / link.path) if link.path else page
        if link.fragment and target.exists() and link.fragment not in headings_of(target):
            missing.append(link.geturl())
    paths = re.findall(r"`((?:grpo|tests|conf|scripts|docs|examples|notebooks)/[\w./-]+)`", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def links_of(text: str) -> list[str]:
    """The addresses of links and images of a page, without those in code."""
    tokens = MarkdownIt().enable("table").parse(text)
    nodes = [child for token in tokens for child in token.children or []]
    found = [node.attrs.get("href") or node.attrs.get("src") for node in nodes if node.type in ("link_open", "image")]
    return [str(address) for address in found]


def headings_of(page: Path) -> set[str]:
    """The anchors that GitHub and the site give to the headings of a page."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    anchors: Counter[str] = Counter()
    found = set()
    for before, inline in pairwise(tokens):
        if before.type == "heading_open":
            title = "".join(child.content for child in inline.children or [])
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            found.add(f"{slug}-{anchors[slug]}" if anchors[slug] else slug)
            anchors[slug] += 1
    return found


def test_a_broken_link_image_or_anchor_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One, two\n\n## `a` b\n\n## `a` b\n")
    text = "[good](other.md#a-b-1) [bad](other.md#c) ![image](none.png) `[code](none.md)` [web](https://example.org)"
    page = tmp_path / "page.md"
    page.write_text(text)
    assert links_of(text) == ["other.md#a-b-1", "other.md#c", "none.png", "https://example.org"]
    assert headings_of(tmp_path / "other.md") == {"one-two", "a-b", "a-b-1"}
    with pytest.raises(AssertionError, match=r"none\.png.*other\.md#c"):
        test_links_images_and_paths_lead_to_files_and_headings(page)


def test_every_page_is_listed_once_under_its_title_and_says_what_it_is_for() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[(.+)\]\((.+)\)$", index, re.MULTILINE)
    titles = {}
    for page in PAGES:
        title, blank, first = page.read_text(encoding="utf-8").split("\n")[:3]
        if page.parent.name == "docs":
            assert title.startswith("# ") and not blank and first.startswith("This page "), page.name
        titles[os.path.relpath(page, ROOT / "docs")] = title.removeprefix("# ")
    del titles["index.md"], titles["../README.md"]
    assert sorted(listed) == sorted((title, path) for path, title in titles.items())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(r"test_\w+(?=\.py)|(?<=::)test_\w+", page.read_text(encoding="utf-8")))
    files = {path.stem for path in ROOT.glob("tests/**/test_*.py")}
    functions = {
        name
        for path in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    known = files | functions
    assert not [name for name in named if not any(each.startswith(name) for each in known)]


def test_how_it_works_shows_the_source() -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        before = text[: text.index(block)]
        file = ROOT / re.findall(r"\]\(\.\./(grpo/[\w/]+\.py)\)", before)[-1]
        functions = source_by_function(file)
        (found,) = [name for name, source in functions.items() if block in source]
        named = any(f"`{name}`" in before for name in found.split("."))
        assert named, f"{found} is not named above its lines"
    for path, function in re.findall(r"\]\(\.\./(grpo/[\w/]+\.py)\),\s+`(\w+)`", text):
        assert any(name.endswith(function) for name in source_by_function(ROOT / path)), (path, function)


def source_by_function(file: Path) -> dict[str, str]:
    """The source of each function, `Class.method` for a method, without comment lines."""
    text = file.read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(text).body:
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for part in parts:
            if isinstance(part, ast.FunctionDef):
                lines = text.splitlines()[part.lineno - 1 : part.end_lineno]
                found[prefix + part.name] = "\n".join(line for line in lines if not line.strip().startswith("#")) + "\n"
    return found
