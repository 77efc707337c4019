"""The pages of the site that are not in docs/: hooks of MkDocs, which `make docs` runs (mkdocs.yml).

docs/ is written to be read in the repository, where a page may link to any file. On the site, the navigation is made
from docs/index.md, each file outside docs/ that a page links to becomes a page below source/, and links lead there.
"""

import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
FENCE = "`````"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sh": "bash"}


def github_slug(title: str, separator: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> None:
    """Take the navigation from docs/index.md: its sections, with the part of each title before the colon."""
    nav: list[Any] = [{"Documentation": "index.md"}]
    for line in (ROOT / "docs" / "index.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            nav.append({line.removeprefix("## "): []})
        elif match := re.fullmatch(r"- \[(.+)\]\((.+)\)", line):
            title, path = match.groups()
            (section,) = nav[-1].values()
            section.append({title.partition(":")[0]: site_path(posixpath.normpath(f"docs/{path}"))})
    config.nav = nav


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files and folders outside docs/ that pages link to, and those that these link to."""
    waiting = [path for page in sorted((ROOT / "docs").glob("*.md")) for path in links_of(f"docs/{page.name}")]
    while waiting:
        path = waiting.pop()
        if path.startswith("docs/") or not (ROOT / path).exists() or files.get_file_from_path(site_path(path)):
            continue
        files.append(File.generated(config, site_path(path), content=page_of(path)))
        waiting += links_of(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change the links of a page so that they lead to pages of the site."""
    origin = repository_path(page.file.src_uri)

    def site_link(match: re.Match[str]) -> str:
        target = resolve(origin, match.group(1))
        if not (ROOT / target).exists():
            return match.group(1)  # MkDocs warns
        return posixpath.relpath(site_path(target), posixpath.dirname(page.file.src_uri) or ".")

    return "".join(part if is_code else LINK.sub(site_link, part) for part, is_code in split_code(markdown))


def split_code(markdown: str) -> list[tuple[str, bool]]:
    """The parts of a page, each with whether it is code: fenced, or in backticks."""
    parts = re.split(r"(^(`{3,}).*?^\2$|(?<!`)`[^`\n]+`)", markdown, flags=re.DOTALL | re.MULTILINE)
    return [(part, index % 3 == 1) for index, part in enumerate(parts) if index % 3 < 2]


@cache
def links_of(path: str) -> list[str]:
    """The paths in the repository that a page of Markdown, or a folder, links to."""
    file = ROOT / path
    if file.is_dir():
        return [f"{path}/{child.name}" for child in listed(file)]
    if file.suffix != ".md":
        return []
    text = file.read_text(encoding="utf-8")
    return [resolve(path, link) for part, is_code in split_code(text) if not is_code for link in LINK.findall(part)]


def listed(folder: Path) -> list[Path]:
    """The files of a folder that its page lists."""
    return sorted(child for child in folder.iterdir() if child.is_file() and not child.name.startswith("."))


def resolve(page: str, link: str) -> str:
    """The path in the repository that a link of a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(link)))


def site_path(path: str) -> str:
    """The path on the site of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def repository_path(uri: str) -> str:
    """The reverse of `site_path`."""
    if not uri.startswith("source/"):
        return f"docs/{uri}"
    path = uri.removeprefix("source/")
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def page_of(path: str) -> str:
    """The text of the page about a file or a folder outside docs/."""
    file = ROOT / path
    if file.suffix == ".md":
        return file.read_text(encoding="utf-8")
    # The search finds settings, but not the source code.
    hidden = "---\nsearch:\n  exclude: true\n---\n" if file.suffix == ".py" or file.is_dir() else ""
    head = f"{hidden}# {path}\n\n"
    if file.is_dir():
        return head + "".join(f"- [{child.name}]({file.name}/{child.name})\n" for child in listed(file))
    return f"{head}{FENCE}{LANGUAGES.get(file.suffix, 'text')}\n{file.read_text(encoding='utf-8')}{FENCE}\n"
