"""The documentation names files, functions, tests and lines of code that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    paths = re.findall(r"`((?:grpo|tests|conf|scripts|docs)/[\w./-]+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


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
